//! The pairs that a reward model was trained on, as fingerprints in the folder of its weights, so that an
//! evaluation can report an overlap of its set with them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use align_core::error::{Error, Result};
use sha2::{Digest, Sha256};

use crate::data::Row;

/// The file's name in the model's folder.
pub const FILE: &str = "training_pairs.bin";

/// Bytes of a fingerprint: the first half of a SHA-256.
const BYTES: usize = 16;
/// The fingerprint of a pair or a comparison.
pub(crate) type Fingerprint = [u8; BYTES];

/// The pairs of one run, or of several consecutive runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrainedPairs(BTreeSet<Fingerprint>);

impl TrainedPairs {
    /// Reads the pairs of the model in a folder; `None` when there is no such file.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the file is truncated, [`Error::Io`] when it cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let (fingerprints, []) = bytes.as_chunks::<BYTES>() else {
            let what = format!("has {} bytes, expected a multiple of {BYTES}; delete it to do without", bytes.len());
            return Err(Error::invalid(path.display(), what));
        };
        Ok(Some(Self(fingerprints.iter().copied().collect())))
    }

    /// The content of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }

    /// Adds every pair of `rows`.
    pub fn extend(&mut self, rows: &[Row]) {
        self.0.extend(
            rows.iter().flat_map(|row| row.pairs().into_iter().map(|(one, other)| pair_fingerprint(row, one, other))),
        );
    }

    /// Whether a pair was trained on, in either order.
    pub fn contains(&self, row: &Row, one: usize, other: usize) -> bool {
        self.0.contains(&pair_fingerprint(row, one, other))
    }
}

/// The fingerprint of a pair, independent of its order.
pub(crate) fn pair_fingerprint(row: &Row, one: usize, other: usize) -> Fingerprint {
    let mut dialogues = [row.dialogue(one), row.dialogue(other)];
    dialogues.sort();
    fingerprint(&dialogues)
}

/// The fingerprint of dialogues in this order.
fn fingerprint(dialogues: &[Vec<i64>]) -> Fingerprint {
    let mut hash = Sha256::new();
    for dialogue in dialogues {
        hash.update((dialogue.len() as u64).to_le_bytes());
        dialogue.iter().for_each(|token| hash.update(token.to_le_bytes()));
    }
    let mut fingerprint = [0; BYTES];
    fingerprint.copy_from_slice(&hash.finalize()[..BYTES]);
    fingerprint
}

/// The fingerprint of a comparison: its dialogues and their scores.
pub(crate) fn comparison_fingerprint(row: &Row) -> Fingerprint {
    let mut parts: Vec<Vec<i64>> = (0..row.tails.len()).map(|dialogue| row.dialogue(dialogue)).collect();
    parts.extend(row.scores.as_ref().map(|scores| scores.iter().map(|score| score.to_bits() as i64).collect()));
    fingerprint(&parts)
}

//! Which pairs a reward model was trained on: fingerprints beside its weights, so that an evaluation can say how much of its set is
//! not new to the model.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use align_core::error::{Error, Result};
use sha2::{Digest, Sha256};

use crate::data::Row;

/// The file's name, in the model's folder.
pub const FILE: &str = "training_pairs.bin";

/// Bytes of a fingerprint: the first half of a SHA-256.
const BYTES: usize = 16;
/// A fingerprint.
pub(crate) type Print = [u8; BYTES];

/// The pairs of one training, or of several that followed one another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenPairs(BTreeSet<Print>);

impl SeenPairs {
    /// Those of a model's folder; `None` where it has no such file.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the file is cut off, [`Error::Io`] when it cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let (prints, []) = bytes.as_chunks::<BYTES>() else {
            let what = format!("has {} bytes, expected a multiple of {BYTES}; delete it to do without", bytes.len());
            return Err(Error::invalid(path.display(), what));
        };
        Ok(Some(Self(prints.iter().copied().collect())))
    }

    /// What stands in their file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }

    /// Adds every pair of `rows`.
    pub fn extend(&mut self, rows: &[Row]) {
        self.0.extend(rows.iter().flat_map(|row| row.pairs().into_iter().map(|(one, other)| print(row, one, other))));
    }

    /// Whether a pair was seen, whichever of its dialogues was the better one.
    pub fn contains(&self, row: &Row, one: usize, other: usize) -> bool {
        self.0.contains(&print(row, one, other))
    }
}

/// That of a pair, in whichever order.
pub(crate) fn print(row: &Row, one: usize, other: usize) -> Print {
    let mut dialogues = [row.dialogue(one), row.dialogue(other)];
    dialogues.sort();
    print_of(&dialogues)
}

/// That of dialogues, in their order.
fn print_of(dialogues: &[Vec<i64>]) -> Print {
    let mut hash = Sha256::new();
    for dialogue in dialogues {
        hash.update((dialogue.len() as u64).to_le_bytes());
        dialogue.iter().for_each(|token| hash.update(token.to_le_bytes()));
    }
    let mut print = [0; BYTES];
    print.copy_from_slice(&hash.finalize()[..BYTES]);
    print
}

/// Equal for comparisons of the same dialogues that are worth the same, and hardly ever for others.
pub(crate) fn row_print(row: &Row) -> Print {
    let mut parts: Vec<Vec<i64>> = (0..row.tails.len()).map(|dialogue| row.dialogue(dialogue)).collect();
    parts.extend(row.scores.as_ref().map(|scores| scores.iter().map(|score| score.to_bits() as i64).collect()));
    print_of(&parts)
}

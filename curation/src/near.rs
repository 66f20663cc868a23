//! Finds near copies: locality-sensitive hashing of MinHash sketches gives candidates, which are verified by
//! their shingles.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use align_core::error::{Error, Result};
use minhash_rs::prelude::{MinHash, MinHasher};
use twox_hash::XxHash64;

use crate::words::words;

/// The number of consecutive words in a shingle; a shorter text is one shingle.
pub(crate) const SHINGLE_WORDS: usize = 5;
/// The minimum Jaccard similarity of near copies, as a fraction.
pub(crate) const THRESHOLD: (u64, u64) = (4, 5);
/// Texts of similarity s share at least one of 20 bands of 6 with probability 1 − (1 − s⁶)²⁰: 99.8 % at the
/// threshold, 27 % at 0.5.
const BANDS: usize = 20;
const PERMUTATIONS: usize = 120;

/// A text in the form in which near copies are found.
#[derive(Debug)]
pub(crate) struct Sketch {
    /// The hashes of its shingles, sorted, without duplicates.
    shingles: Vec<u64>,
    bands: [u64; BANDS],
}

impl Sketch {
    /// The sketch of normalised texts, concatenated; `None` without words. Sketches with different `setting`s
    /// (system text, tool calls, scores) have no common shingles: such rows are never copies.
    pub(crate) fn of(texts: &[String], setting: &str) -> Option<Self> {
        let seed = if setting.is_empty() { 0 } else { XxHash64::oneshot(0, setting.as_bytes()) };
        let hashes = texts.iter().flat_map(|text| words(text)).map(|word| XxHash64::oneshot(0, word.as_bytes()));
        let hashes: Vec<u64> = hashes.collect();
        if hashes.is_empty() {
            return None;
        }
        let shingle = |words: &[u64]| {
            let bytes: Vec<u8> = words.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            XxHash64::oneshot(seed, &bytes)
        };
        let mut shingles: Vec<u64> = hashes.windows(SHINGLE_WORDS.min(hashes.len())).map(shingle).collect();
        shingles.sort_unstable();
        shingles.dedup();
        let sketch: MinHash<u64, PERMUTATIONS> = shingles.iter().copied().collect();
        Some(Self { bands: sketch.band_hashes::<BANDS>(), shingles })
    }
}

/// An index of texts for near-copy search. Each text takes about 600 bytes in memory; the shingles are in a
/// file.
pub(crate) struct NearIndex {
    /// By band: the latest text with each hash.
    last: Vec<HashMap<u64, u32>>,
    texts: Vec<Text>,
    shingles: File,
    written: u64,
}

/// The end of a chain.
const NONE: u32 = u32::MAX;

struct Text {
    /// By band: the previous text with the same hash, or [`NONE`].
    before: [u32; BANDS],
    /// The offset of its shingles in the file.
    offset: u64,
    num_shingles: u32,
}

impl NearIndex {
    /// An empty index; `shingles` is an empty file, opened for reading and writing.
    pub(crate) fn new(shingles: File) -> Self {
        Self { last: vec![HashMap::new(); BANDS], texts: Vec::new(), shingles, written: 0 }
    }

    /// The number of the most similar text (the first of equal ones) and its similarity; `None` below the
    /// threshold.
    pub(crate) fn find(&self, sketch: &Sketch) -> Result<Option<(u32, f64)>> {
        let mut candidates = Vec::new();
        for (band, hash) in sketch.bands.iter().enumerate() {
            let mut number = self.last[band].get(hash).copied().unwrap_or(NONE);
            while number != NONE {
                candidates.push(number);
                number = self.texts[number as usize].before[band];
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let (mut best, mut most) = (None, THRESHOLD);
        let (mut bytes, num) = (Vec::new(), sketch.shingles.len() as u64);
        for number in candidates {
            let text = &self.texts[number as usize];
            let other = u64::from(text.num_shingles);
            // The sizes alone rule out a higher similarity.
            if num.min(other) * most.1 < most.0 * num.max(other) {
                continue;
            }
            bytes.resize(8 * text.num_shingles as usize, 0);
            self.shingles.read_exact_at(&mut bytes, text.offset).map_err(scratch)?;
            let both = shared(&sketch.shingles, &bytes);
            let either = num + other - both;
            let (here, there) = (both * most.1, most.0 * either);
            if here > there || (here == there && best.is_none()) {
                (best, most) = (Some(number), (both, either));
            }
        }
        Ok(best.map(|number| (number, most.0 as f64 / most.1 as f64)))
    }

    /// Adds a text and returns its number, counted from 0.
    pub(crate) fn add(&mut self, sketch: Option<&Sketch>) -> Result<u32> {
        let number = u32::try_from(self.texts.len()).ok().filter(|number| *number != NONE).ok_or_else(|| {
            Error::Failed("more than 4 billion rows to keep, expected fewer; take the files in parts".to_owned())
        })?;
        let mut text = Text { before: [NONE; BANDS], offset: self.written, num_shingles: 0 };
        if let Some(sketch) = sketch {
            for (band, hash) in sketch.bands.iter().enumerate() {
                text.before[band] = self.last[band].insert(*hash, number).unwrap_or(NONE);
            }
            text.num_shingles = u32::try_from(sketch.shingles.len()).expect("a record has 16 MB");
            let bytes: Vec<u8> = sketch.shingles.iter().flat_map(|shingle| shingle.to_le_bytes()).collect();
            self.shingles.write_all_at(&bytes, self.written).map_err(scratch)?;
            self.written += bytes.len() as u64;
        }
        self.texts.push(text);
        Ok(number)
    }
}

/// The number of `shingles` that are also in `others` (as bytes); both are sorted.
fn shared(shingles: &[u64], others: &[u8]) -> u64 {
    let (others, _) = others.as_chunks::<8>();
    let (mut own, mut count) = (shingles.iter().peekable(), 0);
    for other in others.iter().map(|bytes| u64::from_le_bytes(*bytes)) {
        while own.next_if(|shingle| **shingle < other).is_some() {}
        count += u64::from(own.next_if(|shingle| **shingle == other).is_some());
    }
    count
}

fn scratch(source: std::io::Error) -> Error {
    Error::Failed(format!("the temporary file of shingles: {source}"))
}

//! Near copies: locality-sensitive hashing of MinHash sketches proposes, the shingles themselves decide.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use align_core::error::{Error, Result};
use minhash_rs::prelude::{MinHash, MinHasher};
use twox_hash::XxHash64;

use crate::words::words;

/// Consecutive words in a shingle; a shorter text is one shingle.
pub(crate) const SHINGLE_WORDS: usize = 5;
/// Least Jaccard similarity of near copies, as a fraction.
pub(crate) const THRESHOLD: (u64, u64) = (4, 5);
/// Texts of similarity s meet in one of 20 bands of 6 with probability 1 − (1 − s⁶)²⁰: 99.8 % at the threshold, 27 % at 0.5.
const BANDS: usize = 20;
const PERMUTATIONS: usize = 120;

/// What is kept of a text to find near copies of it.
#[derive(Debug)]
pub(crate) struct Sketch {
    /// Hashes of its shingles, sorted, each once.
    shingles: Vec<u64>,
    bands: [u64; BANDS],
}

impl Sketch {
    /// The sketch of normalised texts, taken as one; none of texts without words. Sketches of another `setting` (a system text,
    /// calls, scores) have nothing in common: a few words there make another row.
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

/// Texts in which near copies are looked for. Of each some 600 bytes are in memory; their shingles are in a file.
pub(crate) struct NearIndex {
    /// By band: the text that came to a place last.
    last: Vec<HashMap<u64, u32>>,
    texts: Vec<Text>,
    shingles: File,
    written: u64,
}

/// No text has this number.
const NONE: u32 = u32::MAX;

struct Text {
    /// By band: the text that came to the same place before, or [`NONE`].
    before: [u32; BANDS],
    /// Where its shingles are.
    offset: u64,
    num_shingles: u32,
}

impl NearIndex {
    /// No texts; `shingles` is an empty file to write to and read from.
    pub(crate) fn new(shingles: File) -> Self {
        Self { last: vec![HashMap::new(); BANDS], texts: Vec::new(), shingles, written: 0 }
    }

    /// The text most like the sketch, the first among equals, by its number, with their similarity. None below the threshold.
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
            // However much the two share, they are not alike enough.
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

    /// Adds a text; its number, which is how many there were.
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

/// How many of the sorted `shingles` are among others, sorted and in bytes.
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
    Error::Failed(format!("the shingles beside the result: {source}"))
}

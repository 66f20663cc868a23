//! Deduplication: keeps the first of several exact or near copies.

use std::collections::HashMap;
use std::fs::File;

use align_core::error::Result;
use align_core::progress::Progress;
use align_data::{RawRow, RowLocation, Stream, meaning_beside_texts, system_text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::near::{NearIndex, SHINGLE_WORDS, Sketch, THRESHOLD};
use crate::words::{content, normalized};
use crate::{CountingSink, FileCounts, Inputs, Reason, Sink};

/// The settings, for reports.
pub fn settings() -> Value {
    json!({
        "normalised": "NFKC, lower case, white space",
        "shingle_words": SHINGLE_WORDS,
        "jaccard": THRESHOLD.0 as f64 / THRESHOLD.1 as f64,
    })
}

/// A row's text in the form that is compared.
struct Compared {
    /// Half of the SHA-256 of the normalised texts, long enough to rule out collisions.
    fingerprint: [u8; 16],
    sketch: Option<Sketch>,
}

/// Keeps every row that is no copy of an earlier kept row. An exact copy has the same normalised text. A near
/// copy has the same system text, tool calls, training marks and scores, and its shingles of five words have
/// a Jaccard similarity of at least 0.8. `scratch` is an empty file for shingles, of eight bytes per word.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] for bad files and rows, and errors of the sink.
pub fn dedup(
    inputs: Inputs<'_>,
    scratch: File,
    sink: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<Vec<FileCounts>> {
    let mut counting = CountingSink::new(sink);
    let mut by_fingerprint: HashMap<[u8; 16], u32> = HashMap::new();
    let mut near = NearIndex::new(scratch);
    let mut locations: Vec<RowLocation> = Vec::new();
    let stream = Stream { files: inputs.files, kind: None, bad_rows: inputs.bad_rows };
    let prepare = |row: &RawRow| {
        let row = row.value()?;
        Ok(compared(&content(&row)?, &system_text(&row).unwrap_or_default(), &meaning_beside_texts(&row)))
    };
    stream.each("dedup", progress, prepare, |row, compared| {
        let compared = match compared {
            Ok(compared) => compared,
            Err(what) => return counting.remove(&row.location, Reason::Bad { what }),
        };
        if let Some(of) = by_fingerprint.get(&compared.fingerprint) {
            let of = locations[*of as usize].to_string();
            return counting.remove(&row.location, Reason::ExactCopy { of });
        }
        if let Some(sketch) = &compared.sketch
            && let Some((of, jaccard)) = near.find(sketch)?
        {
            let of = locations[of as usize].to_string();
            return counting.remove(&row.location, Reason::NearCopy { of, jaccard });
        }
        by_fingerprint.insert(compared.fingerprint, near.add(compared.sketch.as_ref())?);
        counting.keep(&row)?;
        locations.push(row.location);
        Ok(())
    })?;
    Ok(counting.files)
}

fn compared(texts: &[&str], system: &str, meaning: &str) -> Compared {
    let texts: Vec<String> = texts.iter().map(|text| normalized(text)).collect();
    let mut hash = Sha256::new();
    for text in texts.iter().map(String::as_str).chain([meaning]) {
        // The length separates the texts.
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let fingerprint = hash.finalize()[..16].try_into().expect("16 bytes");
    Compared { fingerprint, sketch: Sketch::of(&texts, &format!("{}{meaning}", normalized(system))) }
}

//! Rows without their copies: of copies the first stays.

use std::collections::HashMap;
use std::fs::File;

use align_core::error::Result;
use align_core::progress::Progress;
use align_data::{Place, RawRow, Stream, meaning_beside_texts, system_text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::near::{NearIndex, SHINGLE_WORDS, Sketch, THRESHOLD};
use crate::words::{content, normalized};
use crate::{FileCounts, Inputs, Judged, Reason, Sink};

/// What counts as a copy, for reports.
pub fn settings() -> Value {
    json!({
        "normalised": "NFKC, lower case, white space",
        "shingle_words": SHINGLE_WORDS,
        "jaccard": THRESHOLD.0 as f64 / THRESHOLD.1 as f64,
    })
}

/// A row's text, ready to be compared.
struct Compared {
    /// Half of the SHA-256 of the normalised texts: no two that were ever found have the same.
    fingerprint: [u8; 16],
    sketch: Option<Sketch>,
}

/// Passes on every row but those whose text a row before has: the same after normalisation, or one under the same system text, with the same calls, marks and scores, whose
/// shingles of five words have a Jaccard similarity of 0.8 or more to it. Copies are looked for among the rows that are kept. `scratch` is an empty file for their
/// shingles, eight bytes a word.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] for files and rows that cannot be read; what the sink returns.
pub fn dedup(
    inputs: Inputs<'_>,
    scratch: File,
    sink: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<Vec<FileCounts>> {
    let mut judged = Judged::new(sink);
    let mut by_fingerprint: HashMap<[u8; 16], u32> = HashMap::new();
    let mut near = NearIndex::new(scratch);
    let mut places: Vec<Place> = Vec::new();
    let stream = Stream { files: inputs.files, kind: None, bad_rows: inputs.bad_rows };
    let prepare = |row: &RawRow| {
        let row = row.value()?;
        Ok(compared(&content(&row)?, &system_text(&row).unwrap_or_default(), &meaning_beside_texts(&row)))
    };
    stream.each("dedup", progress, prepare, |row, compared| {
        let compared = match compared {
            Ok(compared) => compared,
            Err(what) => return judged.remove(&row.place, Reason::Bad { what }),
        };
        if let Some(of) = by_fingerprint.get(&compared.fingerprint) {
            let of = places[*of as usize].to_string();
            return judged.remove(&row.place, Reason::ExactCopy { of });
        }
        if let Some(sketch) = &compared.sketch
            && let Some((of, jaccard)) = near.find(sketch)?
        {
            let of = places[of as usize].to_string();
            return judged.remove(&row.place, Reason::NearCopy { of, jaccard });
        }
        by_fingerprint.insert(compared.fingerprint, near.add(compared.sketch.as_ref())?);
        judged.keep(&row)?;
        places.push(row.place);
        Ok(())
    })?;
    Ok(judged.files)
}

fn compared(texts: &[&str], system: &str, meaning: &str) -> Compared {
    let texts: Vec<String> = texts.iter().map(|text| normalized(text)).collect();
    let mut hash = Sha256::new();
    for text in texts.iter().map(String::as_str).chain([meaning]) {
        // With its length, so that texts cannot run into each other.
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let fingerprint = hash.finalize()[..16].try_into().expect("16 bytes");
    Compared { fingerprint, sketch: Sketch::of(&texts, &format!("{}{meaning}", normalized(system))) }
}

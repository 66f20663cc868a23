//! Files to rows: dialogues in ChatML for sft, documents merged for pretraining.

use std::path::PathBuf;

use super::{LmRow, Piece, merge_documents};
use crate::chatml::{ChatFormat, LossOn};
use crate::config::Overlong;
use crate::data::{self, BadRows, Kind, Place, Record};
use crate::error::{Error, Problem, Problems, Result};
use crate::random::{Permutation, Purpose};
use crate::tokenizer::Tokenizer;

/// Rows and what was counted on the way to them.
#[derive(Debug, Default)]
pub struct LmData {
    /// The rows, in file order.
    pub rows: Vec<LmRow>,
    /// Where each row stood; of merged documents, nothing.
    pub places: Vec<Place>,
    /// How many rows each file gave.
    pub file_rows: Vec<usize>,
    /// Rows left out for their length.
    pub dropped: usize,
    /// Rows cut to the limit.
    pub truncated: usize,
    /// Bad rows that `data.bad_rows = "skip"` left out, by name.
    pub skipped: Vec<Problem>,
}

impl LmData {
    /// Tokens in all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(LmRow::len).sum()
    }

    /// Targets in all rows.
    pub fn loss_tokens(&self) -> usize {
        self.rows.iter().map(LmRow::num_loss_tokens).sum()
    }
}

/// Reads dialogues and renders them in ChatML.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped), and for a file of which no row is left.
pub fn chat_rows(
    files: &[PathBuf],
    format: &ChatFormat,
    loss_on: LossOn,
    limit: Option<(usize, Overlong)>,
    bad_rows: BadRows,
) -> Result<LmData> {
    let (mut result, mut problems) = (LmData::default(), Problems::new());
    for file in files {
        let Some(read) = problems.absorb(data::read(std::slice::from_ref(file), Kind::Chat, bad_rows))? else {
            continue;
        };
        result.skipped.extend(read.skipped);
        let (mut dropped, before) = (0, result.rows.len());
        for (place, record) in read.records {
            let Record::Chat(messages) = record else { unreachable!("a chat file gives chat records") };
            let encoded = format.dialogue(&messages, loss_on);
            let (mut tokens, mut mask) = (encoded.tokens, encoded.loss_mask);
            if let Some((max_tokens, overlong)) = limit.filter(|(max_tokens, _)| tokens.len() > *max_tokens) {
                tokens.truncate(max_tokens);
                mask.truncate(max_tokens);
                if overlong == Overlong::Drop || !mask[1..].contains(&true) {
                    dropped += 1;
                    continue;
                }
                result.truncated += 1;
            }
            result.rows.push(LmRow { pieces: vec![Piece::new(tokens, mask)] });
            result.places.push(place);
        }
        result.dropped += dropped;
        result.file_rows.push(result.rows.len() - before);
        problems.absorb(refuse_empty(file, result.rows.len() - before, dropped))?;
    }
    problems.into_result()?;
    Ok(result)
}

/// Reads documents as token lists, one a record, without an end token.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped).
pub fn documents(files: &[PathBuf], tokenizer: &Tokenizer, bad_rows: BadRows) -> Result<(Vec<Vec<i64>>, Vec<Problem>)> {
    let read = data::read(files, Kind::Text, bad_rows)?;
    let tokens = |(_, record)| match record {
        Record::Text(text) => tokenizer.encode(&text),
        _ => unreachable!("a text file gives text records"),
    };
    Ok((read.records.into_iter().map(tokens).collect(), read.skipped))
}

/// Reads documents, shuffles them when asked and merges them to rows of `max_tokens`. With an [`Overlong`], longer documents
/// are dropped or cut first; without, they go on in the next row.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped), and when no row is left.
pub fn text_rows(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    max_tokens: usize,
    overlong: Option<Overlong>,
    shuffle_seed: Option<u64>,
    bad_rows: BadRows,
) -> Result<LmData> {
    let (mut documents, skipped) = documents(files, tokenizer, bad_rows)?;
    let mut result = LmData { skipped, ..LmData::default() };
    if let Some(overlong) = overlong {
        let room = max_tokens - 1; // the end token takes a place
        let long = documents.iter().filter(|document| document.len() > room).count();
        match overlong {
            Overlong::Drop => {
                documents.retain(|document| document.len() <= room);
                result.dropped = long;
            }
            Overlong::Truncate => {
                documents.iter_mut().for_each(|document| document.truncate(room));
                result.truncated = long;
            }
        }
    }
    if let Some(seed) = shuffle_seed {
        let permutation = Permutation::new(documents.len() as u64, seed, Purpose::Order, u64::MAX);
        documents = (0..documents.len())
            .map(|index| std::mem::take(&mut documents[permutation.get(index as u64) as usize]))
            .collect();
    }
    result.rows = merge_documents(documents, tokenizer.special().endoftext, max_tokens);
    result.file_rows = vec![result.rows.len()];
    if let Some(file) = files.first() {
        refuse_empty(file, result.rows.len(), result.dropped)?;
    }
    Ok(result)
}

/// Whether a file holds documents rather than dialogues: `.txt`, or at least one row with `text`.
pub fn is_text(file: &PathBuf) -> bool {
    data::read(std::slice::from_ref(file), Kind::Text, BadRows::Skip).is_ok_and(|rows| !rows.records.is_empty())
}

/// Reads a file's documents, one row each, in pieces of at most `max_tokens`.
///
/// # Errors
/// [`Error::Invalid`] for bad rows.
pub fn document_rows(file: &PathBuf, tokenizer: &Tokenizer, max_tokens: usize) -> Result<LmData> {
    let read = data::read(std::slice::from_ref(file), Kind::Text, BadRows::Error)?;
    let mut result = LmData::default();
    for (place, record) in read.records {
        let Record::Text(text) = record else { unreachable!("a text file gives text records") };
        let merged = merge_documents([tokenizer.encode(&text)], tokenizer.special().endoftext, max_tokens);
        result.rows.push(LmRow { pieces: merged.into_iter().flat_map(|row| row.pieces).collect() });
        result.places.push(place);
    }
    result.file_rows.push(result.rows.len());
    Ok(result)
}

fn refuse_empty(file: &std::path::Path, rows: usize, dropped: usize) -> Result<()> {
    if rows > 0 {
        return Ok(());
    }
    let why = if dropped > 0 {
        format!(
            "no row is left ({dropped} are longer than data.max_tokens), expected at least one; raise data.max_tokens or set data.overlong = \"truncate\""
        )
    } else {
        "no usable row, expected at least one".to_owned()
    };
    Err(Error::invalid(file.display(), why))
}

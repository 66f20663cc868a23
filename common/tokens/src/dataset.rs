//! Rows made on demand from stored sequences: one per dialogue, documents packed into rows of one length, or
//! one row of several pieces per document.

use std::path::Path;
use std::sync::Arc;

use super::tokenize::TokenizedFile;
use super::{LmRow, Piece};
use align_data::RowLocation;

/// The rows of one or several files. Cheap to clone.
#[derive(Clone, Default)]
pub struct LmRows {
    /// The parts, each with the number of rows before it.
    parts: Vec<(usize, Arc<Part>)>,
    len: usize,
}

enum Part {
    Dialogues(TokenizedFile),
    Documents(Documents),
    Merged(Merged),
}

/// Documents, one row each.
struct Documents {
    tokenized: TokenizedFile,
    end: i64,
    max_tokens: usize,
}

/// Concatenated documents, each followed by `end`, cut every `max_tokens`.
pub(super) struct Merged {
    pub(super) sources: Vec<TokenizedFile>,
    /// (source, sequence), in the order in which they are merged.
    pub(super) documents: Vec<(u32, u32)>,
    /// The maximum number of tokens of a document, without its end token.
    pub(super) max_document: usize,
    pub(super) end: i64,
    pub(super) max_tokens: usize,
    /// The end of each document among all tokens.
    ends: Vec<u64>,
    /// Rows without a target, in order.
    empty: Vec<usize>,
    num_targets: u64,
}

impl LmRows {
    /// One row per dialogue of a file.
    pub(super) fn dialogues(tokenized: TokenizedFile) -> Self {
        let len = tokenized.store.len();
        Self { parts: vec![(0, Arc::new(Part::Dialogues(tokenized)))], len }
    }

    /// One row per document of a file, in pieces of at most `max_tokens`.
    pub(super) fn documents(tokenized: TokenizedFile, end: i64, max_tokens: usize) -> Self {
        let len = tokenized.store.len();
        Self { parts: vec![(0, Arc::new(Part::Documents(Documents { tokenized, end, max_tokens })))], len }
    }

    /// Rows of exactly `max_tokens`, except for the last.
    pub(super) fn merged(merged: Merged) -> Self {
        Self { len: merged.len(), parts: vec![(0, Arc::new(Part::Merged(merged)))] }
    }

    /// Appends other rows.
    pub fn append(&mut self, other: Self) {
        self.parts.extend(other.parts.into_iter().map(|(before, part)| (self.len + before, part)));
        self.len += other.len;
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the rows are documents packed to one length.
    pub fn are_merged(&self) -> bool {
        self.parts.iter().any(|(_, part)| matches!(part.as_ref(), Part::Merged(_)))
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A row.
    ///
    /// # Panics
    /// When `index` is out of range.
    pub fn row(&self, index: usize) -> LmRow {
        let (index, part) = self.part(index);
        match part {
            Part::Dialogues(tokenized) => {
                let (tokens, mask) = tokenized.store.slice(index, 0, tokenized.store.length(index));
                LmRow { pieces: vec![Piece::new(tokens, mask)] }
            }
            Part::Documents(Documents { tokenized, end, max_tokens }) => {
                let length = tokenized.store.length(index);
                let (mut tokens, _) = tokenized.store.slice(index, 0, length);
                tokens.push(*end);
                let pieces = tokens.chunks(*max_tokens);
                LmRow { pieces: pieces.map(|tokens| Piece::new(tokens.to_vec(), vec![true; tokens.len()])).collect() }
            }
            Part::Merged(merged) => merged.row(index),
        }
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = LmRow> + '_ {
        (0..self.len).map(|index| self.row(index))
    }

    /// The location of a row in its file; `None` for packed documents.
    pub fn location(&self, index: usize) -> Option<RowLocation> {
        let (sequence, part) = self.part(index);
        let (Part::Dialogues(tokenized) | Part::Documents(Documents { tokenized, .. })) = part else { return None };
        let (index, line) = tokenized.store.row_and_line(sequence);
        Some(RowLocation { file: Arc::clone(&tokenized.file), index, line })
    }

    /// An upper bound of the length of the longest piece.
    pub fn longest_piece(&self) -> usize {
        let of_part = |(_, part): &(usize, Arc<Part>)| match part.as_ref() {
            Part::Dialogues(tokenized) => longest(tokenized),
            Part::Documents(Documents { tokenized, max_tokens, .. }) => (longest(tokenized) + 1).min(*max_tokens),
            Part::Merged(merged) => {
                let longest = merged.sources.iter().map(longest).max().unwrap_or(0);
                (longest.min(merged.max_document) + 1).min(merged.max_tokens)
            }
        };
        self.parts.iter().map(of_part).max().unwrap_or(0)
    }

    /// The number of pieces longer than `limit`, and the length of the longest.
    pub fn longer_than(&self, limit: usize) -> (u64, usize) {
        let mut longer = (0, 0);
        let mut look = |length: usize| {
            if length > limit {
                longer = (longer.0 + 1, longer.1.max(length));
            }
        };
        for (_, part) in &self.parts {
            match part.as_ref() {
                Part::Dialogues(tokenized) => lengths(tokenized).for_each(&mut look),
                Part::Documents(Documents { tokenized, max_tokens, .. }) => {
                    lengths(tokenized).for_each(|length| look((length + 1).min(*max_tokens)));
                }
                Part::Merged(merged) => merged.pieces().for_each(&mut look),
            }
        }
        longer
    }

    /// A hash of every dialogue or document.
    pub fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        let all = self.parts.iter().flat_map(|(_, part)| match part.as_ref() {
            Part::Dialogues(tokenized) | Part::Documents(Documents { tokenized, .. }) => {
                std::slice::from_ref(tokenized)
            }
            Part::Merged(merged) => merged.sources.as_slice(),
        });
        all.flat_map(|tokenized| (0..tokenized.store.len()).map(|sequence| tokenized.store.hash(sequence)))
    }

    fn part(&self, index: usize) -> (usize, &Part) {
        assert!(index < self.len, "row {index} of {}", self.len);
        let at = self.parts.partition_point(|(before, _)| *before <= index) - 1;
        // Empty parts begin at the same row as the next one: the last part that begins here has the row.
        let (before, part) = &self.parts[at];
        (index - before, part)
    }
}

fn longest(tokenized: &TokenizedFile) -> usize {
    lengths(tokenized).max().unwrap_or(0)
}

fn lengths(tokenized: &TokenizedFile) -> impl Iterator<Item = usize> + '_ {
    (0..tokenized.store.len()).map(|sequence| tokenized.store.length(sequence))
}

impl std::fmt::Debug for LmRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.parts.iter().find_map(|(_, part)| match part.as_ref() {
            Part::Dialogues(tokenized) | Part::Documents(Documents { tokenized, .. }) => Some(&tokenized.file),
            Part::Merged(merged) => merged.sources.first().map(|tokenized| &tokenized.file),
        });
        f.debug_struct("LmRows").field("len", &self.len).field("file", &file.map(AsRef::<Path>::as_ref)).finish()
    }
}

impl Merged {
    /// Packs documents in this order.
    pub(super) fn new(
        sources: Vec<TokenizedFile>,
        documents: Vec<(u32, u32)>,
        max_document: usize,
        end: i64,
        max_tokens: usize,
    ) -> Self {
        let mut merged = Self {
            sources,
            documents,
            max_document,
            end,
            max_tokens,
            ends: Vec::new(),
            empty: Vec::new(),
            num_targets: 0,
        };
        let (width, mut at) = (max_tokens as u64, 0u64);
        let mut of_row = 0; // targets of the row that is being filled
        for index in 0..merged.documents.len() {
            let end = at + merged.length(index) as u64;
            while at < end {
                let border = (at / width + 1) * width;
                let piece = end.min(border) - at;
                of_row += piece - 1;
                at += piece;
                if at == border {
                    merged.close(border / width - 1, &mut of_row);
                }
            }
            merged.ends.push(end);
        }
        if at % width != 0 {
            merged.close(at / width, &mut of_row);
        }
        merged
    }

    fn close(&mut self, row: u64, of_row: &mut u64) {
        if *of_row == 0 {
            self.empty.push(row as usize);
        }
        self.num_targets += std::mem::take(of_row);
    }

    /// The lengths of all pieces into which documents are cut.
    fn pieces(&self) -> impl Iterator<Item = usize> + '_ {
        let width = self.max_tokens as u64;
        self.ends.iter().enumerate().flat_map(move |(index, &end)| {
            let mut at = end - self.length(index) as u64;
            std::iter::from_fn(move || {
                let piece = end.min((at / width + 1) * width) - at;
                at += piece;
                (piece > 0).then_some(piece as usize)
            })
        })
    }

    /// The number of tokens of a document, with its end token.
    fn length(&self, index: usize) -> usize {
        let (source, sequence) = self.documents[index];
        self.sources[source as usize].store.length(sequence as usize).min(self.max_document) + 1
    }

    /// The total number of tokens.
    pub(super) fn num_tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The total number of targets.
    pub(super) fn num_targets(&self) -> u64 {
        self.num_targets
    }

    fn len(&self) -> usize {
        self.num_tokens().div_ceil(self.max_tokens as u64) as usize - self.empty.len()
    }

    fn row(&self, index: usize) -> LmRow {
        let skipped = |row: usize, empty: &usize| if *empty <= row { row + 1 } else { row };
        let row = self.empty.iter().fold(index, skipped);
        let (mut at, to) = ((row * self.max_tokens) as u64, ((row + 1) * self.max_tokens) as u64);
        let to = to.min(self.num_tokens());
        let mut document = self.ends.partition_point(|end| *end <= at);
        let mut pieces = Vec::new();
        while at < to {
            let (end, length) = (self.ends[document], self.length(document));
            let start = end - length as u64;
            let (from, until) = ((at - start) as usize, (to.min(end) - start) as usize);
            let (source, sequence) = self.documents[document];
            let (mut tokens, _) =
                self.sources[source as usize].store.slice(sequence as usize, from, until.min(length - 1));
            if until == length {
                tokens.push(self.end);
            }
            let targets = vec![true; tokens.len()];
            pieces.push(Piece::new(tokens, targets));
            at = to.min(end);
            document += 1;
        }
        LmRow { pieces }
    }
}

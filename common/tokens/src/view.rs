//! Token lists as rows of batches, made when they are asked for: a dialogue is a row, documents are merged to rows of one length, or a
//! document is a row of several pieces.

use std::path::Path;
use std::sync::Arc;

use super::prepare::Prepared;
use super::{LmRow, Piece};
use align_data::Place;

/// The rows of one or several files. Cheap to clone.
#[derive(Clone, Default)]
pub struct LmRows {
    /// Each with the number of rows before it.
    parts: Vec<(usize, Arc<Part>)>,
    len: usize,
}

enum Part {
    Dialogues(Prepared),
    Documents(Documents),
    Merged(Merged),
}

/// Documents, a row each.
struct Documents {
    prepared: Prepared,
    end: i64,
    max_tokens: usize,
}

/// Documents one behind the other, each closed with `end`, cut every `max_tokens`.
pub(super) struct Merged {
    pub(super) sources: Vec<Prepared>,
    /// (source, list), in the order in which they are merged.
    pub(super) documents: Vec<(u32, u32)>,
    /// Most tokens of a document, beside its end.
    pub(super) room: usize,
    pub(super) end: i64,
    pub(super) max_tokens: usize,
    /// Where each document ends among all tokens.
    ends: Vec<u64>,
    /// Rows without a target, in order.
    empty: Vec<usize>,
    num_targets: u64,
}

impl LmRows {
    /// A row for every dialogue of a file.
    pub(super) fn dialogues(prepared: Prepared) -> Self {
        let len = prepared.store.len();
        Self { parts: vec![(0, Arc::new(Part::Dialogues(prepared)))], len }
    }

    /// A row for every document of a file, in pieces of at most `max_tokens`.
    pub(super) fn documents(prepared: Prepared, end: i64, max_tokens: usize) -> Self {
        let len = prepared.store.len();
        Self { parts: vec![(0, Arc::new(Part::Documents(Documents { prepared, end, max_tokens })))], len }
    }

    /// Rows of exactly `max_tokens`, but for the last.
    pub(super) fn merged(merged: Merged) -> Self {
        Self { len: merged.len(), parts: vec![(0, Arc::new(Part::Merged(merged)))] }
    }

    /// Adds other rows behind these.
    pub fn append(&mut self, other: Self) {
        self.parts.extend(other.parts.into_iter().map(|(before, part)| (self.len + before, part)));
        self.len += other.len;
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether they are documents merged to rows of one length.
    pub fn are_merged(&self) -> bool {
        self.parts.iter().any(|(_, part)| matches!(part.as_ref(), Part::Merged(_)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A row.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn row(&self, index: usize) -> LmRow {
        let (index, part) = self.part(index);
        match part {
            Part::Dialogues(prepared) => {
                let (tokens, mask) = prepared.store.slice(index, 0, prepared.store.length(index));
                LmRow { pieces: vec![Piece::new(tokens, mask)] }
            }
            Part::Documents(Documents { prepared, end, max_tokens }) => {
                let length = prepared.store.length(index);
                let (mut tokens, _) = prepared.store.slice(index, 0, length);
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

    /// Where a row stands in its file; of merged documents, nothing.
    pub fn place(&self, index: usize) -> Option<Place> {
        let (list, part) = self.part(index);
        let (Part::Dialogues(prepared) | Part::Documents(Documents { prepared, .. })) = part else { return None };
        let (index, line) = prepared.store.row_and_line(list);
        Some(Place { file: Arc::clone(&prepared.file), index, line })
    }

    /// The most tokens that see one another, or an upper bound of that.
    pub fn longest_piece(&self) -> usize {
        let of_part = |(_, part): &(usize, Arc<Part>)| match part.as_ref() {
            Part::Dialogues(prepared) => longest(prepared),
            Part::Documents(Documents { prepared, max_tokens, .. }) => (longest(prepared) + 1).min(*max_tokens),
            Part::Merged(merged) => {
                let longest = merged.sources.iter().map(longest).max().unwrap_or(0);
                (longest.min(merged.room) + 1).min(merged.max_tokens)
            }
        };
        self.parts.iter().map(of_part).max().unwrap_or(0)
    }

    /// How many runs of tokens that see one another are longer than `limit`, and the longest.
    pub fn longer_than(&self, limit: usize) -> (u64, usize) {
        let mut longer = (0, 0);
        let mut look = |length: usize| {
            if length > limit {
                longer = (longer.0 + 1, longer.1.max(length));
            }
        };
        for (_, part) in &self.parts {
            match part.as_ref() {
                Part::Dialogues(prepared) => lengths(prepared).for_each(&mut look),
                Part::Documents(Documents { prepared, max_tokens, .. }) => {
                    lengths(prepared).for_each(|length| look((length + 1).min(*max_tokens)));
                }
                Part::Merged(merged) => merged.pieces().for_each(&mut look),
            }
        }
        longer
    }

    /// A number for every dialogue or document: equal for equal ones, and hardly ever for others.
    pub fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        let all = self.parts.iter().flat_map(|(_, part)| match part.as_ref() {
            Part::Dialogues(prepared) | Part::Documents(Documents { prepared, .. }) => std::slice::from_ref(prepared),
            Part::Merged(merged) => merged.sources.as_slice(),
        });
        all.flat_map(|prepared| (0..prepared.store.len()).map(|list| prepared.store.hash(list)))
    }

    fn part(&self, index: usize) -> (usize, &Part) {
        assert!(index < self.len, "row {index} of {}", self.len);
        let at = self.parts.partition_point(|(before, _)| *before <= index) - 1;
        // Of parts without rows, the last of those that begin here is the one that has rows.
        let (before, part) = &self.parts[at];
        (index - before, part)
    }
}

fn longest(prepared: &Prepared) -> usize {
    lengths(prepared).max().unwrap_or(0)
}

fn lengths(prepared: &Prepared) -> impl Iterator<Item = usize> + '_ {
    (0..prepared.store.len()).map(|list| prepared.store.length(list))
}

impl std::fmt::Debug for LmRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.parts.iter().find_map(|(_, part)| match part.as_ref() {
            Part::Dialogues(prepared) | Part::Documents(Documents { prepared, .. }) => Some(&prepared.file),
            Part::Merged(merged) => merged.sources.first().map(|prepared| &prepared.file),
        });
        f.debug_struct("LmRows").field("len", &self.len).field("file", &file.map(AsRef::<Path>::as_ref)).finish()
    }
}

impl Merged {
    /// Merges documents in this order.
    pub(super) fn new(
        sources: Vec<Prepared>,
        documents: Vec<(u32, u32)>,
        room: usize,
        end: i64,
        max_tokens: usize,
    ) -> Self {
        let mut merged =
            Self { sources, documents, room, end, max_tokens, ends: Vec::new(), empty: Vec::new(), num_targets: 0 };
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

    /// The lengths of all pieces into which rows cut documents.
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

    /// Tokens of a document with its end.
    fn length(&self, index: usize) -> usize {
        let (source, list) = self.documents[index];
        self.sources[source as usize].store.length(list as usize).min(self.room) + 1
    }

    /// All tokens.
    pub(super) fn num_tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// All targets.
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
            let (source, list) = self.documents[document];
            let (mut tokens, _) = self.sources[source as usize].store.slice(list as usize, from, until.min(length - 1));
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

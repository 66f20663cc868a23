//! Rows of token ids with a loss mask: tokenized once, stored in mapped files, and read when a step needs
//! them.
//!
//! Depends on `align-core`, `align-text` and `align-data`, and does not link libtorch.
//!
//! - `rows`: converts dialogues and documents to rows; `tokenize`: tokenizes a file; `cache`: reuses the
//!   tokens of an earlier run.
//! - `store`: sequences of token ids in mapped files; `dataset`: rows made from them.

mod cache;
mod dataset;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod tokenize;

use align_text::chatml::Encoded;

pub use cache::Cache;
pub use dataset::LmRows;
pub use rows::{LmData, chat_rows, comparison_rows, document_rows, documents, is_text, prompt_rows, text_rows};
pub use tokenize::{Counts, Reading};

/// A sequence of tokens that attends only to itself: a dialogue, or (a part of) a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Token ids.
    pub tokens: Vec<i64>,
    /// true = the token is a target: its log-probability, given the tokens before it, enters the loss. Never
    /// true for the first token, which nothing predicts.
    pub loss_mask: Vec<bool>,
}

impl Piece {
    /// A piece. Its first token is never a target, whatever the mask.
    pub fn new(tokens: Vec<i64>, mut loss_mask: Vec<bool>) -> Self {
        assert_eq!(tokens.len(), loss_mask.len(), "one mask entry per token");
        if let Some(first) = loss_mask.first_mut() {
            *first = false;
        }
        Self { tokens, loss_mask }
    }

    /// Indices of the targets.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        self.loss_mask.iter().enumerate().filter(|(_, counts)| **counts).map(|(index, _)| index)
    }

    /// The number of tokens that must be computed: all before the last target.
    pub fn needed(&self) -> usize {
        self.loss_mask.iter().rposition(|counts| *counts).unwrap_or(0)
    }
}

impl From<Encoded> for Piece {
    fn from(encoded: Encoded) -> Self {
        Piece::new(encoded.tokens, encoded.loss_mask)
    }
}

/// One row of a batch: a dialogue, or documents merged to a fixed length, each attending to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LmRow {
    /// The pieces, in order.
    pub pieces: Vec<Piece>,
}

impl LmRow {
    /// The number of tokens in the row.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.tokens.len()).sum()
    }

    /// Whether the row has no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of targets.
    pub fn num_loss_tokens(&self) -> usize {
        self.pieces.iter().map(|piece| piece.targets().count()).sum()
    }
}

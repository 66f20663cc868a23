//! Rows of token ids with a loss mask: made of files once, kept in mapped files, read when a step asks.
//!
//! Imports `align-core`, `align-text` and `align-data`, and not libtorch.
//!
//! - `rows`: dialogues and documents become rows; `prepare`: a file's token lists; `cache`: those of an earlier run.
//! - `store`: token lists in mapped files; `view`: rows of them.

mod cache;
mod prepare;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod view;

use align_text::chatml::Encoded;

pub use cache::Cache;
pub use prepare::{Counts, Reading};
pub use rows::{LmData, chat_rows, comparison_rows, document_rows, documents, is_text, prompt_rows, text_rows};
pub use view::LmRows;

/// A run of tokens that sees itself alone: a dialogue, or (a part of) a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Token ids.
    pub tokens: Vec<i64>,
    /// true = the token is a target: its log-probability, given the tokens before it, enters the loss. Never true for the
    /// first token, which nothing predicts.
    pub loss_mask: Vec<bool>,
}

impl Piece {
    /// A piece whose first token is no target, whatever the mask says.
    pub fn new(tokens: Vec<i64>, mut loss_mask: Vec<bool>) -> Self {
        assert_eq!(tokens.len(), loss_mask.len(), "one mask entry a token");
        if let Some(first) = loss_mask.first_mut() {
            *first = false;
        }
        Self { tokens, loss_mask }
    }

    /// Indices of the targets.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        self.loss_mask.iter().enumerate().filter(|(_, counts)| **counts).map(|(index, _)| index)
    }

    /// Tokens that must be computed: all before the last target.
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
    /// Tokens in the row.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.tokens.len()).sum()
    }

    /// Whether the row has no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of targets.
    pub fn num_loss_tokens(&self) -> usize {
        self.pieces.iter().map(|piece| piece.targets().count()).sum()
    }
}

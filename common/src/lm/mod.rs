//! Language modelling on rows of tokens: what sft, pretraining, PPO's pretrained gradient and `eval lm` share.

use std::borrow::Borrow;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::batch::FlatBatch;
use crate::chatml::Encoded;
use crate::model::{CausalLm, Dropout, Over};

mod cache;
mod prepare;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod view;

pub use cache::Cache;
pub use prepare::{Counts, Reading, kind_of};
pub use rows::{LmData, chat_rows, document_rows, documents, is_text, kind_of_rows, seen_rows, text_rows};
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
    fn needed(&self) -> usize {
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

/// Cuts a batch into microbatches: consecutive rows until `target` tokens are reached; a longer row goes alone.
pub fn microbatches(lengths: &[usize], target: usize) -> Vec<Range<usize>> {
    let (mut cuts, mut start, mut filled) = (Vec::new(), 0, 0);
    for (row, length) in lengths.iter().enumerate() {
        if row > start && filled + length > target {
            cuts.push(start..row);
            (start, filled) = (row, 0);
        }
        filled += length;
    }
    if start < lengths.len() {
        cuts.push(start..lengths.len());
    }
    cuts
}

/// Rows laid out flat, with the places where targets are predicted.
pub struct LmBatch {
    /// The tokens that must be computed.
    pub flat: FlatBatch,
    /// (N) places in the flat batch: one before each target.
    pub positions: Tensor,
    /// (N) the targets' token ids.
    pub targets: Tensor,
}

/// Lays rows out flat; what follows a piece's last target is left out, since nothing reads it.
pub fn flatten<'a>(rows: impl IntoIterator<Item = &'a LmRow>, device: Device) -> LmBatch {
    let (mut flat, mut positions, mut targets) = (FlatBatch::new(), Vec::new(), Vec::new());
    for piece in rows.into_iter().flat_map(|row| &row.pieces) {
        if piece.needed() == 0 {
            continue;
        }
        let offset = flat.len();
        flat.push(&piece.tokens[..piece.needed()], None);
        for target in piece.targets() {
            positions.push((offset + target - 1) as i64);
            targets.push(piece.tokens[target]);
        }
    }
    let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
    LmBatch { flat, positions: tensor(&positions), targets: tensor(&targets) }
}

/// Sums over targets; a mean is formed once, at the end.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct LmStats {
    /// Number of targets.
    pub tokens: u64,
    /// Σ −log p, in nats.
    pub loss_sum: f64,
    /// Targets that were the likeliest token.
    pub correct: u64,
}

impl LmStats {
    /// Mean −log p over the targets, in nats; NaN without targets.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.tokens as f64
    }

    /// exp of the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// Share of targets that were the likeliest token.
    pub fn token_accuracy(&self) -> f64 {
        self.correct as f64 / self.tokens as f64
    }

    fn add(&mut self, other: LmStats) {
        self.tokens += other.tokens;
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
    }
}

/// Accumulates the gradient of scale · Σ −log p over the rows' targets; returns Σ −log p (without the scale).
pub fn backward<'a>(
    model: &CausalLm,
    rows: impl IntoIterator<Item = &'a LmRow>,
    dropout: Option<Dropout>,
    scale: f64,
) -> f64 {
    let batch = flatten(rows, model.device());
    let hidden = model.hidden_at(&batch.flat, &batch.positions, dropout); // (N, D)
    let stats = model.backward(&hidden, &batch.targets, &Over::full(), &mut |_, logprobs| logprobs.full_like(-scale));
    -stats.logprobs.sum(Kind::Double).double_value(&[])
}

/// Measures a model on rows, without gradient; `on_row(index, row, logprobs of its targets)` sees every row in order.
pub fn evaluate(
    model: &CausalLm,
    rows: impl IntoIterator<Item: Borrow<LmRow>>,
    microbatch_tokens: usize,
    on_row: &mut dyn FnMut(usize, &LmRow, &[f32]),
) -> LmStats {
    let _guard = tch::no_grad_guard();
    let mut rows = rows.into_iter().peekable();
    let (mut total, mut index) = (LmStats::default(), 0);
    while let Some(first) = rows.next() {
        // As `microbatches` cuts, of rows that come one by one.
        let mut filled = first.borrow().len();
        let mut microbatch = vec![first];
        while let Some(row) = rows.next_if(|row| filled + row.borrow().len() <= microbatch_tokens) {
            filled += row.borrow().len();
            microbatch.push(row);
        }
        let batch = flatten(microbatch.iter().map(Borrow::borrow), model.device());
        let hidden = model.hidden_at(&batch.flat, &batch.positions, None);
        let stats = model.logprobs(&hidden, &batch.targets, &Over::full());
        total.add(LmStats {
            tokens: batch.targets.size()[0] as u64,
            loss_sum: -stats.logprobs.sum(Kind::Double).double_value(&[]),
            correct: stats.correct.sum(Kind::Int64).int64_value(&[]) as u64,
        });
        let logprobs = Vec::<f32>::try_from(&stats.logprobs.to_device(Device::Cpu)).expect("logprobs are fp32");
        let mut rest = logprobs.as_slice();
        for row in microbatch.iter().map(Borrow::borrow) {
            let (of_row, tail) = rest.split_at(row.num_loss_tokens());
            on_row(index, row, of_row);
            (rest, index) = (tail, index + 1);
        }
    }
    total
}

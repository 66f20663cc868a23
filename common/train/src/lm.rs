//! Language modelling on rows of tokens, for sft, pretraining, PPO's pretraining gradient and `eval lm`.

use align_kernels::HOST;
use std::borrow::Borrow;

use tch::{Device, Kind, Tensor};

use align_kernels::batch::{FlatBatch, microbatches};
use align_model::{CausalLm, Dropout, LmReader, Over, divergence};
use align_tokens::LmRow;

#[cfg(test)]
mod tests;

/// Rows as a flat batch, with the token indices at which targets are predicted.
pub struct LmBatch {
    /// The tokens to be computed.
    pub flat: FlatBatch,
    /// (N) token indices in the flat batch, each one before its target.
    pub positions: Tensor,
    /// (N) the targets' token ids.
    pub targets: Tensor,
}

/// Concatenates rows into a flat batch. Tokens after a piece's last target are left out: no target needs
/// them.
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

/// Sums over targets; means are computed once, at the end.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct LmStats {
    /// Number of targets.
    pub tokens: u64,
    /// Σ −log p, in nats.
    pub loss_sum: f64,
    /// Targets that are the argmax of the logits.
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

    /// Share of targets that are the argmax of the logits.
    pub fn token_accuracy(&self) -> f64 {
        self.correct as f64 / self.tokens as f64
    }

    fn add(&mut self, other: LmStats) {
        self.tokens += other.tokens;
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
    }
}

/// Accumulates the gradient of scale · Σ −log p over the rows' targets; returns the unscaled Σ −log p.
pub fn backward<'a>(
    model: &CausalLm,
    rows: impl IntoIterator<Item = &'a LmRow>,
    dropout: Option<Dropout>,
    scale: f64,
) -> f64 {
    let batch = flatten(rows, model.device());
    let forward = model.forward_train(&batch.flat, Some(&batch.positions), dropout); // (N, D)
    let stats = model.backward(forward, &batch.targets, &Over::full(), &mut |_, logprobs| logprobs.full_like(-scale));
    -stats.logprobs.sum(Kind::Double).double_value(&[])
}

/// Evaluates a model on rows without gradients; calls `on_row(index, row, logprobs of its targets)` in order.
pub fn evaluate(
    model: &impl LmReader,
    rows: impl IntoIterator<Item: Borrow<LmRow>>,
    microbatch_tokens: usize,
    on_row: &mut dyn FnMut(usize, &LmRow, &[f32]),
) -> LmStats {
    let _guard = tch::no_grad_guard();
    let mut rows = rows.into_iter().peekable();
    let (mut total, mut index) = (LmStats::default(), 0);
    while let Some(first) = rows.next() {
        // The same microbatches as `microbatches` returns, from an iterator of rows.
        let mut filled = first.borrow().len();
        let mut microbatch = vec![first];
        while let Some(row) = rows.next_if(|row| filled + row.borrow().len() <= microbatch_tokens) {
            filled += row.borrow().len();
            microbatch.push(row);
        }
        let batch = flatten(microbatch.iter().map(Borrow::borrow), model.device());
        let hidden = model.read_at(&batch.flat, &batch.positions);
        let stats = model.target_logprobs(&hidden, &batch.targets);
        total.add(LmStats {
            tokens: batch.targets.size()[0] as u64,
            loss_sum: -stats.logprobs.sum(Kind::Double).double_value(&[]),
            correct: stats.correct.sum(Kind::Int64).int64_value(&[]) as u64,
        });
        let logprobs = Vec::<f32>::try_from(&stats.logprobs.to_device(HOST)).expect("logprobs are fp32");
        let mut rest = logprobs.as_slice();
        for row in microbatch.iter().map(Borrow::borrow) {
            let (of_row, tail) = rest.split_at(row.num_loss_tokens());
            on_row(index, row, of_row);
            (rest, index) = (tail, index + 1);
        }
    }
    total
}

/// The first rows with at least this many targets in total, or all rows.
pub fn first_rows(rows: impl IntoIterator<Item = LmRow>, targets: usize) -> Vec<LmRow> {
    let mut found = 0;
    let within = |row: &LmRow| {
        let is_within = found < targets;
        found += row.num_loss_tokens();
        is_within
    };
    rows.into_iter().take_while(within).collect()
}

/// The mean KL(p ‖ q) over the whole vocabulary and all targets of the rows, in nats. Calls `done` with the
/// number of rows finished since the last call.
pub fn mean_divergence(
    p: &impl LmReader,
    q: &impl LmReader,
    rows: &[LmRow],
    microbatch_tokens: usize,
    done: &mut dyn FnMut(usize),
) -> f64 {
    let lengths: Vec<usize> = rows.iter().map(LmRow::len).collect();
    let (mut sum, mut targets) = (0.0, 0);
    for range in microbatches(&lengths, microbatch_tokens) {
        let batch = flatten(&rows[range.clone()], p.device());
        sum += divergence(p, q, &batch.flat, &batch.positions);
        targets += batch.targets.size()[0];
        done(range.len());
    }
    sum / targets as f64
}

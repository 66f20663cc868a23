//! The pretraining text of PPO: a stream of document pieces, and the gradient of the loss on them.

use align_data::Order;
use align_model::{CausalLm, Parameter};
use align_tokens::{LmRow, Piece};
use align_train::lm;
use tch::Tensor;

/// Pieces of documents in an order that is a pure function of (seed, epoch).
pub struct PtxStream {
    pieces: Vec<Piece>,
    order: Order,
    /// Number of pieces taken so far: the state for a resume.
    pub taken: u64,
}

impl PtxStream {
    /// A stream of documents (token ids without an end token). `end` is appended to each document, which is
    /// split into pieces of `max_tokens`.
    ///
    /// # Panics
    /// When no document has a token to predict.
    pub fn new(documents: Vec<Vec<i64>>, end: i64, max_tokens: usize, seed: u64) -> Self {
        let mut pieces = Vec::new();
        for mut document in documents {
            document.push(end);
            let cut = document.chunks(max_tokens).map(|tokens| Piece::new(tokens.to_vec(), vec![true; tokens.len()]));
            pieces.extend(cut.filter(|piece| piece.tokens.len() > 1));
        }
        assert!(!pieces.is_empty(), "a pretraining stream needs text");
        let order = Order::new(&[pieces.len()], None, Some(seed));
        Self { pieces, order, taken: 0 }
    }

    /// The next pieces, with exactly `num_targets` targets in total: the last piece is truncated, and its
    /// rest is skipped.
    pub fn take(&mut self, num_targets: usize) -> Vec<LmRow> {
        let (rows, taken) = self.peek(num_targets);
        self.taken = taken;
        rows
    }

    /// The rows that [`PtxStream::take`] would return, and the number of pieces taken then.
    pub fn peek(&self, num_targets: usize) -> (Vec<LmRow>, u64) {
        let (mut rows, mut missing, mut taken) = (Vec::new(), num_targets, self.taken);
        while missing > 0 {
            let piece = &self.pieces[self.order.row(taken)];
            taken += 1;
            let targets = (piece.tokens.len() - 1).min(missing);
            missing -= targets;
            let tokens = piece.tokens[..=targets].to_vec();
            rows.push(LmRow { pieces: vec![Piece::new(tokens, vec![true; targets + 1])] });
        }
        (rows, taken)
    }
}

/// Accumulates the gradient of coef · L_ptx, L_ptx the mean −log p over the rows' targets; returns L_ptx.
pub fn ptx_backward(policy: &CausalLm, rows: &[LmRow], coef: f64, microbatch_tokens: usize) -> f64 {
    let num_targets = rows.iter().map(LmRow::num_loss_tokens).sum::<usize>() as f64;
    let lengths: Vec<usize> = rows.iter().map(LmRow::len).collect();
    let microbatches = align_kernels::batch::microbatches(&lengths, microbatch_tokens).into_iter();
    microbatches.map(|range| lm::backward(policy, &rows[range], None, coef / num_targets)).sum::<f64>() / num_targets
}

/// Moves the accumulated gradients out of a model, which has zero gradients after it, so that the gradient of
/// the next loss can be measured separately. A gradient is moved to the gradient buffer of the parameter of
/// `buffers` with the same name and shape, which must be zero; without such a parameter, to new memory.
pub fn take_grads(parameters: &[Parameter], buffers: &[Parameter]) -> Vec<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let take = |parameter: &Parameter| {
        let mut grad = parameter.tensor.grad();
        let fits = |other: &&Parameter| {
            let (own, other) = (&parameter.tensor, &other.tensor);
            other.size() == own.size() && other.device() == own.device() && other.grad().defined()
        };
        let buffer = buffers.iter().filter(|other| other.name == parameter.name).find(fits);
        let mut taken = buffer.map_or_else(|| grad.empty_like(), |buffer| buffer.tensor.grad());
        taken.copy_(&grad);
        let _ = grad.zero_();
        taken
    };
    parameters.iter().map(take).collect()
}

/// Adds gradients that [`take_grads`] moved out, and sets their buffers to zero.
pub fn add_grads(parameters: &[Parameter], grads: Vec<Tensor>) {
    let _no_grad = tch::no_grad_guard();
    for (parameter, mut grad) in parameters.iter().zip(grads) {
        let _ = parameter.tensor.grad().g_add_(&grad);
        let _ = grad.zero_();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use align_model::{ModelOptions, ScalarModel};
    use tch::Kind;

    use align_kernels::HOST;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tiny_models/qwen2_tied_gqa");

    fn options() -> ModelOptions {
        ModelOptions { device: HOST, compute: Kind::Float, trainable: true, recompute_layers: false }
    }

    #[test]
    fn the_gradients_of_both_losses_are_added_with_the_coefficient() {
        let model = CausalLm::load(Path::new(FOLDER), &options()).unwrap();
        let room = ScalarModel::load(Path::new(FOLDER), &options(), 1).unwrap();
        let row = |tokens: &[i64]| LmRow { pieces: vec![Piece::new(tokens.to_vec(), vec![true; tokens.len()])] };
        let (other, text) = ([row(&[4, 8, 15, 16])], [row(&[23, 42, 5]), row(&[7, 9, 11, 13, 17])]);
        let text_alone = || ptx_backward(&model, &text, 1.0, 4);
        let take = || take_grads(model.parameters(), &[]);

        lm::backward(&model, &other, None, 0.5);
        let other_grads = take();
        let loss = text_alone();
        let text_grads = take();

        for room in [room.parameters(), &[]] {
            lm::backward(&model, &other, None, 0.5);
            let moved = take_grads(model.parameters(), room);
            assert!(
                (ptx_backward(&model, &text, 0.1, 4) - loss).abs() < 1e-9,
                "the loss is reported without its weight"
            );
            add_grads(model.parameters(), moved);
            for (index, together) in take().iter().enumerate() {
                let expected = &other_grads[index] + &text_grads[index] * 0.1;
                let apart = (together - &expected).norm().double_value(&[]);
                assert!(apart <= 1e-6 * (1.0 + expected.norm().double_value(&[])), "{apart}");
            }
            for Parameter { tensor, name, .. } in room {
                assert_eq!(tensor.grad().count_nonzero(None).int64_value(&[]), 0, "{name}");
            }
        }
    }

    #[test]
    fn gradients_are_moved_to_buffers_of_the_same_shape() {
        let model = CausalLm::load(Path::new(FOLDER), &options()).unwrap();
        let value_model = ScalarModel::load(Path::new(FOLDER), &options(), 1).unwrap();
        let taken = take_grads(model.parameters(), value_model.parameters());
        let room: Vec<_> = value_model.parameters().iter().map(|other| other.tensor.grad().data_ptr()).collect();
        assert!(
            taken.iter().all(|grad| room.contains(&grad.data_ptr())),
            "a tied model and a value model of one shape"
        );
    }

    #[test]
    fn the_asked_number_of_targets_comes_out_and_the_stream_goes_on() {
        let documents = vec![vec![1, 2, 3, 4], vec![5, 6, 7], vec![8]];
        let mut stream = PtxStream::new(documents.clone(), 0, 3, 1);
        for asked in [1, 4, 9, 30] {
            let rows = stream.take(asked);
            assert_eq!(rows.iter().map(LmRow::num_loss_tokens).sum::<usize>(), asked);
        }
        let (mut whole, mut resumed) = (PtxStream::new(documents.clone(), 0, 3, 1), PtxStream::new(documents, 0, 3, 1));
        whole.take(5);
        resumed.taken = whole.taken;
        assert_eq!(whole.take(7), resumed.take(7));
    }
}

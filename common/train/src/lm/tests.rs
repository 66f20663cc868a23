//! The loss on rows and its gradient.

use align_kernels::HOST;
use std::path::Path;

use align_model::ModelOptions;
use align_tokens::Piece;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const MODELS: [&str; 3] = ["qwen2_sliding", "qwen2_yarn", "qwen3_untied_hd20"];

#[test]
fn tokens_after_the_last_target_are_left_out() {
    let row = LmRow { pieces: vec![Piece::new(vec![9, 8, 7, 6, 5], vec![true, false, true, true, false])] };
    let batch = flatten([&row], HOST);
    assert_eq!(batch.flat.tokens(), &[9, 8, 7]);
    assert_eq!(Vec::<i64>::try_from(&batch.positions).unwrap(), vec![1, 2]);
    assert_eq!(Vec::<i64>::try_from(&batch.targets).unwrap(), vec![7, 6]);
}

/// The gradient of the token mean, over microbatches of `microbatch_rows` rows.
fn gradient(model: &CausalLm, rows: &[LmRow], microbatch_rows: usize) -> Vec<Tensor> {
    let targets: usize = rows.iter().map(LmRow::num_loss_tokens).sum();
    for parameter in model.parameters() {
        parameter.tensor.shallow_clone().zero_grad();
    }
    for microbatch in rows.chunks(microbatch_rows) {
        backward(model, microbatch, None, 1.0 / targets as f64);
    }
    model.parameters().iter().map(|parameter| parameter.tensor.grad().copy()).collect()
}

/// The norm of the difference of two gradients, relative to the norm of the first.
fn difference(one: &[Tensor], other: &[Tensor]) -> f64 {
    let norm =
        |tensors: &[Tensor]| tensors.iter().map(|tensor| tensor.norm().double_value(&[]).powi(2)).sum::<f64>().sqrt();
    let differences: Vec<Tensor> = one.iter().zip(other).map(|(one, other)| one - other).collect();
    norm(&differences) / norm(one)
}

#[test]
fn the_gradient_does_not_depend_on_microbatches_or_packing() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut piece = |length: usize| {
        let tokens: Vec<i64> = (0..length).map(|_| random.random_range(2..313)).collect();
        let targets = (1..=length).map(|at| at == length || random.random_range(0..3) > 0).collect();
        Piece::new(tokens, targets)
    };
    let pieces: Vec<Piece> = [5, 17, 3, 11, 8, 24, 2, 13].map(&mut piece).into();
    let alone: Vec<LmRow> = pieces.iter().map(|piece| LmRow { pieces: vec![piece.clone()] }).collect();
    let packed: Vec<LmRow> = pieces.chunks(4).map(|pieces| LmRow { pieces: pieces.to_vec() }).collect();
    for recompute_layers in [false, true] {
        let options = ModelOptions { device: HOST, compute: Kind::Float, trainable: true, recompute_layers };
        for name in MODELS {
            let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny_models")).join(name);
            let model = CausalLm::load(&folder, &options).unwrap();
            let expected = gradient(&model, &alone, 1); // eight microbatches of one row
            for (what, found) in [
                ("one of eight", gradient(&model, &alone, 8)),
                ("three, three and two", gradient(&model, &alone, 3)),
                ("packed", gradient(&model, &packed, 1)),
            ] {
                let found = difference(&expected, &found);
                assert!(found < 1e-6, "{name} {what} recompute {recompute_layers}: {found}");
            }
        }
    }
}

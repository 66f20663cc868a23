//! Equality with transformers and with the first generation's published code.

use tch::{Kind, Tensor};

use super::*;
use crate::{CausalLm, Over, ScalarModel, inspect};
use align_kernels::batch::FlatBatch;

/// fp32 logits of two implementations; the reference differs from itself by 1.5e-6 between batch shapes.
const LOGITS: f64 = 1e-5;

fn alone(row: &[i64]) -> FlatBatch {
    let mut batch = FlatBatch::new();
    batch.push(row, None);
    batch
}

fn packed(rows: &[Vec<i64>]) -> FlatBatch {
    let mut batch = FlatBatch::new();
    for row in rows {
        batch.push(row, None);
    }
    batch
}

/// The golden's rows (B, L, …), each cut to its length and put in order.
fn flat(golden: &Golden, name: &str, rows: &[Vec<i64>]) -> Tensor {
    let parts: Vec<Tensor> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| golden.array(name).get(index as i64).narrow(0, 0, row.len() as i64))
        .collect();
    Tensor::cat(&parts, 0)
}

#[test]
fn logits_equal_transformers_alone_packed_and_sharing_a_prefix() {
    for name in NEWER {
        let golden = Golden::read(name);
        let model = CausalLm::load(&tiny(name), &frozen(Kind::Float)).unwrap();
        let rows = golden.rows();
        let expected = flat(&golden, "logits", &rows);
        let separate: Vec<Tensor> =
            rows.iter().map(|row| model.head().logits(&model.hidden(&alone(row), None))).collect();
        assert!(distance(&Tensor::cat(&separate, 0), &expected) < LOGITS, "{name} alone");
        let together = model.head().logits(&model.hidden(&packed(&rows), None));
        assert!(distance(&together, &expected) < LOGITS, "{name} packed");

        let mut shared = FlatBatch::new();
        let prefix = shared.push(&rows[0][..10], None);
        shared.push(&rows[0][10..], Some(prefix));
        let other = shared.push(&rows[1], None);
        let branch = shared.push(&rows[0][10..15], Some(prefix));
        shared.push(&rows[0][15..], Some(branch));
        let logits = model.head().logits(&model.hidden(&shared, None));
        let row = &golden.array("logits").get(0);
        assert!(distance(&logits.narrow(0, 0, 24), row) < LOGITS, "{name} shared, first branch");
        assert!(distance(&logits.narrow(0, 41, 14), &row.narrow(0, 10, 14)) < LOGITS, "{name} shared, second branch");
        let range = shared.segments()[other].range.clone();
        let between = logits.narrow(0, range.start as i64, range.len() as i64);
        assert!(distance(&between, &golden.array("logits").get(1).narrow(0, 0, 17)) < LOGITS, "{name} beside");
    }
}

/// The label positions of the golden loss, as (row of the flat batch, target).
fn label_positions(golden: &Golden, rows: &[Vec<i64>]) -> (Vec<i64>, Vec<i64>) {
    let labels = Vec::<Vec<i64>>::try_from(golden.array("labels")).unwrap();
    let (mut positions, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
    for (row, labels) in rows.iter().zip(labels) {
        for (at, label) in labels.into_iter().enumerate().take(row.len()).skip(1) {
            if label != -100 {
                positions.push((start + at - 1) as i64);
                targets.push(label);
            }
        }
        start += row.len();
    }
    (positions, targets)
}

#[test]
fn loss_and_every_gradient_equal_transformers() {
    for name in NEWER {
        let golden = Golden::read(name);
        let model = CausalLm::load(&tiny(name), &trainable()).unwrap();
        let rows = golden.rows();
        let (positions, targets) = label_positions(&golden, &rows);
        let count = targets.len() as f64;
        assert_eq!(count, golden.json["n_label_tokens"].as_f64().unwrap());
        let forward = model.forward_train(&packed(&rows), Some(&Tensor::from_slice(&positions)), None);
        let stats = model.backward(forward, &Tensor::from_slice(&targets), &Over::full(), &mut |_, logprobs| {
            logprobs.full_like(-1.0 / count)
        });
        let loss = -stats.logprobs.mean(Kind::Double).double_value(&[]);
        assert!((loss - golden.json["loss"].as_f64().unwrap()).abs() < 1e-5, "{name}: loss {loss}");
        for parameter in model.parameters() {
            let grad = parameter.tensor.grad();
            let norm = golden.json["grad_norms"][&parameter.name].as_f64().unwrap();
            let found = grad.norm().double_value(&[]);
            assert!(
                (found - norm).abs() < 1e-3 * norm,
                "{name}: {} has gradient norm {found}, not {norm}",
                parameter.name
            );
            let key = format!("grad.{}", parameter.name);
            if golden.has(&key) {
                assert!(distance(&grad, golden.array(&key)) < 1e-3 * norm, "{name}: gradient of {}", parameter.name);
            }
        }
    }
}

#[test]
fn logprobs_equal_transformers() {
    for name in NEWER {
        let golden = Golden::read(name);
        let model = CausalLm::load(&tiny(name), &frozen(Kind::Float)).unwrap();
        for (index, row) in golden.rows().iter().enumerate().filter(|(_, row)| row.len() > 1) {
            let hidden = model.hidden(&alone(row), None).narrow(0, 0, row.len() as i64 - 1);
            let stats = model.logprobs(&hidden, &Tensor::from_slice(&row[1..]), &Over::full());
            let expected = golden.array("logprob_next").get(index as i64).narrow(0, 0, row.len() as i64 - 1);
            assert!(distance(&stats.logprobs, &expected) < 1e-5, "{name} row {index}");
        }
    }
}

#[test]
fn scores_and_values_equal_transformers() {
    for name in NEWER {
        let golden = Golden::read(name);
        let model = ScalarModel::load(&tiny(name), &trainable(), 0).unwrap();
        assert!(model.has_new_head());
        let score = model.parameters().last().unwrap();
        assert_eq!(score.name, "score.weight");
        tch::no_grad(|| score.tensor.shallow_clone().copy_(golden.array("score.weight")));
        let rows = golden.rows();
        let forward = model.forward_train(&packed(&rows), None, None);
        let scalars = model.scalars(&forward.hidden);
        assert!(distance(&scalars, &flat(&golden, "value_all_tokens", &rows)) < LOGITS, "{name} values");
        let ends: Vec<i64> = rows
            .iter()
            .scan(-1, |end, row| {
                *end += row.len() as i64;
                Some(*end)
            })
            .collect();
        let scores = scalars.index_select(0, &Tensor::from_slice(&ends));
        assert!(distance(&scores, golden.array("rm_scores")) < LOGITS, "{name} scores");

        let margins = scores.narrow(0, 0, 2) - scores.narrow(0, 2, 2);
        let loss = -margins.log_sigmoid().mean(Kind::Float);
        let expected = golden.json["rm"]["pair_loss_rows_01_chosen_23_rejected"].as_f64().unwrap();
        assert!((loss.double_value(&[]) - expected).abs() < 1e-5, "{name} pair loss");
        model.backward(forward, &loss);
        assert!(distance(&score.tensor.grad(), golden.array("rm_grad.score.weight")) < 1e-4, "{name} head gradient");
        for parameter in model.parameters() {
            let norm = golden.json["rm"]["grad_norms"][&parameter.name].as_f64().unwrap();
            let found = parameter.tensor.grad().norm().double_value(&[]);
            assert!(
                (found - norm).abs() < 1e-3 * norm,
                "{name}: {} has gradient norm {found}, not {norm}",
                parameter.name
            );
        }
    }
}

#[test]
fn first_generation_equals_the_published_code() {
    for name in ["qwen1_plain", "qwen1_ntk_logn"] {
        let golden = Golden::read(name);
        for (length, key) in [("short", "train"), ("short", "eval"), ("long", "train"), ("long", "eval")] {
            let mut model = CausalLm::load(&tiny(name), &frozen(Kind::Float)).unwrap();
            if key == "eval" {
                model.extrapolate();
            }
            let rows = Vec::<Vec<i64>>::try_from(golden.array(&format!("{length}.input_ids"))).unwrap();
            let logits = model.head().logits(&model.hidden(&packed(&rows), None));
            let expected = golden.array(&format!("{length}.logits_{key}")).flatten(0, 1);
            let found = distance(&logits, &expected);
            assert!(found < 2e-5, "{name} {length} {key}: {found}");
        }
    }
}

#[test]
fn headers_count_the_parameters_that_transformers_counts() {
    for name in NEWER {
        let header = inspect(&tiny(name)).unwrap();
        assert_eq!(header.num_parameters, Golden::read(name).json["n_params"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn bf16_logits_are_near_those_of_transformers_in_bf16_and_frozen_equals_trainable() {
    for name in ["qwen2_tied_gqa", "qwen3_tied_gqa"] {
        let golden = Golden::read(name);
        let model = CausalLm::load(&tiny(name), &frozen(Kind::BFloat16)).unwrap();
        let rows = golden.rows();
        let hidden = model.hidden(&packed(&rows), None);
        assert_eq!(hidden.kind(), frozen(Kind::BFloat16).precision().activations);
        let logits = model.head().logits(&hidden);
        // Two bf16 programs round at different places: each is this far from fp32, too.
        let (bf16, fp32) = (flat(&golden, "logits_bf16", &rows), flat(&golden, "logits", &rows));
        let apart = distance(&bf16, &fp32);
        assert!(distance(&logits, &bf16) < 2.0 * apart, "{name}: {} against {apart}", distance(&logits, &bf16));
        assert!(distance(&logits, &fp32) < 1.5 * apart, "{name}: {} against {apart}", distance(&logits, &fp32));
        let options = crate::ModelOptions { compute: Kind::BFloat16, ..trainable() };
        let trained = CausalLm::load(&tiny(name), &options).unwrap();
        assert!(trained.head().logits(&trained.hidden(&packed(&rows), None)).equal(&logits), "{name}");
    }
}

#[test]
fn bf16_gradients_are_near_the_fp32_ones() {
    let golden = Golden::read("qwen2_tied_gqa");
    let options = crate::ModelOptions { compute: Kind::BFloat16, ..trainable() };
    let model = CausalLm::load(&tiny("qwen2_tied_gqa"), &options).unwrap();
    let rows = golden.rows();
    let (positions, targets) = label_positions(&golden, &rows);
    let count = targets.len() as f64;
    let forward = model.forward_train(&packed(&rows), Some(&Tensor::from_slice(&positions)), None);
    let grad_of = &mut |_: std::ops::Range<usize>, logprobs: &Tensor| logprobs.full_like(-1.0 / count);
    model.backward(forward, &Tensor::from_slice(&targets), &Over::full(), grad_of);
    for parameter in model.parameters() {
        let grad = parameter.tensor.grad();
        assert_eq!(grad.kind(), Kind::Float, "{}", parameter.name);
        let norm = golden.json["grad_norms"][&parameter.name].as_f64().unwrap();
        let found = distance(&grad, golden.array(&format!("grad.{}", parameter.name)));
        // bf16 keeps 8 bits: 0.4 % a rounding, a few of them in a row.
        assert!(found < 0.05 * norm, "{}: {found} of {norm}", parameter.name);
    }
}

#[test]
fn logits_without_padding_equal_left_padded_ones() {
    for name in ["qwen2_yarn", "qwen3_attnbias"] {
        let golden = Golden::read(name);
        let model = CausalLm::load(&tiny(name), &frozen(Kind::Float)).unwrap();
        let ids = Vec::<Vec<i64>>::try_from(golden.array("left_input_ids")).unwrap();
        let kept = Vec::<Vec<i64>>::try_from(golden.array("left_attention_mask")).unwrap();
        for (index, (ids, kept)) in ids.iter().zip(&kept).enumerate() {
            let row: Vec<i64> = ids.iter().zip(kept).filter(|(_, kept)| **kept == 1).map(|(id, _)| *id).collect();
            let logits = model.head().logits(&model.hidden(&alone(&row), None));
            let start = (ids.len() - row.len()) as i64;
            let expected = golden.array("left_logits").get(index as i64).narrow(0, start, row.len() as i64);
            assert!(distance(&logits, &expected) < LOGITS, "{name} row {index}");
        }
    }
}

#[test]
fn first_generation_gradients_equal_the_published_code() {
    for (name, length) in [("qwen1_plain", "short"), ("qwen1_plain", "long"), ("qwen1_ntk_logn", "long")] {
        let golden = Golden::read(name);
        let model = CausalLm::load(&tiny(name), &trainable()).unwrap();
        let rows = Vec::<Vec<i64>>::try_from(golden.array(&format!("{length}.input_ids"))).unwrap();
        let labels = Vec::<Vec<i64>>::try_from(golden.array(&format!("{length}.labels"))).unwrap();
        let (mut positions, mut targets) = (Vec::new(), Vec::new());
        for (index, labels) in labels.iter().enumerate() {
            for at in (1..labels.len()).filter(|&at| labels[at] != -100) {
                positions.push((index * labels.len() + at - 1) as i64);
                targets.push(labels[at]);
            }
        }
        let count = targets.len() as f64;
        let forward = model.forward_train(&packed(&rows), Some(&Tensor::from_slice(&positions)), None);
        let grad_of = &mut |_: std::ops::Range<usize>, logprobs: &Tensor| logprobs.full_like(-1.0 / count);
        let stats = model.backward(forward, &Tensor::from_slice(&targets), &Over::full(), grad_of);
        let loss = -stats.logprobs.mean(Kind::Double).double_value(&[]);
        let expected = golden.json[format!("{length}.loss_train")].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5, "{name} {length}: {loss}");
        for parameter in model.parameters() {
            let norm = golden.json[format!("{length}.grad_norms")][&parameter.name].as_f64().unwrap();
            let found = parameter.tensor.grad().norm().double_value(&[]);
            assert!((found - norm).abs() < 1e-3 * norm, "{name} {length}: {} {found} {norm}", parameter.name);
        }
    }
}

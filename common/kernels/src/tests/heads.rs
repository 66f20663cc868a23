//! Log-probabilities, sampling, AdamW.

use super::*;
use crate::adamw::{AdamWSlot, AdamWStep};
use crate::logprobs::{Chunk, Over};
use crate::sampling::Sampling;

#[test]
fn log_probabilities_and_their_gradient() {
    // More than two of the CPU's blocks of the vocabulary.
    let (rows, vocab, width) = (5, 2 * 8192 + 100, 16);
    let nucleus: Vec<Vec<i64>> =
        vec![vec![0, 9000], vec![vocab - 1], (5000..6000).collect(), vec![3, 5462, 12_000], (0..vocab).collect()];
    on_every_backend(|case| {
        let dtype = case.precision.matmul;
        let (hidden, weight) = (case.random(&[rows, width]) / 4.0, case.random(&[vocab, width]));
        let targets = Tensor::from_slice(&[0i64, vocab - 1, 5461, 5462, 11_000]);
        let grads = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 0.25, 3.0]);
        for nucleus in [None, Some(nucleus.as_slice())] {
            let (over, exact) = (Over { temperature: 0.8, nucleus }, case.exact(&hidden).mm(&case.exact(&weight).tr()));
            let logits = leaf(&(exact / 0.8));
            let mask = Tensor::zeros([rows, vocab], (Kind::Double, HOST));
            for (row, kept) in nucleus.into_iter().flatten().enumerate() {
                let row = mask.get(row as i64);
                let _ = row.shallow_clone().fill_(f64::NEG_INFINITY).index_fill_(0, &Tensor::from_slice(kept), 0.0);
            }
            let masked = &logits + mask;
            let log_softmax = masked.log_softmax(-1, Kind::Double);
            let logprobs = log_softmax.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
            backward(&logprobs, &grads);
            let probabilities = log_softmax.exp();
            let entropy = -(&probabilities * log_softmax.clamp_min(-1e30)).sum_dim_intlist(
                [-1i64].as_slice(),
                false,
                Kind::Double,
            );

            let weight = case.ops.matmul_input(&weight, dtype);
            let input = case.ops.matmul_input(&hidden, dtype);
            let chunk = Chunk::new(dtype, &weight, input, &targets, &over, 0..rows as usize);
            let (stats, softmax) = case.ops.logprobs_train(&chunk);
            case.assert_close("logprobs", &stats.logprobs, &logprobs);
            case.assert_close("entropy", &stats.entropy, &entropy);
            let found = Tensor::zeros([rows, vocab], (Kind::Float, HOST));
            softmax.gradients(&grads, &mut |ids, part| {
                found.narrow(1, ids.start as i64, ids.len() as i64).copy_(&part);
            });
            case.assert_close("gradient of logits", &found, &logits.grad());
            let unkept = case.ops.logprobs(&chunk);
            case.assert_close("logprobs alone", &unkept.logprobs, &logprobs);
        }
    });
}

/// By the definition: ids by falling probability, of equal ones the lowest first, until their mass reaches
/// top-p; then the first kept id, ascending, at which the running mass exceeds the drawn part of all of it.
fn sampled(logits: &[f64], top_p: f64, uniform: f64) -> (i64, Vec<i64>) {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|one, other| weights[*other].total_cmp(&weights[*one]).then(one.cmp(other)));
    let (mut mass, mut kept) = (0.0, Vec::new());
    for id in order {
        if mass < top_p * total || top_p >= 1.0 {
            mass += weights[id];
            kept.push(id);
        }
    }
    kept.sort_unstable();
    let mut left = uniform * kept.iter().map(|&id| weights[id]).sum::<f64>();
    let mut last = kept[kept.len() - 1];
    for &id in &kept {
        left -= weights[id];
        if left < 0.0 {
            last = id;
            break;
        }
    }
    (last as i64, kept.into_iter().map(|id| id as i64).collect())
}

#[test]
fn samples() {
    let (rows, vocab, used) = (64i64, 700i64, 650i64);
    for ops in BACKENDS {
        let _generator = seeded(11);
        let logits = Tensor::randn([rows, vocab], (Kind::Float, HOST)) * 3.0;
        let _ = logits.narrow(1, used, vocab - used).fill_(50.0); // ids that no token uses
        let uniform = |row: usize| (row as f64 * 0.618_034 + 0.01).fract();
        for (temperature, top_p) in [(0.0, 0.9), (1.0, 1.0), (0.7, 0.9), (1.3, 0.5), (1.0, 1e-6)] {
            let sampling =
                Sampling { temperature, top_p, max_tokens: 1, stop_ids: Vec::new(), vocab: used, record_nucleus: true };
            let found = ops.sample(logits.copy(), &sampling, &uniform).unwrap();
            for (row, sample) in found.iter().enumerate() {
                let logits = Vec::<f32>::try_from(logits.get(row as i64).narrow(0, 0, used)).unwrap();
                let scaled: Vec<f64> = logits
                    .iter()
                    .map(|logit| f64::from(*logit) / if temperature == 0.0 { 1.0 } else { temperature })
                    .collect();
                let top_p = if temperature == 0.0 { 1e-6 } else { top_p };
                let (token, nucleus) = sampled(&scaled, top_p, uniform(row));
                assert_eq!(sample.token, token, "{} row {row} at {temperature}, {top_p}", ops.name());
                assert_eq!(sample.nucleus.as_ref(), Some(&nucleus), "{} row {row}", ops.name());
            }
        }
        let broken = logits * f64::NAN;
        let sampling = Sampling {
            temperature: 1.0,
            top_p: 0.9,
            max_tokens: 1,
            stop_ids: vec![],
            vocab: used,
            record_nucleus: false,
        };
        assert!(ops.sample(broken, &sampling, &uniform).is_err(), "{}", ops.name());
    }
}

#[test]
fn steps_of_adamw() {
    let constants = AdamWStep {
        grad_scale: 0.5,
        decay: 0.999,
        betas: [0.9, 0.95],
        eps: 1e-8,
        step_size: 0.02,
        root_correction2: 0.3,
    };
    for ops in BACKENDS {
        let _generator = seeded(2);
        let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, HOST));
        let parameters = [random(&[3000, 2]), random(&[5])].map(|parameter| parameter.set_requires_grad(true));
        let mut slots: Vec<AdamWSlot> = parameters.iter().map(|parameter| AdamWSlot::new("p", parameter)).collect();
        let mut exact: Vec<[Tensor; 3]> = parameters
            .iter()
            .map(|parameter| {
                let value = parameter.detach().to_kind(Kind::Double).copy();
                let zeros = value.zeros_like();
                [value, zeros.copy(), zeros]
            })
            .collect();
        for step in 0..3 {
            let mut norm = 0.0;
            for (parameter, [value, first, second]) in parameters.iter().zip(&mut exact) {
                let grad = random(&parameter.size());
                backward(&parameter.to_kind(Kind::Double), &grad);
                let grad = grad.to_kind(Kind::Double);
                norm += grad.square().sum(Kind::Double).double_value(&[]);
                let grad = grad * constants.grad_scale;
                *first = &*first * 0.9 + &grad * 0.1;
                *second = &*second * 0.95 + grad.square() * 0.05;
                *value = &*value * constants.decay
                    - constants.step_size * &*first / (second.sqrt() / constants.root_correction2 + constants.eps);
            }
            let grads: Vec<Tensor> = slots.iter().filter_map(AdamWSlot::grad).collect();
            let found = ops.grad_norm(&grads);
            assert!((found / norm.sqrt() - 1.0).abs() < 1e-6, "{} step {step}: norm {found}", ops.name());
            tch::no_grad(|| ops.adamw_step(&mut slots, &constants));
            for (slot, [value, first, second]) in slots.iter().zip(&exact) {
                let case = Case { ops, precision: ops.precision(Kind::Float), tolerance: 2e-6 };
                case.assert_close("adamw, parameter", &slot.parameter, value);
                case.assert_close("adamw, first moment", &slot.exp_avg, first);
                case.assert_close("adamw, second moment", &slot.exp_avg_sq, second);
                assert_eq!(slot.grad().unwrap().abs().max().double_value(&[]), 0.0);
            }
            slots.iter_mut().for_each(|slot| ops.find_touched(slot));
            assert!(slots.iter().all(|slot| slot.touched.iter().all(|touched| *touched)));
        }
    }
}

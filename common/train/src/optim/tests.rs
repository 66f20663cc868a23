//! AdamW by hand, against PyTorch, and across a save.

use align_kernels::HOST;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{IndexOp, Kind, Tensor};

use super::*;
use align_kernels::adamw::BLOCK;
use align_kernels::batch::FlatBatch;
use align_model::{CausalLm, ModelOptions, Over, Saved};
use align_run::checkpoint::Snapshot;

fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn leaf(values: &[f64], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).to_kind(Kind::Float).view(shape).set_requires_grad(true)
}

/// Adds `grad` to the parameter's gradient.
fn add_grad(parameter: &Tensor, grad: &[f64]) {
    let grad = Tensor::from_slice(grad).to_kind(Kind::Float).view(parameter.size().as_slice());
    (parameter * grad).sum(Kind::Float).backward();
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).view(-1)).unwrap()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * expected.abs().max(1e-3), "{what}: {found}, not {expected}");
    }
}

#[test]
fn the_first_step_by_hand() {
    let parameter = leaf(&[1.0, 1.0], &[2]);
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    let mut optimizer = AdamW::new([("p", &parameter)], options);
    add_grad(&parameter, &[0.5, -0.25]);
    optimizer.step(0.1, 1.0);
    // 1 · (1 − 0.1 · 0.1) = 0.99; m̂ = g and √v̂ = |g|, so the step is lr against the gradient's sign.
    assert_close(&values(&parameter), &[0.89, 1.09], 1e-6, "after one step");
    assert_eq!(optimizer.steps(), 1);
}

#[test]
fn eps_is_added_after_the_bias_correction() {
    let parameter = leaf(&[0.0], &[]);
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1.0, weight_decay: 0.0 };
    let mut optimizer = AdamW::new([("p", &parameter)], options);
    add_grad(&parameter, &[1.0]);
    optimizer.step(0.1, 1.0);
    // −0.1 · 1 / (1 + 1); with eps inside, before the correction, it would be −0.1 · 1 / (1 + 1/√0.05).
    assert_close(&values(&parameter), &[-0.05], 1e-6, "after one step");
}

#[test]
fn steps_and_norms_equal_pytorch() {
    let file = read_json(&golden("optim/adamw.json"));
    for (name, case) in file["cases"].as_object().unwrap() {
        let parameters: Vec<(&str, Tensor)> = case["shapes"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, shape)| {
                let shape: Vec<i64> = floats(shape).iter().map(|&size| size as i64).collect();
                (key.as_str(), leaf(&floats(&case["start"][key]), &shape))
            })
            .collect();
        let settings = &case["settings"];
        let options = AdamWOptions {
            betas: floats(&settings["betas"]).try_into().unwrap(),
            eps: settings["eps"].as_f64().unwrap(),
            weight_decay: settings["weight_decay"].as_f64().unwrap(),
        };
        let mut optimizer = AdamW::new(parameters.iter().map(|(name, tensor)| (*name, tensor)), options);
        for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            for (key, parameter) in &parameters {
                add_grad(parameter, &floats(&step["grads"][key]));
            }
            let norm = optimizer.grad_norm();
            assert_close(&[norm], &[step["norm"].as_f64().unwrap()], 1e-6, "norm");
            let scale = clip_scale(norm, settings["max_norm"].as_f64().unwrap());
            optimizer.step(step["lr"].as_f64().unwrap(), scale);
            for (key, parameter) in &parameters {
                let what = format!("{name}, step {number}, {key}");
                assert_close(&values(parameter), &floats(&step["parameters"][key]), 1e-5, &what);
            }
        }
        for slot in &optimizer.slots {
            assert_close(&values(&slot.exp_avg), &floats(&case["exp_avg"][&slot.name]), 1e-5, "exp_avg");
            assert_close(&values(&slot.exp_avg_sq), &floats(&case["exp_avg_sq"][&slot.name]), 1e-5, "exp_avg_sq");
        }
    }
}

/// Six steps of whole models. The recorded runs decay only matrices, so each run here uses two optimizers.
#[test]
fn six_steps_of_tiny_models_equal_transformers() {
    for name in ["qwen2_tied_gqa", "qwen2_yarn", "qwen3_untied_hd20"] {
        let folder = golden("tiny_models").join(name);
        let json = read_json(&folder.join("golden.json"));
        let arrays = align_run::checkpoint::read_tensors(&folder.join("golden.safetensors")).unwrap();
        let array = |name: &str| &arrays.iter().find(|(own, _)| own == name).unwrap().1;
        let options = ModelOptions { device: HOST, compute: Kind::Float, trainable: true, recompute_layers: false };
        let model = CausalLm::load(&folder, &options).unwrap();

        let (mut batch, mut positions, mut targets) = (FlatBatch::new(), Vec::new(), Vec::new());
        for (row, len) in floats(&json["lens"]).into_iter().enumerate() {
            let read = |name: &str| Vec::<i64>::try_from(array(name).i(row as i64)).unwrap()[..len as usize].to_vec();
            let (ids, labels) = (read("input_ids"), read("labels"));
            let start = batch.len();
            batch.push(&ids, None);
            for at in (1..ids.len()).filter(|&at| labels[at] != -100) {
                positions.push((start + at - 1) as i64);
                targets.push(labels[at]);
            }
        }
        let (positions, targets) = (Tensor::from_slice(&positions), Tensor::from_slice(&targets));

        let recorded = &json["adamw"];
        let with_decay = |weight_decay, matrices: bool| {
            let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay };
            let own = model.parameters().iter().filter(|parameter| (parameter.tensor.dim() >= 2) == matrices);
            AdamW::new(own.map(|parameter| (parameter.name.as_str(), &parameter.tensor)), options)
        };
        let (mut decayed, mut plain) = (with_decay(0.1, true), with_decay(0.0, false));
        let all = AdamW::new(
            model.parameters().iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor)),
            AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0 },
        );
        for step in recorded["steps"].as_array().unwrap() {
            let forward = model.forward_train(&batch, Some(&positions), None);
            let count = targets.size1().unwrap() as f64;
            let stats =
                model.backward(forward, &targets, &Over::full(), &mut |_, logprobs| logprobs.full_like(-1.0 / count));
            let loss = -stats.logprobs.mean(Kind::Double).double_value(&[]);
            let norm = all.grad_norm();
            let (expected_loss, expected_norm) =
                (step["loss"].as_f64().unwrap(), step["grad_norm_before_clip"].as_f64().unwrap());
            assert!((loss - expected_loss).abs() < 1e-4, "{name} {step}: loss {loss}");
            assert!((norm - expected_norm).abs() < 1e-3 * expected_norm, "{name} {step}: norm {norm}");
            let (lr, scale) = (step["lr"].as_f64().unwrap(), clip_scale(norm, recorded["clip"].as_f64().unwrap()));
            decayed.step(lr, scale);
            plain.step(lr, scale);
        }
        for parameter in model.parameters() {
            let expected = recorded["final_param_norms"][&parameter.name].as_f64().unwrap();
            let found = parameter.tensor.norm().double_value(&[]);
            // A key bias hardly affects the loss, and Adam scales rounding errors of its tiny gradients up to
            // full steps.
            assert!((found - expected).abs() < 1e-3 * expected, "{name} {}: {found}, not {expected}", parameter.name);
        }
    }
}

/// Chunks and threads do not change a parameter's update.
#[test]
fn chunks_change_nothing() {
    let numel = 700_001;
    let start = Tensor::arange(numel, (Kind::Float, HOST)) / numel as f64 - 0.3;
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    let run = |parts: &[Tensor]| -> Tensor {
        let leaves: Vec<Tensor> = parts.iter().map(|part| part.copy().set_requires_grad(true)).collect();
        let mut optimizer = AdamW::new(leaves.iter().map(|leaf| ("p", leaf)), options);
        for _ in 0..3 {
            leaves.iter().for_each(|leaf| (leaf * leaf).sum(Kind::Float).backward());
            optimizer.step(0.01, 1.0);
        }
        Tensor::cat(&leaves, 0).detach()
    };
    let (whole, halves) =
        (run(std::slice::from_ref(&start)), run(&[start.narrow(0, 0, 1000), start.narrow(0, 1000, numel - 1000)]));
    assert!(whole.equal(&halves));
}

/// Blocks of an embedding whose tokens occur late or never, with a resume in between, against the formula.
#[test]
fn rows_without_a_gradient_so_far_are_only_decayed() {
    let numel = 5 * BLOCK + 3;
    let start: Vec<f64> = (0..numel).map(|at| (at as f64).sin()).collect();
    let has_grad = |at: usize, step: usize| (at / BLOCK == 1) || (at / BLOCK == 3 && step >= 2);
    let (mut parameter, mut exp_avg, mut exp_avg_sq) = (start.clone(), vec![0.0; numel], vec![0.0; numel]);

    let leaves = [leaf(&start, &[numel as i64]), leaf(&vec![0.0; numel], &[numel as i64])];
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    let mut optimizers = leaves.each_ref().map(|leaf| AdamW::new([("p", leaf)], options));
    let (lr, mut now) = (0.01, 0);
    for step in 0..4 {
        let grad: Vec<f64> =
            (0..numel).map(|at| if has_grad(at, step) { (at as f64 + 1.0).cos() } else { 0.0 }).collect();
        for at in 0..numel {
            exp_avg[at] = 0.9 * exp_avg[at] + 0.1 * grad[at];
            exp_avg_sq[at] = 0.95 * exp_avg_sq[at] + 0.05 * grad[at] * grad[at];
            let t = step as i32 + 1;
            let (m, v) = (exp_avg[at] / (1.0 - 0.9f64.powi(t)), exp_avg_sq[at] / (1.0 - 0.95f64.powi(t)));
            parameter[at] = parameter[at] * (1.0 - lr * 0.1) - lr * m / (v.sqrt() + 1e-8);
        }
        add_grad(&leaves[now], &grad);
        optimizers[now].step(lr, 1.0);
        assert_close(&values(&leaves[now]), &parameter, 1e-4, &format!("step {step}"));
        if step == 2 {
            let mut state = State::new();
            optimizers[0].save("policy", &mut state);
            optimizers[1].load("policy", &state).unwrap();
            now = 1;
        }
    }
    // The reference computes every block.
    let touched = match align_kernels::ops(HOST).name() {
        "cpu" => [false, true, false, true, false, false],
        _ => [true; 6],
    };
    assert_eq!(optimizers[1].slots[0].touched, touched, "blocks that are not skipped");
}

#[test]
fn a_norm_over_many_elements_is_exact() {
    // In fp32 this sum has a relative error of 0.001.
    let parameter = Tensor::zeros([2048, 2048], (Kind::Float, HOST)).set_requires_grad(true);
    (&parameter * 0.5f64).sum(Kind::Float).backward();
    let optimizer = AdamW::new([("p", &parameter)], AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0 });
    assert_eq!(optimizer.grad_norm(), 1024.0);
}

#[test]
fn clipping_leaves_small_and_broken_gradients() {
    assert_eq!(clip_scale(0.5, 1.0), 1.0);
    assert_close(&[clip_scale(0.5, 0.25)], &[0.5], 1e-5, "halved");
    assert_eq!(clip_scale(f64::NAN, 0.25), 1.0);
    assert_eq!(clip_scale(f64::INFINITY, 0.25), 1.0);
}

/// A step with a gradient scale equals, to the bit, a step on scaled gradients, and leaves zero gradients.
#[test]
fn a_step_scales_gradients_and_sets_them_to_zero() {
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    let start: Vec<f64> = (0..BLOCK + 9).map(|at| (at as f64).sin()).collect();
    let [scaled, before] = [(); 2].map(|()| leaf(&start, &[start.len() as i64]));
    let mut optimizers = [&scaled, &before].map(|leaf| AdamW::new([("p", leaf)], options));
    for step in 0..3 {
        let grad: Vec<f64> = (0..start.len()).map(|at| ((at + step) as f64).cos()).collect();
        [&scaled, &before].into_iter().for_each(|leaf| add_grad(leaf, &grad));
        optimizers[0].step(0.01, 0.3);
        let _ = tch::no_grad(|| before.grad().g_mul_scalar_(0.3));
        optimizers[1].step(0.01, 1.0);
        assert!(scaled.detach().equal(&before.detach()), "step {step}");
        assert_eq!(values(&scaled.grad()), vec![0.0; start.len()]);
    }
}

/// Whether libtorch has allocated a gradient must not matter: a resumed process starts without gradients.
#[test]
fn no_gradient_is_a_zero_gradient() {
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    let (zero, none) = (leaf(&[1.0, -2.0], &[2]), leaf(&[1.0, -2.0], &[2]));
    add_grad(&zero, &[0.0, 0.0]);
    for parameter in [&zero, &none] {
        AdamW::new([("p", parameter)], options).step(0.1, 1.0);
    }
    assert!(zero.detach().equal(&none.detach()));
}

#[test]
fn a_saved_optimizer_continues_bit_for_bit() {
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    let grads = |step: usize| -> Vec<f64> { (0..7).map(|i| ((step * 7 + i) as f64).sin()).collect() };
    let step = |optimizer: &mut AdamW, parameter: &Tensor, number: usize| {
        add_grad(parameter, &grads(number));
        let scale = clip_scale(optimizer.grad_norm(), 1.0);
        optimizer.step(0.01, scale);
    };
    let start: Vec<f64> = (0..7).map(|i| (i as f64).cos()).collect();
    let whole = leaf(&start, &[7]);
    let mut optimizer = AdamW::new([("p", &whole)], options);
    let folder = tempfile::tempdir().unwrap();
    let mut path = PathBuf::new();
    for number in 0..10 {
        step(&mut optimizer, &whole, number);
        if number == 4 {
            let mut state = State::new();
            optimizer.save("policy", &mut state);
            let snapshot = Snapshot { models: Box::new(Vec::<(&str, Saved)>::new()), state };
            path = align_run::checkpoint::save(folder.path(), 5, snapshot, |_| Ok(())).unwrap();
        }
    }

    let resumed = leaf(&[0.0; 7], &[7]);
    let mut optimizer = AdamW::new([("p", &resumed)], options);
    let state = align_run::checkpoint::load(&path).unwrap();
    optimizer.load("policy", &state).unwrap();
    assert_eq!(optimizer.steps(), 5);
    (5..10).for_each(|number| step(&mut optimizer, &resumed, number));
    assert!(whole.detach().equal(&resumed.detach()));

    let error = optimizer.load("value", &state).unwrap_err().to_string();
    assert!(error.contains("`value/master/p` is missing") && error.contains("`value/steps` is missing"), "{error}");
    let other = leaf(&[0.0; 3], &[3]);
    let error = AdamW::new([("p", &other)], options).load("policy", &state).unwrap_err().to_string();
    assert!(error.contains("`policy/exp_avg/p` has shape [7], expected [3]"), "{error}");
}

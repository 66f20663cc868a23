//! What is written of a trained model, in which dtype, and what is noticed when it is something else.

use align_kernels::HOST;
use std::fs;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::Value;
use tch::Kind;

use super::folders::{Raw, copy, edit_config, read_raw, write_raw};
use super::*;
use crate::{CausalLm, LmReader, ScalarModel, ScalarReader, Writing, WrittenLm, WrittenScalar, divergence};
use align_kernels::batch::FlatBatch;

const RUN: Writing = Writing { dtype: None, seed: 5 };

fn as_dtype(dtype: Kind) -> Writing {
    Writing { dtype: Some(dtype), ..RUN }
}

/// A copy of a tiny model in another dtype.
fn in_dtype(model: &str, dtype: Kind) -> tempfile::TempDir {
    let dir = copy(model);
    let lm = CausalLm::load(dir.path(), &trainable()).unwrap();
    lm.saved(as_dtype(dtype)).write(dir.path()).unwrap();
    dir
}

/// Moves every weight by a little less than half of what separates it from its neighbour in bfloat16, as
/// training would.
fn train(parameters: &[crate::Parameter]) {
    let _guard = tch::no_grad_guard();
    for parameter in parameters {
        let mut tensor = parameter.tensor.detach();
        let _ = tensor.g_mul_scalar_(1.0 + 2f64.powi(-10));
    }
}

/// (name, values) of a folder's weights, by name.
fn values(dir: &Path) -> Vec<(String, Tensor)> {
    let mut tensors = Tensor::read_safetensors(dir.join("model.safetensors")).unwrap();
    tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
    tensors
}

fn dtypes(dir: &Path) -> Vec<Dtype> {
    let mut dtypes: Vec<Dtype> = read_raw(&dir.join("model.safetensors")).iter().map(|(_, dtype, ..)| *dtype).collect();
    dtypes.dedup();
    dtypes
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

#[test]
fn training_that_rounding_to_nearest_would_undo_is_written_on_average() {
    for dtype in [Kind::BFloat16, Kind::Half] {
        let source = in_dtype("qwen2_tied_gqa", dtype);
        let model = CausalLm::load(source.path(), &trainable()).unwrap();
        train(model.parameters());
        let out = tempfile::tempdir().unwrap();
        model.saved(RUN).write(out.path()).unwrap();
        let sum = |dir: &Path| -> f64 {
            values(dir)
                .iter()
                .map(|(_, tensor)| tensor.to_kind(Kind::Double).abs().sum(Kind::Double).double_value(&[]))
                .sum()
        };
        let (before, written) = (sum(source.path()), sum(out.path()));
        let trained = before * (1.0 + 2f64.powi(-10));
        assert!(
            ((written - before) / (trained - before) - 1.0).abs() < 0.05,
            "{dtype:?}: {before} {trained} {written}"
        );
        // To the nearest, bfloat16 would keep next to all of its numbers.
        let nearest = |(_, tensor): &(String, Tensor)| {
            (tensor.to_kind(Kind::Float) * (1.0 + 2f64.powi(-10))).to_kind(dtype).ne_tensor(tensor)
        };
        let moved: i64 = values(source.path()).iter().map(|pair| nearest(pair).sum(Kind::Int64).int64_value(&[])).sum();
        assert!(dtype == Kind::Half || moved == 0, "{moved} weights move anyway");
    }
}

#[test]
fn a_model_is_written_in_the_dtype_that_is_asked_for_and_says_so() {
    let out = tempfile::tempdir().unwrap();
    let write = |saved: crate::Saved, name: &str| {
        let dir = out.path().join(name);
        saved.write(&dir).unwrap();
        saved.check(&dir).unwrap();
        dir
    };
    let source = in_dtype("qwen2_tied_gqa", Kind::BFloat16);
    let key = if config(source.path()).get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let lm = CausalLm::load(source.path(), &trainable()).unwrap();
    let scalar = ScalarModel::load(source.path(), &trainable(), 3).unwrap();
    train(lm.parameters());
    train(scalar.parameters());
    for (name, dtype, expected, said) in [
        ("source", None, Dtype::BF16, "bfloat16"),
        ("float32", Some(Kind::Float), Dtype::F32, "float32"),
        ("bfloat16", Some(Kind::BFloat16), Dtype::BF16, "bfloat16"),
        ("float16", Some(Kind::Half), Dtype::F16, "float16"),
    ] {
        let writing = Writing { dtype, seed: 5 };
        let [lm, scalar] =
            [lm.saved(writing), scalar.saved(writing)].map(|saved| write(saved, &format!("{name}-{}", saved_id())));
        for dir in [lm, scalar] {
            assert_eq!(dtypes(&dir), [expected], "{name}");
            assert_eq!(config(&dir)[key], said, "{name}");
            assert_eq!(config(&dir).get(if key == "dtype" { "torch_dtype" } else { "dtype" }), None);
        }
    }
    // In float32 nothing is lost, to the bit.
    let again = CausalLm::load(&write(lm.saved(as_dtype(Kind::Float)), "again"), &trainable()).unwrap();
    assert!(again.parameters().iter().zip(lm.parameters()).all(|(one, other)| one.tensor.equal(&other.tensor)));
}

fn saved_id() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn a_config_says_the_dtype_in_its_own_spelling() {
    let spelled = |keys: &[(&str, Value)], dtype: Kind| {
        let dir = copy("qwen1_plain");
        edit_config(dir.path(), |config| {
            ["bf16", "fp16", "fp32", "dtype", "torch_dtype"].iter().for_each(|key| drop(config.remove(*key)));
            config.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        });
        let out = tempfile::tempdir().unwrap();
        CausalLm::load(dir.path(), &trainable()).unwrap().saved(as_dtype(dtype)).write(out.path()).unwrap();
        let mut found = config(out.path());
        found.as_object_mut().unwrap().retain(|key, _| key.contains("16") || key == "fp32" || key.contains("dtype"));
        found.to_string()
    };
    let no = || Value::Bool(false);
    assert_eq!(spelled(&[("torch_dtype", "float32".into())], Kind::Half), r#"{"torch_dtype":"float16"}"#);
    assert_eq!(spelled(&[("dtype", "float32".into())], Kind::BFloat16), r#"{"dtype":"bfloat16"}"#);
    assert_eq!(spelled(&[], Kind::BFloat16), r#"{"torch_dtype":"bfloat16"}"#);
    assert_eq!(spelled(&[], Kind::Float), "{}");
    let flags = [("bf16", no()), ("fp16", no()), ("fp32", Value::Bool(true))];
    assert_eq!(spelled(&flags, Kind::BFloat16), r#"{"bf16":true,"fp16":false,"fp32":false}"#);
    let idle = [("bf16", no()), ("fp16", no()), ("fp32", no()), ("torch_dtype", "float32".into())];
    assert_eq!(spelled(&idle, Kind::Half), r#"{"bf16":false,"fp16":false,"fp32":false,"torch_dtype":"float16"}"#);
}

#[test]
fn what_is_read_back_as_something_else_is_noticed() {
    type Change = fn(&Path);
    fn change_weights(dir: &Path, change: impl FnOnce(&mut Raw)) {
        let file = dir.join("model.safetensors");
        let mut raw = read_raw(&file);
        change(&mut raw);
        write_raw(&file, &raw);
    }
    let changes: [(&str, Change, &str); 5] = [
        (
            "the lowest bit of a weight",
            |dir| {
                change_weights(dir, |raw| {
                    raw.iter_mut().find(|(name, ..)| name.contains("1.mlp.up_proj")).unwrap().3[0] ^= 1
                })
            },
            "layers.1.mlp.up_proj.weight differs from what was written",
        ),
        (
            "two weights, exchanged",
            |dir| {
                change_weights(dir, |raw| {
                    for (name, ..) in raw {
                        *name = match name.as_str() {
                            "model.layers.0.mlp.up_proj.weight" => "model.layers.0.mlp.gate_proj.weight".to_owned(),
                            "model.layers.0.mlp.gate_proj.weight" => "model.layers.0.mlp.up_proj.weight".to_owned(),
                            _ => continue,
                        };
                    }
                });
            },
            "layers.0.mlp.gate_proj.weight differs from what was written",
        ),
        (
            "a config",
            |dir| edit_config(dir, |config| drop(config.insert("rope_theta".to_owned(), 5e5.into()))),
            "config.json: ",
        ),
        ("a tokenizer", |dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap(), "tokenizer.json: "),
        ("a file that is gone", |dir| fs::remove_file(dir.join("model.safetensors")).unwrap(), "holds no weights"),
    ];
    for dtype in [Kind::Float, Kind::BFloat16, Kind::Half] {
        let source = in_dtype("qwen2_tied_gqa", Kind::BFloat16);
        fs::write(source.path().join("tokenizer.json"), "{\"a\": 1}").unwrap();
        let lm = CausalLm::load(source.path(), &trainable()).unwrap();
        let scalar = ScalarModel::load(source.path(), &trainable(), 3).unwrap();
        train(lm.parameters());
        train(scalar.parameters());
        for saved in [lm.saved(as_dtype(dtype)), scalar.saved(as_dtype(dtype))] {
            for (what, change, said) in &changes {
                let out = tempfile::tempdir().unwrap();
                saved.write(out.path()).unwrap();
                saved.check(out.path()).unwrap();
                change(out.path());
                let error = saved.check(out.path()).unwrap_err().to_string();
                assert!(error.contains(said), "{what} in {dtype:?}: {error}");
            }
        }
    }
}

/// A model that computes something else than its file says is noticed where the file's numbers are its own.
#[test]
fn a_model_in_float32_is_asked_again() {
    let (lm, out) = (CausalLm::load(&tiny("qwen1_plain"), &trainable()).unwrap(), tempfile::tempdir().unwrap());
    let saved = lm.saved(RUN);
    train(lm.parameters()); // what it says of the probe is of before
    saved.write(out.path()).unwrap();
    let error = saved.check(out.path()).unwrap_err().to_string();
    assert!(error.contains("its outputs differ from those of the model in memory"), "{error}");
}

#[test]
fn a_weight_beyond_the_dtype_is_refused_by_name() {
    let (lm, out) = (CausalLm::load(&tiny("qwen2_tied_gqa"), &trainable()).unwrap(), tempfile::tempdir().unwrap());
    tch::no_grad(|| drop(lm.parameters()[3].tensor.detach().view(-1).get(2).fill_(-7e4)));
    let error = lm.saved(as_dtype(Kind::Half)).write(out.path()).unwrap_err().to_string();
    let name = &lm.parameters()[3].name;
    assert!(
        error.contains(&format!("{name} has a weight of -70000, which is beyond the numbers of float16")),
        "{error}"
    );
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    lm.saved(as_dtype(Kind::BFloat16)).write(out.path()).unwrap();
}

#[test]
fn a_folder_that_is_asked_where_it_lies_says_what_a_loaded_model_says() {
    for (name, dtype) in
        [("qwen2_tied_gqa", Kind::Float), ("qwen3_untied_hd20", Kind::BFloat16), ("qwen1_plain", Kind::Half)]
    {
        let (source, out) = (in_dtype(name, dtype), tempfile::tempdir().unwrap());
        let mut batch = FlatBatch::new();
        let prefix = batch.push(&[5, 6, 7], None);
        batch.push(&[8, 9], Some(prefix));
        batch.push(&[300, 1, 2], None);
        let (places, targets) = (Tensor::from_slice(&[1i64, 4, 7]), Tensor::from_slice(&[7i64, 3, 300]));

        let loaded = CausalLm::load(source.path(), &frozen(Kind::Float)).unwrap();
        let mapped = WrittenLm::open(source.path(), HOST).unwrap();
        let hidden = [loaded.read_at(&batch, &places), mapped.read_at(&batch, &places)];
        assert!(distance(&hidden[0], &hidden[1]) < 1e-4, "{name}");
        assert!(distance(&loaded.all_logits(&hidden[0]), &mapped.all_logits(&hidden[1])) < 1e-4, "{name}");
        let stats = [loaded.target_logprobs(&hidden[0], &targets), mapped.target_logprobs(&hidden[1], &targets)];
        assert!(distance(&stats[0].logprobs, &stats[1].logprobs) < 1e-4, "{name}");
        assert!(divergence(&loaded, &mapped, &batch, &places).abs() < 1e-6, "{name}");

        let scalar = ScalarModel::load(source.path(), &trainable(), 3).unwrap();
        scalar.saved(as_dtype(dtype)).write(out.path()).unwrap();
        let mut loaded = ScalarModel::load(out.path(), &frozen(Kind::Float), 0).unwrap();
        loaded.set_shift(2.0); // no part of what is written
        let mapped = WrittenScalar::open(out.path(), HOST).unwrap();
        let scalars = [loaded.scalars_at(&batch, &places), mapped.scalars_at(&batch, &places)];
        assert!(distance(&scalars[0], &scalars[1]) < 1e-4, "{name}");
    }
}

/// libtorch has the divergence of whole distributions, too.
#[test]
fn the_divergence_of_two_models() {
    let [p, q] = [1, 2].map(|seed| {
        let config = crate::ModelConfig::read(&tiny("qwen2_untied_mqa")).unwrap();
        CausalLm::random(config, seed, &frozen(Kind::Float))
    });
    let mut batch = FlatBatch::new();
    batch.push(&[5, 6, 7, 8, 100, 3], None);
    let places = Tensor::from_slice(&[0i64, 2, 5]);
    let logprobs = |model: &CausalLm| {
        let hidden = model.hidden(&batch, None).index_select(0, &places);
        model.head().logits(&hidden).log_softmax(-1, Kind::Double)
    };
    let expected = logprobs(&q).kl_div(&logprobs(&p), tch::Reduction::Sum, true).double_value(&[]);
    let found = divergence(&p, &q, &batch, &places);
    assert!(expected > 1e-3 && (found / expected - 1.0).abs() < 1e-5, "{found}, expected {expected}");
}

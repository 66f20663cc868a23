//! Checkpoint folders: written, read back, and refused.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use tch::Kind;
use tempfile::TempDir;

use super::*;
use crate::weights;
use crate::{CausalLm, Face, Family, ModelConfig, ScalarModel, Writing, inspect};
use align_core::error::Error;
use align_kernels::batch::FlatBatch;

/// A copy of a tiny model that a test may damage.
pub(super) fn copy(model: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny(model).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// What `inspect` says, one problem a line, without the folder.
fn refusal(dir: &Path) -> String {
    let error = inspect(dir).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    error.to_string().replace(&format!("{}/", dir.display()), "").replace(&dir.display().to_string(), "DIR")
}

pub(super) fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = dir.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
}

pub(super) type Raw = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

pub(super) fn read_raw(path: &Path) -> Raw {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect()
}

pub(super) fn write_raw(path: &Path, tensors: &Raw) {
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn logits(dir: &Path) -> Tensor {
    let model = CausalLm::load(dir, &frozen(Kind::Float)).unwrap();
    let mut batch = FlatBatch::new();
    batch.push(&[5, 6, 7, 8], None);
    model.head().logits(&model.hidden(&batch, None))
}

#[test]
fn a_saved_model_has_the_same_names_dtypes_bytes_and_config() {
    for name in ["qwen2_tied_gqa", "qwen3_attnbias", "qwen1_plain"] {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("new");
        CausalLm::load(&tiny(name), &trainable()).unwrap().save(&folder).unwrap();
        let sorted = |dir: &Path| {
            let mut raw = read_raw(&dir.join("model.safetensors"));
            raw.sort();
            raw
        };
        assert!(sorted(&folder) == sorted(&tiny(name)), "{name}");
        let config = |dir: &Path| -> serde_json::Value {
            serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(config(&folder), config(&tiny(name)));
        assert_eq!(folder.join("generation_config.json").exists(), tiny(name).join("generation_config.json").exists());
    }
}

#[test]
fn a_bf16_checkpoint_stays_bf16_and_its_masters_are_fp32() {
    let dir = copy("qwen2_tied_gqa");
    let path = dir.path().join("model.safetensors");
    let mut raw = read_raw(&path);
    for (_, dtype, shape, data) in &mut raw {
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let half = Tensor::from_data_size(data, &shape, Kind::Float).to_kind(Kind::BFloat16);
        (*dtype, *data) = (Dtype::BF16, vec![0; half.numel() * 2]);
        half.copy_data_u8(data, half.numel());
    }
    write_raw(&path, &raw);
    let model = CausalLm::load(dir.path(), &trainable()).unwrap();
    assert!(model.parameters().iter().all(|parameter| parameter.tensor.kind() == Kind::Float));
    let out = tempfile::tempdir().unwrap();
    model.save(out.path()).unwrap();
    let sorted = |path: &Path| {
        let mut raw = read_raw(path);
        raw.sort();
        raw
    };
    assert!(sorted(&out.path().join("model.safetensors")) == sorted(&path));
    let frozen = CausalLm::load(dir.path(), &frozen(Kind::BFloat16)).unwrap();
    assert!(frozen.parameters().iter().all(|parameter| parameter.tensor.kind() == Kind::BFloat16));
}

#[test]
fn shards_are_written_above_the_limit_and_read_back() {
    let out = tempfile::tempdir().unwrap();
    let model = CausalLm::load(&tiny("qwen2_tied_gqa"), &frozen(Kind::Float)).unwrap();
    model.save(out.path()).unwrap();
    fs::remove_file(out.path().join("model.safetensors")).unwrap();
    weights::write(out.path(), &model.parameters().iter().collect::<Vec<_>>(), Writing::default(), 100_000).unwrap();
    assert!(out.path().join("model-00001-of-00004.safetensors").exists());
    assert!(!out.path().join("model.safetensors").exists());
    assert!(logits(out.path()).equal(&logits(&tiny("qwen2_tied_gqa"))));

    let index = out.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("model-00001-of-00004.safetensors", "../model-00001-of-00004.safetensors")).unwrap();
    assert!(refusal(out.path()).contains("expected the plain name of a file in the folder"));
    fs::write(&index, text.replacen("model-00001-of", "model-00002-of", 1)).unwrap();
    assert!(
        refusal(out.path()).contains("is not in model-00002-of-00004.safetensors, expected it where the index puts it")
    );
    fs::write(&index, &text).unwrap();
    fs::remove_file(out.path().join("model-00003-of-00004.safetensors")).unwrap();
    assert!(refusal(out.path()).starts_with("model-00003-of-00004.safetensors: cannot be read"));
}

#[test]
fn a_reward_model_is_a_sequence_classifier_with_one_label() {
    let model = ScalarModel::load(&tiny("qwen2_untied_mqa"), &trainable(), 7).unwrap();
    let head = &model.parameters().last().unwrap().tensor;
    let deviation = (head * head).mean(Kind::Double).sqrt().double_value(&[]);
    assert!((0.6..1.5).contains(&(deviation * 7.0)), "about 1/√49, not {deviation}");
    let out = tempfile::tempdir().unwrap();
    model.save(out.path()).unwrap();
    let header = inspect(out.path()).unwrap();
    assert_eq!((header.face, header.has_lm_head), (Face::Scalar, false));
    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "Qwen2ForSequenceClassification");
    assert_eq!(config["id2label"].as_object().unwrap().len(), 1);
    assert_eq!(config["pad_token_id"], 0);

    let mut again = ScalarModel::load(out.path(), &trainable(), 8).unwrap();
    assert!(!again.has_new_head());
    let mut batch = FlatBatch::new();
    batch.push(&[5, 6, 7], None);
    let scalars = |model: &ScalarModel| model.scalars(&model.hidden(&batch, None)).detach();
    let raw = scalars(&again);
    assert!(raw.equal(&scalars(&model)));
    again.set_shift(-1.5);
    assert!(distance(&scalars(&again), &(raw - 1.5)) < 1e-6);
    assert!(matches!(CausalLm::load(out.path(), &trainable()), Err(Error::Invalid(_))));
    assert!(ScalarModel::load_with_lm_head(out.path(), &trainable(), 0).is_err());
}

#[test]
fn a_new_head_and_new_weights_are_functions_of_the_seed() {
    let head = |seed| {
        let model = ScalarModel::load(&tiny("qwen2_tied_gqa"), &frozen(Kind::Float), seed).unwrap();
        model.parameters().last().unwrap().tensor.shallow_clone()
    };
    assert!(head(1).equal(&head(1)));
    assert!(!head(1).equal(&head(2)));
    let config = ModelConfig::read(&tiny("qwen2_tied_gqa")).unwrap();
    let weights =
        |seed| CausalLm::random(config.clone(), seed, &frozen(Kind::Float)).parameters()[0].tensor.shallow_clone();
    assert!(weights(1).equal(&weights(1)));
    assert!(!weights(1).equal(&weights(2)));
    let deviation = weights(1).std(true).double_value(&[]);
    assert!((deviation - config.initializer_range).abs() < 0.05 * config.initializer_range, "{deviation}");
}

#[test]
fn a_language_model_head_beside_the_scalar_one_is_trained_but_not_saved() {
    let model = ScalarModel::load_with_lm_head(&tiny("qwen2_untied_mqa"), &trainable(), 0).unwrap();
    let head = model.lm_head().unwrap();
    let mut batch = FlatBatch::new();
    batch.push(&[5, 6, 7], None);
    let forward = model.forward_train(&batch, None, None);
    let hidden = forward.hidden.shallow_clone();
    let targets = Tensor::from_slice(&[6i64, 7, 8]);
    let (_, grad) = head.gradient(&hidden, &targets, &crate::Over::full(), &mut |_, logprobs| logprobs.full_like(-1.0));
    model.backward(forward, &((&hidden * grad).sum(Kind::Float) + model.scalars(&hidden).sum(Kind::Float)));
    assert!(model.parameters().iter().all(|parameter| parameter.tensor.grad().defined()));
    let out = tempfile::tempdir().unwrap();
    model.save(out.path()).unwrap();
    assert!(!inspect(out.path()).unwrap().has_lm_head);
}

#[test]
fn all_differences_are_named_at_once() {
    let dir = copy("qwen2_untied_mqa");
    let path = dir.path().join("model.safetensors");
    let mut raw = read_raw(&path);
    for (name, dtype, shape, _) in &mut raw {
        match name.as_str() {
            "model.norm.weight" => *name = "model.norm.wait".to_owned(),
            "model.layers.1.mlp.up_proj.weight" => shape.reverse(),
            "model.layers.0.input_layernorm.weight" => *dtype = Dtype::I32,
            _ => {}
        }
    }
    write_raw(&path, &raw);
    assert_eq!(
        refusal(dir.path()),
        "model.safetensors: model.layers.0.input_layernorm.weight is I32, expected F32, BF16 or F16\n\
         model.safetensors: model.layers.1.mlp.up_proj.weight has shape [48, 80], expected [80, 48]\n\
         DIR: tensor model.norm.weight is missing, expected it with shape [48] by config.json\n\
         model.safetensors: holds a tensor model.norm.wait [48], expected those of config.json alone"
    );
}

#[test]
fn damaged_files_are_refused() {
    let dir = copy("qwen2_tied_gqa");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for keep in [0, 5, 100, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        let said = refusal(dir.path());
        assert!(said.starts_with("model.safetensors: ") && said.contains("truncated"), "{keep} bytes: {said}");
    }
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        fs::write(&path, bytes).unwrap();
        refusal(dir.path())
    };
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    assert!(header(overlapping, 12).contains("overlaps another tensor"));
    let outside = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,800]}}"#;
    assert!(header(outside, 8).contains("size in bytes"));
    assert!(header("not json", 0).contains("not a safetensors file"));
    fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(refusal(dir.path()).starts_with("model.safetensors: "));
}

#[test]
fn pickled_weights_are_refused_with_the_conversion() {
    let dir = copy("qwen2_tied_gqa");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(!inspect(dir.path()).unwrap().has_weights);
    assert!(matches!(CausalLm::load(dir.path(), &trainable()), Err(Error::Invalid(_))));
    fs::write(dir.path().join("pytorch_model.bin"), b"").unwrap();
    let said = refusal(dir.path());
    assert!(said.starts_with("pytorch_model.bin: ") && said.contains("safe_serialization=True"), "{said}");
}

#[test]
fn configs_that_are_not_supported_are_refused_by_field() {
    let cases: [(&str, serde_json::Value, &str); 7] = [
        ("model_type", "llama".into(), "model_type \"llama\": expected \"qwen\", \"qwen2\" or \"qwen3\""),
        ("hidden_size", "48".into(), "hidden_size \"48\": expected a whole number above 0"),
        ("num_hidden_layers", serde_json::Value::Null, "num_hidden_layers missing"),
        ("num_key_value_heads", 3.into(), "num_key_value_heads 3: expected a divisor of num_attention_heads = 4"),
        ("hidden_act", "gelu".into(), "hidden_act \"gelu\": expected \"silu\""),
        ("dtype", "float8".into(), "dtype \"float8\": expected"),
        (
            "rope_parameters",
            serde_json::json!({"rope_type": "llama3"}),
            "rope_parameters.rope_type \"llama3\": expected",
        ),
    ];
    for (field, value, expected) in cases {
        let dir = copy("qwen2_tied_gqa");
        edit_config(dir.path(), |config| {
            config.insert(field.to_owned(), value);
        });
        let said = refusal(dir.path());
        assert!(said.starts_with(&format!("config.json: {expected}")), "{field}: {said}");
    }
    let dir = copy("qwen2_tied_gqa");
    fs::write(dir.path().join("config.json"), "[]").unwrap();
    assert!(refusal(dir.path()).contains("not a JSON object"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("cannot be read"));
}

#[test]
fn both_spellings_of_a_config_mean_the_same() {
    let dir = copy("qwen2_yarn");
    let before = ModelConfig::read(dir.path()).unwrap();
    edit_config(dir.path(), |config| {
        config.remove("rope_parameters");
        config.remove("dtype");
        config.remove("layer_types");
        config.insert("torch_dtype".to_owned(), "bfloat16".into());
        config.insert("rope_theta".to_owned(), 10000.0.into());
        let scaling = serde_json::json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
        config.insert("rope_scaling".to_owned(), scaling);
    });
    let after = ModelConfig::read(dir.path()).unwrap();
    assert_eq!((after.rope_theta, &after.yarn), (before.rope_theta, &before.yarn));
    assert_eq!(after.dtype, Kind::BFloat16);
    // 0.1·ln 4 + 1
    assert!((after.yarn.unwrap().attention_factor - 1.138_629_436).abs() < 1e-9);
    assert!(logits(dir.path()).equal(&logits(&tiny("qwen2_yarn"))));

    let dir = copy("qwen1_plain");
    edit_config(dir.path(), |config| {
        let renamed = [("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads")];
        let more = [("ffn_hidden_size", "intermediate_size"), ("n_positions", "max_position_embeddings")];
        for (first, last) in renamed.into_iter().chain(more) {
            let value = config.remove(last).unwrap();
            config.insert(first.to_owned(), value);
        }
    });
    let config = ModelConfig::read(dir.path()).unwrap();
    assert_eq!((config.family, config.intermediate_size, config.max_position_embeddings), (Family::Qwen, 80, 64));
    assert!(logits(dir.path()).equal(&logits(&tiny("qwen1_plain"))));
}

#[test]
fn windows_come_from_layer_types_or_from_the_first_windowed_layer() {
    let dir = copy("qwen2_sliding");
    assert_eq!(ModelConfig::read(dir.path()).unwrap().sliding_windows, [None, Some(5), Some(5)]);
    edit_config(dir.path(), |config| {
        config.remove("layer_types");
        config.insert("max_window_layers".to_owned(), 2.into());
    });
    assert_eq!(ModelConfig::read(dir.path()).unwrap().sliding_windows, [None, None, Some(5)]);
    edit_config(dir.path(), |config| {
        config.insert("use_sliding_window".to_owned(), false.into());
    });
    assert_eq!(ModelConfig::read(dir.path()).unwrap().sliding_windows, [None; 3]);
}

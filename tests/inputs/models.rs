//! What people give as a model, and what each is called.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::*;

/// What the commands say that take a model; each says the same on one line.
#[track_caller]
fn said_everywhere(folder: &Folder, model: &str) -> String {
    let path = format!("model.path='{model}'");
    let said: Vec<String> = [
        &["sft", "--config", "sft.toml", "--set", path.as_str()][..],
        &["rm", "--config", "rm.toml", "--set", &path],
        &["pretrain", "--config", "pretrain.toml", "--set", &path],
        &["ppo", "--config", "ppo.toml", "--set", &format!("models.policy='{model}'")],
        &["ppo", "--config", "ppo.toml", "--set", &format!("models.reward='{model}'")],
        &["ppo", "--config", "ppo.toml", "--set", &format!("models.value='{model}'")],
        &["plan", "--config", "sft.toml", "--set", &path],
        &["doctor", "--config", "rm.toml", "--set", &path],
        &["eval", "lm", "--model", model, "--data", "data/heldout-sft.jsonl"],
        &["eval", "rm", "--model", model, "--data", "data/heldout-comparisons.jsonl"],
        &["score", "--model", model, "--data", "responses.jsonl", "--out", "scores.jsonl"],
        &["serve", "rm", "--model", model, "--listen", "127.0.0.1:0"],
        &["generate", "--model", model, "--prompts", "data/heldout-prompts.jsonl", "--out", "out.jsonl"],
        &["chat", "--model", model],
        &["inspect", "model", model],
        &["inspect", "data", "data/heldout-sft.jsonl", "--model", model],
        &["bench", "--models", model, "--data", "data"],
    ]
    .into_iter()
    .map(|args| folder.refuse(args, &[&[&format!("{model}: ")]]).stderr)
    .collect();
    assert!(said.iter().all(|line| *line == said[0]), "{said:?}");
    said[0].trim_end().to_owned()
}

#[test]
fn what_is_no_model_folder_is_named_by_every_command() {
    let folder = Folder::new();
    folder.write("responses.jsonl", "{\"prompt\": \"q\", \"response\": \"a\"}\n");
    folder
        .write("lora/adapter_config.json", r#"{"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}"#);
    folder.write("lora/adapter_model.safetensors", "weights");
    let said = said_everywhere(&folder, "lora");
    assert!(said.contains("a LoRA adapter to Qwen/Qwen2.5-0.5B") && said.contains("merge_and_unload"), "{said}");
    let said = said_everywhere(&folder, "Qwen/Qwen2.5-0.5B");
    assert!(said.contains("models are not downloaded") && said.contains("hf download Qwen/Qwen2.5-0.5B"), "{said}");
    folder.copy("base", "run/model");
    folder.write("run/run.json", "{}");
    assert!(said_everywhere(&folder, "run").ends_with("a run folder, expected the model in it: run/model"));
    let said = said_everywhere(&folder, "base/model.safetensors");
    assert!(said.ends_with("a file, expected its folder: base"), "{said}");
}

#[test]
fn what_else_is_given_as_a_model() {
    let folder = Folder::new();
    let refused = |model: &str, place: &str, parts: &[&str]| {
        let place = format!("{place}: ");
        let parts: Vec<&str> = std::iter::once(place.as_str()).chain(parts.iter().copied()).collect();
        folder.refuse(&set(&SFT, &[&format!("model.path='{model}'")]), &[&parts]);
    };
    let without = |to: &str, weights: Option<&str>| {
        let weights_of_copy = folder.copy("base", to).join("model.safetensors");
        match weights {
            Some(name) => fs::rename(&weights_of_copy, folder.join(to).join(name)).unwrap(),
            None => fs::remove_file(&weights_of_copy).unwrap(),
        }
    };
    fs::create_dir(folder.join("empty")).unwrap();
    refused(
        "empty",
        "empty",
        &["an empty folder, expected a model folder (config.json, model.safetensors, tokenizer.json)"],
    );
    refused("nowhere", "nowhere", &["no such folder, expected a model folder"]);
    refused("base/nowhere", "base/nowhere", &["no such folder, expected a model folder"]);
    refused("base/config.json", "base/config.json", &["a file, expected its folder: base"]);
    folder.write("q4.gguf", "GGUF");
    refused("q4.gguf", "q4.gguf", &["GGUF weights, expected safetensors"]);
    folder.write("quants/q4.gguf", "GGUF");
    refused("quants", "quants", &["holds q4.gguf: GGUF weights"]);
    // Beside a config, each by its name.
    without("gguf", Some("q4.gguf"));
    refused("gguf", "gguf/q4.gguf", &["GGUF weights"]);
    without("pickled", Some("pytorch_model-00001-of-00002.bin"));
    refused("pickled", "pickled/pytorch_model-00001-of-00002.bin", &["pickled weights", "safe_serialization=True"]);
    without("torch", Some("consolidated.00.pth"));
    folder.write("torch/optimizer.pt", "no weights");
    refused("torch", "torch/consolidated.00.pth", &["pickled weights"]);
    without("flax", Some("flax_model.msgpack"));
    refused("flax", "flax/flax_model.msgpack", &["weights of another framework"]);
    without("shards", Some("model-00001-of-00002.safetensors"));
    folder.write("shards/model-00002-of-00002.safetensors", "");
    refused(
        "shards",
        "shards/model-00001-of-00002.safetensors",
        &["2 safetensors files without model.safetensors.index.json"],
    );
    without("renamed", Some("weights.safetensors"));
    refused("renamed", "renamed/weights.safetensors", &["weights under another name, expected model.safetensors"]);
    without("pointer", None);
    folder.write("pointer/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
    refused("pointer", "pointer/model.safetensors", &["a Git LFS pointer in place of the weights", "git lfs pull"]);
    // Of pretraining, which takes a folder without weights, too.
    let pretrain = ["pretrain", "--config", "pretrain.toml", "--set", "model.path='shards'"];
    folder.refuse(&pretrain, &[&["shards/model-00001-of-00002.safetensors: ", "without model.safetensors.index.json"]]);
    // A model one folder further down.
    folder.copy("base", "run/checkpoints/step-000500/model");
    refused(
        "run/checkpoints/step-000500",
        "run/checkpoints/step-000500",
        &["a checkpoint folder, expected the model in it: run/checkpoints/step-000500/model"],
    );
    folder.write("run/run.json", "{}");
    refused(
        "run",
        "run",
        &["a run folder without a result yet", "newest checkpoint: run/checkpoints/step-000500/model"],
    );
    folder.copy("base", "cache/models--Qwen--Q/snapshots/0123abcd");
    refused("cache/models--Qwen--Q", "cache/models--Qwen--Q", &["a folder of the hub's cache", "snapshots/0123abcd"]);
    folder.copy("base", "all/one");
    folder.copy("base", "all/two");
    refused("all", "all", &["holds 2 model folders, expected one of them, as all/one"]);
    folder.copy("base", "merged");
    folder.write("merged/adapter_config.json", "{}");
    refused(
        "merged",
        "merged",
        &["a LoRA adapter (adapter_config.json) beside whole weights", "remove adapter_config.json"],
    );
    std::os::unix::fs::symlink("nowhere", folder.join("link")).unwrap();
    refused("link", "link", &["a link to a folder that is not there"]);
}

#[test]
fn what_is_given_as_a_run() {
    let folder = Folder::new();
    for command in [&["inspect", "run"][..], &["report"], &["replay"]] {
        let refused = |path: &str, what: &str| {
            folder.refuse(&[command, &[path]].concat(), &[&[path, what, "expected the folder of a run"]])
        };
        refused("base", "a model folder");
        refused("sft.toml", "a file");
        refused("nowhere", "no such folder");
        refused("data", "has no run.json");
    }
}

/// Copies `base` with every tensor under another name, shape or dtype.
fn changed(folder: &Folder, to: &str, change: impl Fn(&str, Dtype, Vec<usize>) -> (String, Dtype, Vec<usize>)) {
    let file = folder.copy("base", to).join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let views: Vec<(String, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, view)| {
            let (name, dtype, shape) = change(name, view.dtype(), view.shape().to_vec());
            (name, TensorView::new(dtype, shape, view.data()).unwrap())
        })
        .collect();
    fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Sets a key of a model's config.json.
fn configure(dir: &Path, key: &str, value: Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    config[key] = value;
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// One cause is one line, however many tensors it has.
#[test]
fn tensors_that_differ_in_one_way_are_one_line() {
    let folder = Folder::new();
    let refused =
        |model: &str, parts: &[&str]| folder.refuse(&set(&SFT, &[&format!("model.path='{model}'")]), &[parts]);
    changed(&folder, "inner", |name, dtype, shape| (name.replacen("model.", "", 1), dtype, shape));
    refused(
        "inner",
        &[
            "inner: ",
            "lack `model.`, as `embed_tokens.weight`, expected `model.embed_tokens.weight`",
            "AutoModelForCausalLM",
        ],
    );
    changed(&folder, "wrapped", |name, dtype, shape| (format!("module.{name}"), dtype, shape));
    refused("wrapped", &["wrapped: ", "begin with `module.model.`", "save the model inside it"]);
    changed(&folder, "peft", |name, dtype, shape| (format!("base_model.model.{name}"), dtype, shape));
    refused("peft", &["peft: ", "begin with `base_model.model.model.`", "merge it"]);
    changed(&folder, "fp8", |name, dtype, mut shape| {
        if shape.len() < 2 {
            return (name.to_owned(), dtype, shape);
        }
        shape[1] *= 4; // as many bytes
        (name.to_owned(), Dtype::F8_E4M3, shape)
    });
    refused(
        "fp8",
        &["fp8/model.safetensors: ", "F8_E4M3, a part of quantised weights", "; the same in 14 more tensors"],
    );
    changed(&folder, "gptq", |name, dtype, shape| (name.replace("_proj.weight", "_proj.qweight"), dtype, shape));
    refused("gptq", &["gptq/model.safetensors: ", ".qweight", "quantised weights", "; the same in 13 more tensors"]);
    let config = folder.copy("base", "named");
    configure(&config, "quantization_config", json!({ "quant_method": "awq", "bits": 4 }));
    refused("named", &["named/config.json: ", "quantization_config \"awq\": quantised weights are not read"]);
    configure(&config, "quantization_config", Value::Null);
    folder.succeed(&[&set(&SFT, &["model.path='named'"])[..], &["--dry-run"]].concat());
    // Twenty-two layers of twelve tensors are not there.
    configure(&folder.copy("base", "deep"), "num_hidden_layers", json!(24));
    refused(
        "deep",
        &["deep: ", "tensor model.layers.2.input_layernorm.weight is missing", "; the same in 263 more tensors"],
    );
    configure(&folder.copy("base", "wide"), "intermediate_size", json!(192));
    refused(
        "wide",
        &["wide/model.safetensors: ", "has shape [96, 48], expected [192, 48]", "; the same in 5 more tensors"],
    );
}

#[test]
fn templates_for_other_uses_travel_with_the_model() {
    let folder = Folder::new();
    folder.copy("base", "tools");
    folder.write("tools/additional_chat_templates/tool_use.jinja", "{{ messages }}");
    folder.write("tools/additional_chat_templates/rag.jinja", "{{ documents }}");
    folder.succeed(&set(&SFT, &["model.path='tools'", "train.steps=3"]));
    let files = folder.files("runs/sft/model");
    assert_eq!(files["additional_chat_templates/tool_use.jinja"], b"{{ messages }}");
    assert_eq!(files["additional_chat_templates/rag.jinja"], b"{{ documents }}");
    // They are verified with the rest of a checkpoint, and are there after a resume.
    folder.succeed(&[&set(&SFT, &["model.path='tools'", "train.steps=4"])[..], &["--resume"]].concat());
    assert_eq!(
        folder.succeed(&["inspect", "run", "runs/sft", "--json"]).json()["checkpoints"][0]["damage"],
        Value::Null
    );
    fs::write(folder.join("runs/sft/checkpoints/step-000004/model/additional_chat_templates/rag.jinja"), "x").unwrap();
    assert_eq!(folder.align(&["inspect", "run", "runs/sft"]).code, Some(1));
}

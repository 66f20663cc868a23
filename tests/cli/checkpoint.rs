//! Mistakes in checkpoint folders.

use align_text::tokenizer::Tokenizer;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::*;

/// Writes a copy of `base` whose weights went through `change`: (name, shape, bytes of fp32).
fn changed(folder: &Folder, to: &str, change: impl Fn(&mut Vec<(String, Vec<usize>, Vec<u8>)>)) {
    folder.copy("base", to);
    let file = folder.join(to).join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<(String, Vec<usize>, Vec<u8>)> =
        tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec())).collect();
    change(&mut all);
    let views = all.iter().map(|(name, shape, data)| {
        (name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn wrong_shapes_and_names_are_all_named() {
    let folder = Folder::new();
    changed(&folder, "wrong", |tensors| {
        for (name, shape, _) in tensors.iter_mut() {
            match name.as_str() {
                "model.layers.0.self_attn.k_proj.weight" => *shape = vec![shape[1], shape[0]],
                "model.norm.weight" => *name = "model.norm.wieght".to_owned(),
                _ => {}
            }
        }
    });
    let file = "wrong/model.safetensors: ";
    let expected: [&[&str]; 3] = [
        &[file, "model.layers.0.self_attn.k_proj.weight", "[48, 24]", "expected [24, 48]"],
        &["wrong: ", "tensor model.norm.weight is missing", "[48]"],
        &[file, "tensor model.norm.wieght [48]", "expected those of config.json"],
    ];
    folder.refuse(&set(&SFT, &["model.path='wrong'"]), &expected);
    folder.refuse(&["eval", "lm", "--model", "wrong", "--data", "data/heldout-sft.jsonl"], &expected);
    folder.refuse(&["generate", "--model", "wrong", "--prompts", "data/ppo.jsonl", "--out", "out.jsonl"], &expected);
}

#[test]
fn truncated_weights() {
    let folder = Folder::new();
    let whole = std::fs::read(folder.join("base/model.safetensors")).unwrap();
    folder.copy("base", "cut");
    for length in [whole.len() - 1, whole.len() / 2, 100, 4, 0] {
        folder.write("cut/model.safetensors", &whole[..length]);
        let expected: &[&str] = &["cut/model.safetensors: ", "truncated"];
        folder.refuse(&set(&SFT, &["model.path='cut'"]), &[expected]);
        folder.refuse(&set(&PPO, &["models.policy='cut'"]), &[expected]);
    }
    folder.write("cut/model.safetensors", b"this is not a safetensors file, but long enough to be one");
    folder.refuse(&set(&SFT, &["model.path='cut'"]), &[&["cut/model.safetensors: "]]);
}

#[test]
fn a_shard_name_that_leaves_the_folder() {
    let folder = Folder::new();
    folder.copy("base", "other");
    let weights = std::fs::read(folder.join("base/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let names: Vec<String> = tensors.names().iter().map(|name| (*name).to_owned()).collect();
    folder.copy("base", "sharded");
    std::fs::remove_file(folder.join("sharded/model.safetensors")).unwrap();
    let absolute = folder.join("other/model.safetensors");
    for outside in ["../other/model.safetensors", absolute.to_str().unwrap(), "sub/../../other/model.safetensors"] {
        let index = |file: &str| {
            let map: Vec<(String, Value)> = names.iter().map(|name| (name.clone(), json!(file))).collect();
            json!({ "metadata": {}, "weight_map": serde_json::Map::from_iter(map) }).to_string()
        };
        folder.write("sharded/model.safetensors.index.json", index(outside));
        let more = format!("; the same in {} more tensors", names.len() - 1);
        let line = ["sharded/model.safetensors.index.json: ", "the plain name of a file in the folder", more.as_str()];
        folder.refuse(&set(&SFT, &["model.path='sharded'"]), &[&line]);
        // The same weights inside the folder are fine.
        folder.write("inside/model.safetensors.index.json", index("model-00001-of-00001.safetensors"));
    }
    for entry in std::fs::read_dir(folder.join("base")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().replace("model.safetensors", "model-00001-of-00001.safetensors");
        std::fs::copy(entry.path(), folder.join("inside").join(name)).unwrap();
    }
    let sharded = ["eval", "lm", "--model", "inside", "--data", "data/heldout-sft.jsonl", "--json"];
    let single = ["eval", "lm", "--model", "base", "--data", "data/heldout-sft.jsonl", "--json"];
    assert_eq!(folder.succeed(&sharded).stdout, folder.succeed(&single).stdout);
}

#[test]
fn folders_without_what_is_needed() {
    let folder = Folder::new();
    folder.refuse(&set(&SFT, &["model.path='none'"]), &[&["none: ", "no such folder", "expected a model folder"]]);
    let remove = |from: &str, file: &str| std::fs::remove_file(folder.join(from).join(file)).unwrap();
    folder.copy("base", "unwritten");
    remove("unwritten", "model.safetensors");
    folder.refuse(&set(&SFT, &["model.path='unwritten'"]), &[&["unwritten: ", "no weights", "model.safetensors"]]);
    folder.refuse(&set(&RM, &["model.path='unwritten'"]), &[&["unwritten: ", "no weights"]]);
    folder.write("unwritten/pytorch_model.bin", b"pickled");
    let expected: &[&str] = &["unwritten/pytorch_model.bin: ", "save_pretrained", "safe_serialization"];
    folder.refuse(&set(&SFT, &["model.path='unwritten'"]), &[expected]);
    folder.copy("base", "mute");
    remove("mute", "tokenizer.json");
    folder.refuse(&set(&SFT, &["model.path='mute'"]), &[&["mute", "tokenizer.json"]]);
    folder.copy("base", "formless");
    remove("formless", "config.json");
    folder.refuse(&set(&SFT, &["model.path='formless'"]), &[&["formless/config.json"]]);
}

#[test]
fn another_chat_template_is_shown_with_both_renderings() {
    let folder = Folder::new();
    let config = folder.copy("base", "other").join("tokenizer_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("<|im_start|>", "[TURN]")).unwrap();
    let expected: &[&str] = &["other/tokenizer_config.json: ", "[TURN]user", "expected ChatML", "<|im_start|>user"];
    folder.refuse(&set(&SFT, &["model.path='other'"]), &[expected]);
}

#[test]
fn models_of_the_wrong_kind() {
    let folder = Folder::new();
    folder.refuse(&set(&SFT, &["model.path='reward'"]), &[&["reward: ", "expected a language model"]]);
    let pretrain = ["pretrain", "--config", "pretrain.toml"];
    folder.refuse(&set(&pretrain, &["model.path='reward'"]), &[&["reward: ", "expected a language model"]]);
    folder.refuse(&set(&PPO, &["models.policy='reward'"]), &[&["reward: ", "expected a language model"]]);
    folder.refuse(&set(&PPO, &["models.reward='base'"]), &[&["base: ", "expected a reward model", "align rm"]]);
    folder.refuse(&set(&PPO, &["models.value='base'"]), &[&["base: ", "expected a reward model"]]);
    let eval = |stage, model| ["eval", stage, "--model", model, "--data", "data/heldout-comparisons.jsonl"];
    folder.refuse(&eval("rm", "base"), &[&["base: ", "expected a reward model"]]);
    folder.refuse(
        &eval("lm", "reward")[..4].iter().copied().chain(["--data", "data/heldout-sft.jsonl"]).collect::<Vec<_>>(),
        &[&["reward: ", "expected a language model"]],
    );
    folder.refuse(&["chat", "--model", "reward"], &[&["reward: ", "expected a language model"]]);
}

/// A copy of `reward` in whose tokenizer two letters change places: as many ids, another meaning.
fn exchange_tokenizer(folder: &Folder, to: &str) {
    let file = folder.copy("reward", to).join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (one, other) = (vocab["a"].clone(), vocab["b"].clone());
    vocab.insert("a".to_owned(), other);
    vocab.insert("b".to_owned(), one);
    std::fs::write(&file, tokenizer.to_string()).unwrap();
}

#[test]
fn a_reward_model_of_another_tokenizer() {
    let folder = Folder::new();
    exchange_tokenizer(&folder, "foreign");
    let contract = folder.join("foreign/align.json");
    let mut reported: Value = serde_json::from_str(&std::fs::read_to_string(&contract).unwrap()).unwrap();
    reported["tokenizer"] = json!(Tokenizer::open(&folder.join("foreign")).unwrap().fingerprint());
    std::fs::write(&contract, reported.to_string()).unwrap();
    let expected = ["foreign/align.json: ", "another tokenizer than the policy", "checkpoint of the policy's family"];
    folder.refuse(&set(&PPO, &["models.reward='foreign'"]), &[&expected]);
    folder.refuse(&set(&PPO, &["models.value='foreign'"]), &[&expected]);
    // A reward model that another program wrote has no contract; its tokenizer is compared.
    std::fs::remove_file(&contract).unwrap();
    let expected = ["foreign: ", "another tokenizer than the policy", "checkpoint of the policy's family"];
    folder.refuse(&set(&PPO, &["models.reward='foreign'"]), &[&expected]);
}

/// The contract names the tokenizer that the model was trained with, so that exchanged files are detected.
#[test]
fn a_reward_model_whose_tokenizer_was_exchanged() {
    let folder = Folder::new();
    exchange_tokenizer(&folder, "foreign");
    let expected = ["foreign: ", "trained with another tokenizer than the one in its folder", "put that one back"];
    folder.refuse(&set(&PPO, &["models.reward='foreign'"]), &[&expected]);
    folder.refuse(&set(&RM, &["model.path='foreign'"]), &[&expected]);
    folder.refuse(&["eval", "rm", "--model", "foreign", "--data", "data/rm.jsonl"], &[&expected]);
}

#[test]
fn a_reward_model_that_was_trained_under_another_system_text() {
    let folder = Folder::new();
    let expected: &[&str] = &["reward/align.json: ", "You are a helpful assistant.", "Be brief.", "data.system"];
    folder.refuse(&set(&PPO, &["data.system='Be brief.'"]), &[expected]);
}

/// NTK and LogN of the first generation are for evaluation: training rows stay within what the model was
/// trained for.
#[test]
fn rows_beyond_the_trained_length_of_a_first_generation_model() {
    let folder = Folder::new();
    folder.copy("base", "first");
    std::fs::remove_file(folder.join("first/model.safetensors")).unwrap();
    let config = |seq_length: u64| {
        json!({
            "model_type": "qwen", "architectures": ["QWenLMHeadModel"], "vocab_size": 1024, "hidden_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "kv_channels": 16, "intermediate_size": 64,
            "seq_length": seq_length, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true,
            "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "rotary_pct": 1.0, "tie_word_embeddings": false,
        })
        .to_string()
    };
    let args = ["pretrain", "--config", "pretrain.toml", "--set", "model.path='first'", "--set", "train.steps=1"];
    folder.write("first/config.json", config(16));
    folder.refuse(&args, &[&["data.max_tokens: ", "a training row of ", "at most the 16 (seq_length)"]]);
    folder.write("first/config.json", config(64));
    folder.succeed(&args);
}

#[test]
fn a_tokenizer_with_more_ids_than_the_model_has_rows() {
    let folder = Folder::new();
    let file = folder.copy("base", "wide").join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut added = tokenizer["added_tokens"][0].clone();
    (added["id"], added["content"]) = (json!(1024), json!("<|extra|>"));
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    folder.refuse(&set(&SFT, &["model.path='wide'"]), &[&["wide: ", "1025 ids", "1024 embedding rows"]]);
}

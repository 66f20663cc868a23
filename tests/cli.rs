//! The command line: what it refuses, in which words, and that nothing is lost; and what it does when all is well.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::util::Folder;

const SFT: [&str; 3] = ["sft", "--config", "sft.toml"];
const RM: [&str; 3] = ["rm", "--config", "rm.toml"];
const PPO: [&str; 3] = ["ppo", "--config", "ppo.toml"];

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

/// A command with `--set` before each of `sets`.
fn set<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let flags = sets.iter().flat_map(|set| ["--set", set]);
    command.iter().copied().chain(flags).collect()
}

mod config {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let folder = Folder::new();
        let text = folder.read("sft.toml");
        folder.write("a.toml", text.replace("[train]", "[train]\ngrad_clp = 1.0"));
        let expected = ["a.toml: ", "train.grad_clp", "did you mean train.grad_clip?"];
        folder.refuse(&["sft", "--config", "a.toml"], &[&expected]);
        // A key of another section is told where it belongs.
        folder.write("b.toml", text.replace("[train]", "[train]\nlr = 1.0"));
        let expected = ["b.toml: ", "train.lr", "did you mean optimizer.lr?"];
        folder.refuse(&["sft", "--config", "b.toml"], &[&expected]);
        folder.write("c.toml", text.replace("[train]", "[trian]"));
        folder.refuse(&["sft", "--config", "c.toml"], &[&["c.toml: ", "trian", "did you mean train?"]]);
        // The flag is the place of what a flag says.
        folder.refuse(&set(&SFT, &["train.sedd=1"]), &[&["--set train.sedd: ", "did you mean train.seed?"]]);
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let folder = Folder::new();
        let sets = ["train.batch_size='many'", "train.grad_clip=-1", "optimizer.lrr=1e-3", "data.overlong='cut'"];
        let args = set(&["sft", "--config", "sft.toml"], &[&sets[..], &["model.path=''"]].concat());
        let output = folder.align(&args);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
        let mut lines: Vec<&str> = output.stderr.lines().collect();
        lines.sort_unstable();
        let expected = [
            ["align: --set data.overlong: ", "\"drop\" or \"truncate\""],
            ["align: --set model.path: ", "is required"],
            ["align: --set optimizer.lrr: ", "did you mean optimizer.lr?"],
            ["align: --set train.batch_size: ", "expected a whole number"],
            ["align: --set train.grad_clip: ", "must be above 0"],
        ];
        assert_eq!(lines.len(), expected.len(), "{output}");
        for (line, parts) in lines.iter().zip(expected) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}\n{output}");
        }
    }

    #[test]
    fn config_data_and_checkpoint_are_named_together() {
        let folder = Folder::new();
        let sets = ["data.train='data/none.jsonl'", "data.eval='data/none-either.jsonl'"];
        folder.refuse(
            &set(&SFT, &sets),
            &[&["data/none.jsonl: ", "no such file"], &["data/none-either.jsonl: ", "no such file"]],
        );
    }

    #[test]
    fn wrong_types_and_values() {
        let folder = Folder::new();
        let cases: [(&str, &str); 9] = [
            ("train.batch_size=1.5", "a whole number"),
            ("train.dropout=1.0", "below 1"),
            ("train.dropout=nan", "finite"),
            ("optimizer.betas=[0.9]", "betas"),
            ("schedule.kind='cosin'", "\"constant\" or \"linear\" or \"cosine\""),
            ("run.device='gpu'", "\"cpu\""),
            ("run.keep=0", "at least 1"),
            ("data.train=[]", "is required"),
            ("model=3", "expected a section"),
        ];
        for (set_to, expected) in cases {
            let key = set_to.split('=').next().unwrap();
            folder.refuse(&set(&SFT, &[set_to]), &[&[key.rsplit('.').next().unwrap(), expected]]);
        }
        folder.refuse(&set(&RM, &["stage='pmpp'"]), &[&["--set stage: ", "\"pmp\" or \"finetune\""]]);
        folder.refuse(&set(&RM, &["loss.margin=true"]), &[&["loss.margin", "scores"]]);
        folder.refuse(&set(&PPO, &["rollout.top_p=0.0"]), &[&["--set rollout.top_p: ", "above 0"]]);
        folder.refuse(
            &set(&PPO, &["ppo.minibatch_size=9"]),
            &[&["--set ppo.minibatch_size: ", "at most the 8 responses"]],
        );
        folder.refuse(&set(&PPO, &["data.pretrain=[]"]), &[&["data.pretrain", "ptx.coef"]]);
        folder.refuse(&set(&PPO, &["models.value_device='gpu'"]), &[&["--set models.value_device: ", "\"cpu\""]]);
        folder.refuse(&set(&PPO, &["models.frozen_dtype='bfloat16'"]), &[&["frozen_dtype", "frozen_dtype_ok = true"]]);
    }

    #[test]
    fn required_keys() {
        let folder = Folder::new();
        let text = folder.read("rm.toml");
        folder.write("a.toml", text.replace("stage = \"pmp\"", ""));
        folder.refuse(&["rm", "--config", "a.toml"], &[&["a.toml: stage: ", "\"pmp\" or \"finetune\""]]);
        folder.write("b.toml", text.replace("out = \"runs/rm\"", ""));
        folder.refuse(&["rm", "--config", "b.toml"], &[&["b.toml: run.out: is required", "--out"]]);
        folder.write("c.toml", text.replace("path = \"base\"", ""));
        folder.refuse(&["rm", "--config", "c.toml"], &[&["c.toml: model.path: is required"]]);
    }

    #[test]
    fn steps_or_epochs() {
        let folder = Folder::new();
        folder.write("a.toml", folder.read("sft.toml").replace("steps = 12", "steps = 12\nepochs = 1"));
        folder
            .refuse(&["sft", "--config", "a.toml"], &[&["a.toml: ", "train.steps", "train.epochs", "one of the two"]]);
        let both = set(&SFT, &["train.steps=3", "train.epochs=1"]);
        folder.refuse(&both, &[&["--set train.epochs: ", "train.steps", "one of the two"]]);
        // A flag is stronger than the file: 256 dialogues are 64 batches.
        let output = folder.succeed(&with(&set(&SFT, &["train.epochs=1"]), &["--dry-run"]));
        assert!(output.stderr.contains("steps  64\n"), "{output}");
    }

    #[test]
    fn bad_files_and_flags() {
        let folder = Folder::new();
        folder.refuse(&["sft", "--config", "none.toml"], &[&["none.toml: ", "expected a TOML file"]]);
        folder.write("a.toml", "[model]\npath = \"base\"\n\n[data\ntrain = 1\n");
        folder.refuse(&["sft", "--config", "a.toml"], &[&["a.toml:4: ", "not TOML"]]);
        folder.refuse(&set(&SFT, &["train.steps"]), &[&["--set train.steps: ", "section.key=VALUE"]]);
        folder.refuse(
            &set(&SFT, &["model.path=base"]),
            &[&["--set model.path: ", "text needs quotes", "model.path=\"base\""]],
        );
        folder.refuse(&set(&SFT, &["=3"]), &[&["--set", "section.key=VALUE"]]);
    }

    #[test]
    fn mix_and_train_are_one_of_two() {
        let folder = Folder::new();
        let mix = "data.mix=[{path='data/sft.jsonl', weight=1.0}]";
        folder.refuse(&set(&SFT, &[mix]), &[&["data.train", "one of the two"]]);
        let mix = "data.mix=[{path='data/sft.jsonl', weight=0.0}]";
        folder.refuse(&set(&SFT, &["data.train=[]", mix]), &[&["--set data.mix: ", "above 0"]]);
    }
}

mod arguments {
    use super::*;

    #[test]
    fn unknown_ones_are_refused_on_one_line() {
        let folder = Folder::new();
        folder.refuse(&with(&SFT, &["--reusme"]), &[&["--reusme", "--resume"]]);
        folder.refuse(&["stf"], &[&["stf", "align --help"]]);
        folder.refuse(&["sft"], &[&["--config"]]);
        folder.refuse(&["generate", "--model", "policy", "--prompts", "data/ppo.jsonl"], &[&["--out"]]);
        folder.refuse(&["generate", "--model", "policy", "--n", "two"], &[&["two", "--n"]]);
        folder.refuse(&["eval", "perplexity"], &[&["perplexity"]]);
    }

    /// Without a command there is nothing to refuse: the help says what there is.
    #[test]
    fn no_command_shows_the_commands() {
        let folder = Folder::new();
        for args in [&[][..], &["eval"]] {
            let output = folder.align(args);
            assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
            assert!(output.stderr.contains("Usage: align"), "{output}");
        }
        let output = folder.align(&[]);
        assert!(["pretrain", "sft", "rm", "ppo", "eval", "generate", "chat"].iter().all(|c| output.stderr.contains(c)));
    }

    #[test]
    fn version_names_commit_and_libtorch() {
        let output = Folder::empty().succeed(&["--version"]);
        let words: Vec<&str> = output.stdout.split_whitespace().collect();
        assert_eq!(words[0], "align", "{output}");
        assert!(output.stdout.contains("commit ") && output.stdout.contains("libtorch 2.13.0"), "{output}");
        assert_eq!(output.stderr, "");
    }
}

mod data {
    use super::*;

    #[test]
    fn a_malformed_line_is_named_with_its_number() {
        let folder = Folder::new();
        let mut lines: Vec<String> = folder.read("data/sft.jsonl").lines().take(6).map(str::to_owned).collect();
        lines[2].truncate(20);
        lines[4] = r#"{"messages": [{"role": "robot", "content": "x"}]}"#.to_owned();
        lines[5] =
            r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}"#.to_owned();
        folder.write("bad.jsonl", lines.join("\n"));
        let expected: [&[&str]; 3] = [
            &["bad.jsonl:3: ", "not JSON", "expected one object a line"],
            &["bad.jsonl:5: ", "`robot`", "expected system, user or assistant"],
            &["bad.jsonl:6: ", "empty"],
        ];
        folder.refuse(&set(&SFT, &["data.train='bad.jsonl'"]), &expected);
        // Skipped when asked to, counted and named.
        let sets = ["data.train='bad.jsonl'", "data.bad_rows='skip'", "train.steps=1"];
        let output = folder.succeed(&set(&SFT, &sets));
        assert!(output.stderr.contains("bad rows skipped  3\n"), "{output}");
        assert!(output.stderr.contains("skipped bad.jsonl:3: "), "{output}");
        let run: Value = serde_json::from_str(&folder.read("runs/sft/run.json")).unwrap();
        assert_eq!((&run["rows"], &run["bad_rows_skipped"]), (&json!(3), &json!(3)), "{run}");
    }

    #[test]
    fn files_that_do_not_fit_the_stage() {
        let folder = Folder::new();
        let expected: &[&str] = &["data/heldout-prompts.jsonl:1: ", "`prompt`", "expected a chat row"];
        let others: Vec<&[&str]> = vec![&["expected a chat row"]; 5];
        let args = set(&SFT, &["data.train='data/heldout-prompts.jsonl'"]);
        folder.refuse(&args, &[&[expected][..], &others].concat());
        folder.write("empty.jsonl", "\n\n");
        folder.refuse(&set(&SFT, &["data.train='empty.jsonl'"]), &[&["empty.jsonl: ", "empty", "expected chat rows"]]);
        folder.refuse(&set(&SFT, &["data.train='data'"]), &[&["data: ", "a folder, expected a file"]]);
        folder.write("a.txt", "plain text");
        folder.refuse(&set(&RM, &["data.train='a.txt'"]), &[&["a.txt: ", "plain text", "comparison row"]]);
        folder.refuse(&set(&PPO, &["data.prompts='none.jsonl'"]), &[&["none.jsonl: ", "no such file"]]);
        folder.refuse(&set(&PPO, &["data.pretrain='none.jsonl'"]), &[&["none.jsonl: ", "no such file"]]);
    }

    #[test]
    fn rows_too_long_for_the_limit() {
        let folder = Folder::new();
        let sets = ["data.max_tokens=8"];
        folder.refuse(
            &set(&SFT, &sets),
            &[
                &["data/sft.jsonl: ", "no row is left", "256", "data.max_tokens", "truncate"],
                &["data/heldout-sft.jsonl: ", "no row is left"],
            ],
        );
        folder.refuse(
            &set(&RM, &sets),
            &[&["data/rm.jsonl: ", "data.max_tokens"], &["data/heldout-comparisons.jsonl: ", "data.max_tokens"]],
        );
        folder.refuse(
            &set(&PPO, &["data.max_prompt_tokens=8"]),
            &[
                &["data/ppo.jsonl: ", "data.max_prompt_tokens"],
                &["data/heldout-prompts.jsonl: ", "data.max_prompt_tokens"],
            ],
        );
    }
}

mod checkpoint {
    use align_common::tokenizer::Tokenizer;
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
        folder
            .refuse(&["generate", "--model", "wrong", "--prompts", "data/ppo.jsonl", "--out", "out.jsonl"], &expected);
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
            let line = ["sharded/model.safetensors.index.json: ", "the plain name of a file in the folder"];
            let expected: Vec<&[&str]> = vec![&line; names.len()];
            folder.refuse(&set(&SFT, &["model.path='sharded'"]), &expected);
            // The same weights inside the folder are fine.
            folder.write("inside/model.safetensors.index.json", index("model-00001-of-00001.safetensors"));
        }
        for entry in std::fs::read_dir(folder.join("base")).unwrap() {
            let entry = entry.unwrap();
            let name =
                entry.file_name().to_string_lossy().replace("model.safetensors", "model-00001-of-00001.safetensors");
            std::fs::copy(entry.path(), folder.join("inside").join(name)).unwrap();
        }
        let sharded = ["eval", "lm", "--model", "inside", "--data", "data/heldout-sft.jsonl", "--json"];
        let single = ["eval", "lm", "--model", "base", "--data", "data/heldout-sft.jsonl", "--json"];
        assert_eq!(folder.succeed(&sharded).stdout, folder.succeed(&single).stdout);
    }

    #[test]
    fn folders_without_what_is_needed() {
        let folder = Folder::new();
        folder.refuse(&set(&SFT, &["model.path='none'"]), &[&["none"], &["none"]]);
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
        let mut told: Value = serde_json::from_str(&std::fs::read_to_string(&contract).unwrap()).unwrap();
        told["tokenizer"] = json!(Tokenizer::open(&folder.join("foreign")).unwrap().fingerprint());
        std::fs::write(&contract, told.to_string()).unwrap();
        let expected =
            ["foreign/align.json: ", "another tokenizer than the policy", "checkpoint of the policy's family"];
        folder.refuse(&set(&PPO, &["models.reward='foreign'"]), &[&expected]);
        folder.refuse(&set(&PPO, &["models.value='foreign'"]), &[&expected]);
        // A reward model that another program wrote has no contract; its tokenizer tells.
        std::fs::remove_file(&contract).unwrap();
        let expected = ["foreign: ", "another tokenizer than the policy", "checkpoint of the policy's family"];
        folder.refuse(&set(&PPO, &["models.reward='foreign'"]), &[&expected]);
    }

    /// The contract tells the tokenizer that the model was trained with; files that were exchanged later do not fool anybody.
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

    /// NTK and LogN of the first generation are for evaluation: training rows stay within what the model was trained for.
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
}

mod run_folder {
    use super::*;

    #[test]
    fn a_folder_that_holds_a_run_is_kept() {
        let folder = Folder::new();
        folder.succeed(&set(&SFT, &["train.steps=2"]));
        folder.refuse(&set(&SFT, &["train.steps=3"]), &[&["runs/sft: ", "holds a run already", "--resume"]]);
        folder.refuse(&with(&RM, &["--out", "runs/sft"]), &[&["runs/sft: ", "holds a run already", "--resume"]]);
        folder.refuse(&with(&SFT, &["--dry-run"]), &[&["runs/sft: ", "holds a run already", "--resume"]]);
        folder.write("file", "something");
        folder.refuse(&with(&SFT, &["--out", "file"]), &[&["file: ", "is a file, expected a folder"]]);
        folder.refuse(&with(&SFT, &["--out", "file/below"]), &[&["file/below: "]]);
        // An empty folder is fine.
        std::fs::create_dir(folder.join("empty")).unwrap();
        folder.succeed(&with(&set(&SFT, &["train.steps=1"]), &["--out", "empty"]));
    }

    #[test]
    fn a_resume_with_another_config_or_other_data_is_refused_and_shown() {
        let folder = Folder::new();
        folder.write("rows.jsonl", folder.read("data/sft.jsonl"));
        let run = set(&SFT, &["train.steps=2", "data.train='rows.jsonl'"]);
        folder.succeed(&run);
        let sets = ["--set", "optimizer.lr=1e-4", "--set", "train.seed=7", "--set", "train.steps=4", "--resume"];
        folder.refuse(
            &with(&run, &sets),
            &[
                &["runs/sft/config.toml: ", "optimizer.lr was 0.001, now 1e-4"],
                &["runs/sft/config.toml: ", "train.seed was 0, now 7"],
            ],
        );
        let output = folder.align(&with(&RM, &["--out", "runs/sft", "--resume"]));
        assert_eq!(output.code, Some(2), "{output}");
        assert!(output.stderr.contains("align: runs/sft/config.toml: stage was not set, now \"pmp\""), "{output}");
    }

    #[test]
    fn a_resume_on_changed_data_is_refused() {
        let folder = Folder::new();
        folder.write("rows.jsonl", folder.read("data/sft.jsonl"));
        let sets = ["train.steps=2", "data.train='rows.jsonl'"];
        folder.succeed(&set(&SFT, &sets));
        folder.write("rows.jsonl", folder.read("data/heldout-sft.jsonl"));
        let args = with(&set(&SFT, &["train.steps=4", sets[1]]), &["--resume"]);
        folder.refuse(&args, &[&["runs/sft/run.json: ", "inputs have changed", "rows.jsonl"]]);
    }

    #[test]
    fn one_process_a_folder() {
        let folder = Folder::new();
        let args = set(&SFT, &["train.steps=100000", "run.eval_every=100000"]);
        let mut first = folder.spawn(&args);
        first.wait_for_lines(&folder.join("runs/sft/metrics.jsonl"), 1);
        let output = folder.align(&with(&args, &["--resume"]));
        let lines = output.stderr.lines().count();
        assert_eq!((output.code, output.stdout.as_str(), lines), (Some(2), "", 1), "{output}");
        assert!(output.stderr.contains("align: runs/sft: is in use by another process (pid "), "{output}");
        let count = folder.rows("runs/sft/metrics.jsonl").len();
        first.wait_for_lines(&folder.join("runs/sft/metrics.jsonl"), count + 2);
        assert!(first.kill(), "the first process goes on");
    }

    #[test]
    fn a_run_that_fails_says_where_and_exits_with_1() {
        let folder = Folder::new();
        let output = folder.align(&set(&SFT, &["optimizer.lr=1e30", "schedule.warmup_steps=0"]));
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
        let last = output.stderr.lines().last().unwrap();
        assert!(last.starts_with("align: step 1: train/loss is not finite"), "{output}");
    }
}

mod measuring {
    use super::*;

    const LM: [&str; 6] = ["eval", "lm", "--model", "base", "--data", "data/heldout-sft.jsonl"];
    const GENERATE: [&str; 7] =
        ["generate", "--model", "policy", "--prompts", "data/heldout-prompts.jsonl", "--out", "out.jsonl"];

    #[test]
    fn refusals() {
        let folder = Folder::new();
        folder.refuse(
            &["eval", "lm", "--model", "base", "--data", "a.jsonl", "b.jsonl"],
            &[&["a.jsonl: "], &["b.jsonl: "]],
        );
        let rm = ["eval", "rm", "--model", "reward", "--data"];
        folder.refuse(&with(&rm, &["none.jsonl"]), &[&["none.jsonl: ", "no such file"]]);
        folder.write("bad.jsonl", "{\"prompt\": \"x\", \"chosen\": \"y\"}\n");
        folder.refuse(&with(&rm, &["bad.jsonl"]), &[&["bad.jsonl:1: ", "comparison row"]]);
        let three = ["--model", "reward", "--model", "reward"];
        folder.refuse(
            &[&rm[..], &["data/heldout-comparisons.jsonl"], &three].concat(),
            &[&["--model: ", "expected one or two"]],
        );
        folder.refuse(
            &with(&LM, &["--per-row", "none/rows.jsonl"]),
            &[&["none/rows.jsonl: ", "expected a writable file"]],
        );
        let wrong = ["--temperature=-1", "--top-p=0", "--max-tokens=0", "--n=0"];
        folder
            .refuse(&with(&GENERATE, &wrong), &[&["--temperature: "], &["--top-p: "], &["--max-tokens: "], &["--n: "]]);
        let wrong: Vec<&str> =
            GENERATE.iter().map(|arg| if arg.starts_with("data/") { "data/sft.jsonl" } else { arg }).collect();
        let output = folder.align(&wrong);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
        assert!(output.stderr.lines().all(|line| line.starts_with("align: data/sft.jsonl")), "{output}");
        assert!(!folder.join("out.jsonl").exists());
    }

    /// A result never takes the place of what it was made from.
    #[test]
    fn a_result_does_not_overwrite_its_source() {
        let folder = Folder::new();
        folder.write("prompts.jsonl", folder.read("data/heldout-prompts.jsonl"));
        let onto_itself = ["generate", "--model", "policy", "--prompts", "prompts.jsonl", "--out", "./prompts.jsonl"];
        folder.refuse(&onto_itself, &[&["./prompts.jsonl: ", "--prompts", "expected another file"]]);
        folder.write("rows.jsonl", folder.read("data/heldout-sft.jsonl"));
        let onto_itself = ["eval", "lm", "--model", "base", "--data", "rows.jsonl", "--per-row", "rows.jsonl"];
        folder.refuse(&onto_itself, &[&["rows.jsonl: ", "--data", "expected another file"]]);
        folder.write("pairs.jsonl", folder.read("data/heldout-comparisons.jsonl"));
        let onto_itself = ["eval", "rm", "--model", "reward", "--data", "pairs.jsonl", "--per-row", "pairs.jsonl"];
        folder.refuse(&onto_itself, &[&["pairs.jsonl: ", "--data", "expected another file"]]);
    }

    #[test]
    fn eval_prints_a_table_or_one_object() {
        let folder = Folder::new();
        let table = folder.succeed(&LM);
        assert!(table.stdout.contains("perplexity") && table.stdout.contains("data/heldout-sft.jsonl"), "{table}");
        let one = folder.succeed(&with(&LM, &["data/heldout-text.jsonl", "--json"]));
        assert_eq!((one.stdout.lines().count(), one.stderr.as_str()), (1, ""), "{one}");
        let sets = one.json()["sets"].as_array().unwrap().clone();
        assert_eq!((sets.len(), &sets[0]["rows"], &sets[1]["rows"]), (2, &json!(8), &json!(12)), "{one}");
        for set in &sets {
            let number = |key: &str| set[key].as_f64().unwrap_or_else(|| panic!("{key}: {one}"));
            assert!((number("loss").exp() / number("perplexity") - 1.0).abs() < 1e-9, "{one}");
            assert!(number("tokens") > 0.0 && (0.0..=1.0).contains(&number("token_accuracy")), "{one}");
        }

        let rm = [
            "eval",
            "rm",
            "--model",
            "reward",
            "--model",
            "reward",
            "--data",
            "data/heldout-comparisons.jsonl",
            "data/rm.jsonl",
        ];
        let table = folder.succeed(&rm);
        assert!(table.stdout.contains("heldout-comparisons") && table.stdout.contains("12 pairs"), "{table}");
        let one = folder.succeed(&with(&rm, &["--json"]));
        assert_eq!((one.stdout.lines().count(), one.stderr.as_str()), (1, ""), "{one}");
        let models = one.json()["models"].as_array().unwrap().clone();
        assert_eq!((models.len(), &models[0]["model"]), (2, &json!("reward")), "{one}");
        assert_eq!(models[0]["sets"], models[1]["sets"]);
        let set = &models[0]["sets"][1];
        assert_eq!((&set["file"], &set["pairs"]), (&json!("data/rm.jsonl"), &json!(128)), "{one}");
        let (low, high) = (set["ci95"][0].as_f64().unwrap(), set["ci95"][1].as_f64().unwrap());
        let accuracy = set["accuracy"].as_f64().unwrap();
        assert!(0.0 <= low && low < accuracy && accuracy < high && high <= 1.0, "{one}");
        // Wilson's interval, by its formula.
        let (n, z) = (128.0, 1.959_963_984_540_054_f64);
        let (middle, scale) = (accuracy + z * z / (2.0 * n), 1.0 + z * z / n);
        let half = z * (accuracy * (1.0 - accuracy) / n + z * z / (4.0 * n * n)).sqrt();
        assert!(((middle - half) / scale - low).abs() < 1e-6 && ((middle + half) / scale - high).abs() < 1e-6, "{one}");
    }

    #[test]
    fn generate_writes_a_line_a_response() {
        let folder = Folder::new();
        let args = with(&GENERATE, &["--n", "2", "--max-tokens", "8", "--seed", "5"]);
        let output = folder.succeed(&args);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""), "{output}");
        let rows = folder.rows("out.jsonl");
        let numbers: Vec<(u64, u64)> =
            rows.iter().map(|row| (row["index"].as_u64().unwrap(), row["sample"].as_u64().unwrap())).collect();
        let expected: Vec<(u64, u64)> = (0..6).flat_map(|index| [(index, 0), (index, 1)]).collect();
        assert_eq!(numbers, expected);
        let prompts = folder.rows("data/heldout-prompts.jsonl");
        for row in &rows {
            let tokens = row["tokens"].as_array().unwrap();
            assert!(!tokens.is_empty() && tokens.len() <= 8, "{row}");
            assert!(row["ended"].as_bool().unwrap() || tokens.len() == 8, "{row}");
            assert!(!row["response"].as_str().unwrap().contains("<|im_end|>"), "{row}");
            let prompt = &prompts[row["index"].as_u64().unwrap() as usize]["prompt"];
            assert_eq!(row["prompt"], json!([{ "role": "user", "content": prompt }]));
        }
        assert!(rows.chunks(2).any(|pair| pair[0]["tokens"] != pair[1]["tokens"]), "two samples of a prompt differ");
        // The same again; and a prompt's samples do not depend on which other prompts there are.
        let first = folder.read("out.jsonl");
        folder.succeed(&args);
        assert_eq!(folder.read("out.jsonl"), first);
        folder.write_rows("one.jsonl", &prompts[..1]);
        let alone: Vec<&str> =
            args.iter().map(|arg| if *arg == "data/heldout-prompts.jsonl" { "one.jsonl" } else { arg }).collect();
        folder.succeed(&alone);
        assert_eq!(folder.rows("out.jsonl")[..], rows[..2]);
        // Greedy needs no seed.
        let greedy = |seed| {
            folder.succeed(&with(&GENERATE, &["--temperature", "0", "--max-tokens", "8", "--seed", seed]));
            folder.read("out.jsonl")
        };
        assert_eq!(greedy("1"), greedy("2"));
    }

    #[test]
    fn chat_answers_what_it_is_told() {
        let folder = Folder::new();
        folder.write("said.txt", "I am Mira. What is the capital of France?\n\n/new\nI am Ben. What is two and two?\n");
        let said = || Stdio::from(std::fs::File::open(folder.join("said.txt")).unwrap());
        let args = ["chat", "--model", "policy", "--max-tokens", "6", "--temperature", "0"];
        let output = folder.align_with_input(&args, said());
        assert_eq!(output.code, Some(0), "{output}");
        assert_eq!(output.stdout.lines().count(), 2, "an answer to each: {output}");
        assert_eq!(folder.align_with_input(&args, said()).stdout, output.stdout);
    }
}

mod fine {
    use super::*;

    #[test]
    fn a_dry_run_trains_nothing() {
        let folder = Folder::new();
        for stage in ["pretrain", "sft", "rm", "ppo"] {
            let before = folder.files("");
            let config = format!("{stage}.toml");
            let output = folder.succeed(&[stage, "--config", &config, "--dry-run"]);
            assert_eq!(output.stdout, "", "{output}");
            assert!(output.stderr.ends_with("nothing was trained\n"), "{output}");
            assert!(folder.files("") == before, "a dry run of {stage} changed files");
        }
    }

    /// The resolved config is shown with what every key means, is written into the run, and repeats the run.
    #[test]
    fn the_resolved_config_repeats_the_run() {
        let folder = Folder::new();
        let output = folder.succeed(&set(&SFT, &["train.steps=3"]));
        assert_eq!(output.stdout, "runs/sft/model\n", "{output}");
        let config = folder.read("runs/sft/config.toml");
        assert!(output.stderr.starts_with(config.trim_end()), "{output}");
        for part in ["# Rows per optimiser step", "Qwen report", "eps = 1e-8", "keep = 3"] {
            assert!(config.contains(part), "{part}\n{config}");
        }
        folder.write("again.toml", config);
        folder.succeed(&["sft", "--config", "again.toml", "--out", "runs/again"]);
        assert!(folder.files("runs/sft/model") == folder.files("runs/again/model"));
        assert_eq!(folder.metric("runs/sft", "train/loss"), folder.metric("runs/again", "train/loss"));
    }

    #[test]
    fn relative_paths_are_relative_to_the_working_directory() {
        let folder = Folder::new();
        folder.write("configs/sft.toml", folder.read("sft.toml"));
        folder.succeed(&["sft", "--config", "configs/sft.toml", "--set", "train.steps=1"]);
        assert!(folder.join("runs/sft/model/model.safetensors").exists());
    }
}

//! New random weights are made where they are meant, and nowhere else.

use std::fs;

use super::*;
use crate::util::world;

/// A folder with a config and a tokenizer, and a copy of weights under these names.
fn with_weights(folder: &Folder, name: &str, files: &[&str]) {
    folder.copy(world().join("config").to_str().unwrap(), name);
    for file in files {
        folder.write(&format!("{name}/{file}"), fs::read(folder.join("base/model.safetensors")).unwrap());
    }
}

#[test]
fn weights_that_lie_elsewhere_are_refused_by_every_command() {
    let folder = Folder::new();
    let cases: [(&str, &[&str], &str); 6] = [
        (
            "shards",
            &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "2 safetensors files without model.safetensors.index.json",
        ),
        ("named", &["qwen.safetensors"], "qwen.safetensors: weights under another name"),
        (
            "partial",
            &["model.safetensors.partial"],
            "model.safetensors.partial: weights that were not written or fetched to their end",
        ),
        ("below", &["checkpoint-500/model.safetensors"], "give below/checkpoint-500"),
        ("pickled", &["pytorch_model.bin"], "pickled weights are not read"),
        ("gguf", &["qwen-q4.gguf"], "qwen-q4.gguf: "),
    ];
    for (name, files, expected) in cases {
        with_weights(&folder, name, files);
        let path = format!("model.path='{name}'");
        let refused: &[&str] = &[name, expected];
        for command in ["pretrain", "doctor", "plan"] {
            folder.refuse(&set(&[command, "--config", "pretrain.toml"], &[&path]), &[refused]);
        }
        folder.refuse(&set(&SFT, &[&path]), &[refused]);
        folder.refuse(&["inspect", "model", name], &[refused]);
        folder.refuse(&["eval", "lm", "--model", name, "--data", "data/heldout-text.jsonl"], &[refused]);
    }
}

#[test]
fn a_link_to_weights_that_are_gone_and_a_reward_model_without_any() {
    let folder = Folder::new();
    with_weights(&folder, "cached", &[]);
    std::os::unix::fs::symlink("../../blobs/0123", folder.join("cached/model.safetensors")).unwrap();
    folder.refuse(&set(&PRETRAIN, &["model.path='cached'"]), &[&["cached/model.safetensors: ", "a link to nothing"]]);
    with_weights(&folder, "scores", &[]);
    folder.write("scores/align.json", folder.read("reward/align.json"));
    folder.refuse(&set(&PRETRAIN, &["model.path='scores'"]), &[&["scores/align.json: ", "whose weights are missing"]]);
}

#[test]
fn new_weights_are_said_to_be_new_before_the_first_step() {
    let folder = Folder::new();
    with_weights(&folder, "new", &[]);
    folder.write("new/README.md", "Nothing yet.");
    let run = set(&PRETRAIN, &["model.path='new'", "train.seed=7", "train.steps=2"]);
    let expected = "new random weights, seed 7";
    assert_eq!(fact(&folder.succeed(&with(&run, &["--dry-run"])), "starts from"), expected);
    for command in ["doctor", "plan"] {
        let args = set(&[command, "--config", "pretrain.toml"], &["model.path='new'", "train.seed=7"]);
        let output = folder.succeed(&args);
        assert!(output.stdout.contains(&format!("starts from: {expected}\n")), "{output}");
        assert_eq!(folder.succeed(&with(&args, &["--json"])).json()["starts_from"], expected);
    }
    let shown = folder.succeed(&["inspect", "model", "new"]);
    assert!(shown.stdout.contains("pretrain initialises them randomly"), "{shown}");
    assert_eq!(fact(&folder.succeed(&run), "starts from"), expected);
    assert_eq!(run_json(&folder, "runs/pretrain")["starts_from"], expected);

    let output = folder.succeed(&with(&set(&PRETRAIN, &["train.steps=1"]), &["--out", "runs/old"]));
    assert_eq!(fact(&output, "starts from"), "the weights in base");
    // Nothing but pretraining begins with new ones.
    folder.refuse(&set(&SFT, &["model.path='new'"]), &[&["new: ", "holds no weights"]]);
}

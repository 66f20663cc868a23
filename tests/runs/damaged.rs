//! Non-finite numbers are reported, and value models are not accepted as reward models.

use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::*;

/// A copy of a model in which the first number of a tensor is another one.
fn damaged(folder: &Folder, from: &str, to: &str, tensor: &str, number: f32) {
    folder.copy(from, to);
    let file = folder.join(to).join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<(String, Vec<usize>, Vec<u8>)> =
        read.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec())).collect();
    let found = all.iter_mut().find(|(name, ..)| name == tensor).unwrap();
    found.2[..4].copy_from_slice(&number.to_le_bytes());
    let views = all.iter().map(|(name, shape, data)| {
        (name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The command fails with exit code 1, says nothing on stdout and one line in which all of `parts` occur.
#[track_caller]
fn fails(folder: &Folder, args: &[&str], parts: &[&str]) {
    let output = folder.align(args);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.starts_with("warning: ")).collect();
    assert_eq!(lines.len(), 1, "{output}");
    assert!(lines[0].starts_with("align: ") && parts.iter().all(|part| lines[0].contains(part)), "{parts:?}: {output}");
}

#[test]
fn a_weight_that_is_no_number_is_named_by_every_command_that_measures() {
    let folder = Folder::new();
    let score = "score.weight";
    let layer = "model.layers.1.mlp.up_proj.weight";
    for (name, tensor, number) in
        [("nan", score, f32::NAN), ("inf", layer, f32::INFINITY), ("ninf", "model.norm.weight", f32::NEG_INFINITY)]
    {
        damaged(&folder, "reward", name, tensor, number);
        let parts: &[&str] = &[&format!("{name}: 1 of "), &format!(" numbers of {tensor} are NaN or infinite")];
        let held_out = "data/heldout-comparisons.jsonl";
        for more in [&[][..], &["--json"], &["--per-row", "rows.jsonl", "--html", "page.html"]] {
            fails(&folder, &with(&["eval", "rm", "--model", name, "--data", held_out], more), parts);
        }
        fails(&folder, &["eval", "rm", "--model", "reward", "--model", name, "--data", held_out], parts);
        let row = folder.write("row.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
        fails(&folder, &["score", "--model", name, "--data", row.to_str().unwrap(), "--out", "scores.jsonl"], parts);
        fails(&folder, &["serve", "rm", "--model", name, "--listen", "127.0.0.1:0"], parts);
        for file in ["rows.jsonl", "page.html", "scores.jsonl"] {
            assert!(!folder.join(file).exists(), "{file} was written");
        }
    }
    damaged(&folder, "policy", "lm", layer, f32::NAN);
    let parts: &[&str] = &["lm: 1 of ", layer];
    fails(&folder, &["eval", "lm", "--model", "lm", "--data", "data/heldout-sft.jsonl", "--json"], parts);
    fails(
        &folder,
        &["generate", "--model", "lm", "--prompts", "data/heldout-prompts.jsonl", "--out", "g.jsonl"],
        parts,
    );
    assert!(!folder.join("g.jsonl").exists());
}

/// Every weight is a number, and what comes of them is none.
#[test]
fn a_score_that_is_no_number_is_named_by_its_row() {
    let folder = Folder::new();
    damaged(&folder, "reward", "far", "model.norm.weight", f32::MAX);
    damaged(&folder, "far", "further", "score.weight", f32::MAX);
    let place: &[&str] = &["data/heldout-comparisons.jsonl:1: the score is not finite", "further is damaged"];
    fails(&folder, &["eval", "rm", "--model", "further", "--data", "data/heldout-comparisons.jsonl"], place);
    fails(&folder, &["eval", "rm", "--model", "further", "--data", "data/heldout-comparisons.jsonl", "--json"], place);
}

#[test]
fn a_value_model_is_no_reward_model() {
    let folder = Folder::new();
    folder.copy("reward", "value");
    let mut contract: Value = serde_json::from_str(&folder.read("value/align.json")).unwrap();
    contract["value_shift"] = json!(0.5);
    folder.write("value/align.json", contract.to_string());
    let refused: &[&str] = &["value: ", "holds a value model, expected a reward model that `align rm` wrote"];
    folder.refuse(&set(&PPO, &["models.reward='value'"]), &[refused]);
    folder.refuse(&set(&PPO, &["reward.second='value'"]), &[refused]);
    for command in ["doctor", "plan"] {
        folder.refuse(&set(&[command, "--config", "ppo.toml"], &["models.reward='value'"]), &[refused]);
    }
    folder.refuse(&["eval", "rm", "--model", "value", "--data", "data/heldout-comparisons.jsonl"], &[refused]);
    // As what the value model starts from, both are fine.
    for value in ["models.value='value'", "models.value='reward'"] {
        folder.succeed(&with(&set(&PPO, &[value]), &["--dry-run"]));
    }
}

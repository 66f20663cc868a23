//! A resume requires inputs with the same content, at any path.

use std::fs;

use super::*;
use crate::resume::deterministic_metrics;

/// The same text with another mark after its last sentence: the same length, and another row.
fn changed(text: &str) -> String {
    let at = text.rfind('.').unwrap();
    format!("{}!{}", &text[..at], &text[at + 1..])
}

#[test]
fn a_file_of_the_same_size_is_not_the_same_and_a_moved_one_is() {
    let folder = Folder::new();
    for (stage, command, file) in [("sft", SFT, "sft"), ("rm", RM, "rm"), ("pretrain", PRETRAIN, "pretrain")] {
        let text = folder.read(&format!("data/{file}.jsonl"));
        let [whole, moved] = ["whole", "moved"].map(|name| format!("runs/{name}-{stage}"));
        // A schedule that falls would fall to another end.
        let command = set(&command, &["schedule.kind='constant'"]);
        let train = "data.train='rows.jsonl'";
        folder.write("rows.jsonl", &text);
        folder.succeed(&with(&set(&command, &["train.steps=6", train]), &["--out", &whole]));
        folder.succeed(&with(&set(&command, &["train.steps=3", train]), &["--out", &moved]));

        folder.write("rows.jsonl", changed(&text));
        let resume = with(&set(&command, &["train.steps=6", train]), &["--out", &moved, "--resume"]);
        let refused: &[&str] = &["rows.jsonl: ", "its content differs from that of data.train when the run began"];
        folder.refuse(&resume, &[refused]);
        folder.refuse(&with(&resume, &["--dry-run"]), &[refused]);

        folder.write("elsewhere/same.jsonl", &text);
        let elsewhere = set(&command, &["train.steps=6", "data.train='elsewhere/same.jsonl'"]);
        folder.succeed(&with(&elsewhere, &["--out", &moved, "--resume"]));
        assert_eq!(deterministic_metrics(&folder, &whole), deterministic_metrics(&folder, &moved));
        assert!(folder.files(&format!("{whole}/model")) == folder.files(&format!("{moved}/model")));
        assert!(folder.read(&format!("{moved}/config.toml")).contains("elsewhere/same.jsonl"));
    }
}

#[test]
fn of_a_mix_the_files_may_move_and_the_weights_may_not_change() {
    let folder = Folder::new();
    let rows = folder.rows("data/sft.jsonl");
    folder.write_rows("a.jsonl", &rows[..30]);
    folder.write_rows("b.jsonl", &rows[30..90]);
    let run = |mix: &str, steps: &str, more: &[&str]| {
        let (mix, steps) = (format!("data.mix=[{mix}]"), format!("train.steps={steps}"));
        folder.align(&with(&set(&SFT, &["data.train=[]", &mix, &steps]), more))
    };
    let begun = run("{path='a.jsonl', weight=1.0}, {path='b.jsonl', weight=2.0}", "3", &[]);
    assert_eq!(begun.code, Some(0), "{begun}");
    let other = run("{path='a.jsonl', weight=1.0}, {path='b.jsonl', weight=3.0}", "6", &["--resume"]);
    assert!(
        other.code == Some(2) && other.stderr.contains("data.mix was [{ weight = 1.0 }, { weight = 2.0 }], now"),
        "{other}"
    );
    let swapped = run("{path='b.jsonl', weight=1.0}, {path='a.jsonl', weight=2.0}", "6", &["--resume"]);
    assert_eq!((swapped.code, swapped.stderr.lines().count()), (Some(2), 2), "{swapped}");
    assert!(swapped.stderr.contains("b.jsonl: is data.mix[0] instead of a.jsonl"), "{swapped}");
    folder.write_rows("c.jsonl", &rows[..30]);
    let moved = run("{path='c.jsonl', weight=1.0}, {path='b.jsonl', weight=2.0}", "6", &["--resume"]);
    assert_eq!(moved.code, Some(0), "{moved}");
}

#[test]
fn files_added_left_out_or_in_another_order() {
    let folder = Folder::new();
    let rows = folder.rows("data/sft.jsonl");
    folder.write_rows("a.jsonl", &rows[..30]);
    folder.write_rows("b.jsonl", &rows[30..60]);
    let run = |train: &'static str, steps: &'static str| set(&SFT, &[train, steps]);
    folder.succeed(&run("data.train=['a.jsonl', 'b.jsonl']", "train.steps=3"));
    let resumed = |train| with(&run(train, "train.steps=6"), &["--resume"]);
    let order = &["runs/sft/run.json: ", "another order", "expected a.jsonl, b.jsonl"];
    folder.refuse(&resumed("data.train=['b.jsonl', 'a.jsonl']"), &[order]);
    folder.refuse(&resumed("data.train='a.jsonl'"), &[&["b.jsonl: ", "no longer among data.train"]]);
    let more = "data.train=['a.jsonl', 'b.jsonl', 'data/heldout-sft.jsonl']";
    folder.refuse(&resumed(more), &[&["data/heldout-sft.jsonl: ", "was not among data.train"]]);
    folder.succeed(&resumed("data.train=['a.jsonl', 'b.jsonl']"));
}

/// Reference and reward model are read from their folders at every start of ppo.
#[test]
fn other_models_under_the_old_names_are_refused() {
    let folder = Folder::new();
    for model in ["policy", "reward"] {
        folder.copy(model, &format!("my-{model}"));
    }
    let sets = ["models.policy='my-policy'", "models.reward='my-reward'", "ppo.steps=6"];
    let shorter = [&sets[..2], &["ppo.steps=5"]].concat();
    folder.succeed(&set(&PPO, &shorter));
    let resume = with(&set(&PPO, &sets), &["--resume"]);
    let swap = |model: &str, with: &str| {
        let weights = fs::read(folder.join(with).join("model.safetensors")).unwrap();
        folder.write(&format!("my-{model}/model.safetensors"), weights);
    };
    // A reward model of the same shape that has learned something else.
    folder.succeed(&set(&RM, &["train.steps=1", "run.out='runs/other'"]));
    swap("reward", "runs/other/model");
    let reward = &["my-reward/model.safetensors: ", "its content differs from that of models.reward"];
    folder.refuse(&resume, &[reward]);
    swap("policy", "base");
    folder.refuse(
        &resume,
        &[&["my-policy/model.safetensors: ", "its content differs from that of models.policy"], reward],
    );
    swap("policy", "policy");
    swap("reward", "reward");
    // Under other names they are the same models.
    let moved = ["models.policy='policy'", "models.reward='reward'", "ppo.steps=6"];
    folder.succeed(&with(&set(&PPO, &moved), &["--resume"]));
}

/// With `loss.lm_coef` the head comes from the source's folder; a tokenizer makes other rows of the same
/// file.
#[test]
fn the_source_of_a_run_must_stay_what_it_was() {
    let folder = Folder::new();
    folder.copy("base", "mine");
    let sets = |steps: &'static str| ["model.path='mine'", "loss.lm_coef=0.1", steps];
    folder.succeed(&set(&RM, &sets("train.steps=2")));
    let resume = with(&set(&RM, &sets("train.steps=4")), &["--resume"]);
    let keep = fs::read(folder.join("mine/model.safetensors")).unwrap();
    folder.write("mine/model.safetensors", fs::read(folder.join("policy/model.safetensors")).unwrap());
    folder.refuse(&resume, &[&["mine/model.safetensors: ", "its content differs from that of model.path"]]);
    folder.write("mine/model.safetensors", keep);
    let tokenizer = folder.read("mine/tokenizer.json");
    folder.write("mine/tokenizer.json", format!("{tokenizer}\n"));
    folder.refuse(&resume, &[&["mine/tokenizer.json: ", "its content differs from that of model.path"]]);
    folder.write("mine/tokenizer.json", tokenizer);
    folder.succeed(&resume);
}

/// run.json of earlier versions has the sizes of data files, by path.
#[test]
fn runs_of_earlier_versions_go_on() {
    let folder = Folder::new();
    folder.write("rows.jsonl", folder.read("data/sft.jsonl"));
    let args = |steps: &'static str, train: &'static str| set(&SFT, &[steps, train]);
    folder.succeed(&args("train.steps=3", "data.train='rows.jsonl'"));
    let mut facts = run_json(&folder, "runs/sft");
    let bytes = fs::metadata(folder.join("rows.jsonl")).unwrap().len();
    let as_before = |facts: &mut Value, bytes: u64| {
        facts["inputs"] = json!({ "rows.jsonl": bytes });
        facts.as_object_mut().unwrap().remove("warnings");
        folder.write("runs/sft/run.json", facts.to_string());
    };
    as_before(&mut facts, bytes + 1);
    let resume = with(&args("train.steps=6", "data.train='rows.jsonl'"), &["--resume"]);
    let had = format!("has {bytes} bytes, {} when the run began", bytes + 1);
    folder.refuse(&resume, &[&["rows.jsonl: ", &had]]);
    as_before(&mut facts, bytes);
    folder.write("moved.jsonl", folder.read("rows.jsonl"));
    let moved = with(&args("train.steps=6", "data.train='moved.jsonl'"), &["--resume"]);
    folder.refuse(&moved, &[&["runs/sft/config.toml: ", "data.train was"]]);
    folder.succeed(&resume);
    // From now on it is known by its content.
    assert_eq!(run_json(&folder, "runs/sft")["inputs"]["data.train"][0]["bytes"], json!(bytes));
    let moved = with(&args("train.steps=7", "data.train='moved.jsonl'"), &["--resume"]);
    folder.succeed(&moved);
}

//! Reward models that another program made: where their scores are read, and that every command says so.

use std::fs;

use serde_json::{Value, json};

use crate::util::Folder;

const SYSTEM: &str = "You are a helpful assistant.";

/// A copy of the reward model as another program leaves one: without align.json, with the template of its
/// base.
fn foreign(folder: &Folder) {
    folder.copy("reward", "foreign");
    for file in ["align.json", "training_pairs.bin", "chat_template.jinja"] {
        let _ = fs::remove_file(folder.join("foreign").join(file));
    }
    fs::copy(folder.join("base/tokenizer_config.json"), folder.join("foreign/tokenizer_config.json")).unwrap();
}

fn scores(folder: &Folder, model: &str, flags: &[&str]) -> (Vec<f64>, String) {
    let args = ["eval", "rm", "--model", model, "--data", "data/heldout-comparisons.jsonl", "--per-row", "rows.jsonl"];
    let reported = folder.succeed(&[&args, flags].concat()).stderr;
    (folder.rows("rows.jsonl").iter().map(|row| row["chosen_score"].as_f64().unwrap()).collect(), reported)
}

fn apart(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max)
}

#[test]
fn scores_are_read_where_their_maker_trained_them_or_where_one_says() {
    let folder = Folder::new();
    foreign(&folder);
    let (ours, reported) = scores(&folder, "reward", &[]);
    assert!(!reported.contains("no align.json"), "{reported}");
    let (auto, reported) = scores(&folder, "foreign", &[]);
    assert!(
        reported.contains("foreign: no align.json, so another program made it: scores are read at the token \"\\n\""),
        "{reported}"
    );
    assert!(reported.contains("score_at and system change this"), "{reported}");
    assert!(apart(&auto, &ours) > 1e-3);
    let (said, _) = scores(&folder, "foreign", &["--score-at", "last", "--system", "template"]);
    assert_eq!(auto, said);
    let (at_end, reported) = scores(&folder, "foreign", &["--score-at", "end", "--system", SYSTEM]);
    assert!(reported.contains("(as set)"), "{reported}");
    assert!(apart(&at_end, &ours) < 1e-6);
    // Ours, where somebody wants to see what other programs read of a template that ends in a newline.
    let (_, reported) = scores(&folder, "reward", &["--score-at", "last"]);
    assert!(!reported.contains("no align.json"));

    folder.write_rows("row.jsonl", &[json!({ "prompt": "q", "response": "a" })]);
    let reported = folder.succeed(&["score", "--model", "foreign", "--data", "row.jsonl", "--out", "out.jsonl"]).stderr;
    assert!(reported.contains("foreign: no align.json"), "{reported}");
    let facts = folder.succeed(&["inspect", "model", "foreign", "--json"]).json();
    assert_eq!(facts["scores_are_read_at"], json!("\"\\n\""));
    assert!(facts["assumed"].as_str().unwrap().starts_with("no align.json"));
    let facts = folder.succeed(&["inspect", "model", "reward", "--json"]).json();
    assert_eq!((&facts["scores_are_read_at"], &facts["assumed"]), (&json!("\"<|im_end|>\""), &Value::Null));
}

#[test]
fn ppo_scores_as_the_reward_model_reads() {
    let folder = Folder::new();
    foreign(&folder);
    let run = |name: &str, sets: &[&str]| {
        let out = format!("runs/{name}");
        let mut args = vec!["ppo", "--config", "ppo.toml", "--out", &out, "--set", "ppo.steps=5"];
        args.extend(sets.iter().flat_map(|set| ["--set", *set]));
        let reported = folder.succeed(&args).stderr;
        (folder.metric(&out, "score/mean"), folder.metric(&out, "policy/loss"), reported)
    };
    let system = format!("reward.system='{SYSTEM}'");
    let (ours, losses, _) = run("ours", &[]);
    let (same, same_losses, reported) = run("same", &["models.reward='foreign'", "reward.score_at='end'", &system]);
    assert!(reported.contains("models.reward") && reported.contains("no align.json"), "{reported}");
    assert_eq!((&ours, losses.last()), (&same, same_losses.last()));
    let (auto, _, _) = run("auto", &["models.reward='foreign'"]);
    let (last, _, _) = run("last", &["models.reward='foreign'", "reward.score_at='last'", "reward.system='template'"]);
    assert_eq!(auto, last);
    assert!(apart(&auto, &ours) > 1e-3);
    // A reward model of ours under its own system text, which is not the policy's.
    let (other, _, _) = run("other", &["reward.system='Be brief.'"]);
    assert!(apart(&other, &ours) > 1e-4);
    let second = [
        "reward.second='foreign'",
        "reward.second_score_at='end'",
        "reward.second_system='You are a helpful assistant.'",
    ];
    run("second", &second);
    let last = folder.rows("runs/second/metrics.jsonl").pop().unwrap();
    let [first, second] =
        ["score/mean", "second_score_mean"].map(|name| last[format!("eval/heldout-prompts/{name}")].as_f64());
    assert!(
        (first.or(last["eval/heldout-prompts/score_mean"].as_f64()).unwrap() - second.unwrap()).abs() < 1e-5,
        "{last}"
    );
}

#[test]
fn the_doctor_says_what_is_assumed_and_finds_no_fault_in_it() {
    let folder = Folder::new();
    foreign(&folder);
    let args = ["doctor", "--config", "ppo.toml", "--json", "--set", "models.reward='foreign'", "--set"];
    for set in ["reward.score_at='auto'", "reward.system='Be brief.'"] {
        let found = folder.succeed(&[&args[..], &[set]].concat()).json();
        assert_eq!(found["faults"], 0, "{found}");
        let checks = found["checks"].as_array().unwrap();
        let said = checks.iter().find(|check| check["check"] == "models.reward").unwrap();
        assert!(said["measured"].as_str().unwrap().contains("scores are read at the token"), "{said}");
    }
}

#[test]
fn a_place_that_is_none_is_refused() {
    let folder = Folder::new();
    let args = ["ppo", "--config", "ppo.toml", "--dry-run", "--set", "reward.score_at='middle'"];
    folder.refuse(&args, &[&["reward.score_at", "auto", "end", "last"]]);
}

//! What PPO measures on held-out prompts, and `align report`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::util::Folder;

/// A small PPO run on the given held-out prompts, evaluated every second step; its metrics.
fn ppo(folder: &Folder, out: &str, heldout: &[Value], sets: &[&str]) -> Vec<Value> {
    folder.write_rows("held.jsonl", heldout);
    let common = ["data.eval_prompts='held.jsonl'", "ppo.steps=4", "ppo.value_warmup_steps=2", "run.eval_every=2"];
    let flags: Vec<&str> = common.iter().chain(sets).flat_map(|set| ["--set", *set]).collect();
    folder.succeed(&[&["ppo", "--config", "ppo.toml", "--out", out], &flags[..]].concat());
    folder.rows(&format!("{out}/metrics.jsonl"))
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name} is not a number in {row}"))
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-9, "{what}: {found}, expected {expected}");
}

/// The samples hold every response of a set of four: what the metrics say of the set can be counted there.
#[test]
fn what_is_measured_on_held_out_prompts_is_what_the_samples_hold() {
    let folder = Folder::new();
    let prompts = folder.rows("data/heldout-prompts.jsonl")[..4].to_vec();
    let lines = ppo(&folder, "runs/ppo", &prompts, &["reward.second='reward'", "ppo.policy_lr=1e-2"]);
    assert!(lines[0].get("eval/held/score_mean").is_none(), "the first step is not evaluated");
    let samples = folder.rows("runs/ppo/samples.jsonl");
    for step in [2, 4] {
        let line = &lines[step - 1];
        let samples: Vec<&Value> = samples.iter().filter(|row| row["step"] == step && row["set"] == "held").collect();
        assert_eq!(samples.len(), 4);
        let mean = |key: &str| samples.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>() / 4.0;
        for (metric, key) in [
            ("score_mean", "score"),
            ("second_score_mean", "score"),
            ("reference_score_mean", "reference_score"),
            ("reference_second_score_mean", "reference_score"),
            ("tokens", "tokens"),
            ("kl_ref", "kl"),
        ] {
            assert_close(number(line, &format!("eval/held/{metric}")), mean(key), metric);
        }
        let texts: HashSet<&str> = samples.iter().map(|row| row["response"].as_str().unwrap()).collect();
        assert_close(number(line, "eval/held/distinct"), texts.len() as f64 / 4.0, "distinct");
        assert_eq!(number(line, "eval/held/responses"), 4.0);
        for name in ["distinct_1", "distinct_2", "repetition", "score_length_correlation", "second_score_std"] {
            assert!((-1.0..=100.0).contains(&number(line, &format!("eval/held/{name}"))), "{name}");
        }
        assert!(line.get("eval/held/decile_1/score").is_none(), "four responses make no ten groups");

        // In the value warm-up the policy is the reference, and both answer alike; afterwards they do not.
        let alike = samples
            .iter()
            .all(|row| row["response"] == row["reference_response"] && row["score"] == row["reference_score"]);
        assert_eq!(alike, step == 2, "step {step}");
    }
    let of = |step: u64, key: &str| -> Vec<Value> {
        let rows = samples.iter().filter(|row| row["step"] == step && row["set"] == "held");
        rows.map(|row| row[key].clone()).collect()
    };
    assert_eq!(of(2, "reference_response"), of(4, "reference_response"), "made once");
    let train: Vec<&Value> = samples.iter().filter(|row| row["set"] == "train").collect();
    assert!(!train.is_empty() && train.iter().all(|row| row.get("reference_response").is_none()));
}

#[test]
fn a_second_reward_model_only_watches() {
    let folder = Folder::new();
    let prompts = folder.rows("data/heldout-prompts.jsonl");
    let without = ppo(&folder, "runs/one", &prompts, &[]);
    ppo(&folder, "runs/two", &prompts, &["reward.second='reward'"]);
    assert!(folder.files("runs/one/model") == folder.files("runs/two/model"), "it took part in training");
    assert!(without[3].as_object().unwrap().keys().all(|name| !name.contains("second_score")));

    let config = ["ppo", "--config", "ppo.toml", "--set"];
    folder.refuse(
        &[&config[..], &["reward.second='policy'"]].concat(),
        &[&["policy: ", "holds a language model, expected a reward model"]],
    );
    folder.refuse(
        &[&config[..], &["reward.second='nowhere'"]].concat(),
        &[&["nowhere: ", "no such folder, expected a model folder"]],
    );
}

#[test]
fn the_page_of_a_ppo_run_stands_alone_and_escapes_what_it_shows() {
    let folder = Folder::new();
    let markup = "<script>alert(1)</script><img src=x onerror=alert(2)>";
    let mut prompts = folder.rows("data/ppo.jsonl")[..12].to_vec();
    prompts[1] = json!({ "prompt": markup });
    folder.write_rows("held<b>.jsonl", &prompts);
    let lines = ppo(&folder, "runs/ppo", &prompts, &["data.eval_prompts='held<b>.jsonl'", "reward.second='reward'"]);
    for decile in 1..=10 {
        assert!(number(&lines[3], &format!("eval/held<b>/decile_{decile}/tokens")) > 0.0);
        assert!(number(&lines[3], &format!("eval/held<b>/decile_{decile}/score")).is_finite());
    }

    let said = folder.succeed(&["report", "runs/ppo"]);
    assert_eq!(said.stdout, "runs/ppo/report.html\n");
    let page = folder.read("runs/ppo/report.html");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;"), "the prompt is shown");
    for raw in ["<script", "<img", "<b>", "src=\"http", "href=", "@import", "url("] {
        assert!(!page.contains(raw), "{raw}");
    }
    for part in [
        "finished, 4 steps",
        "<h2>Findings</h2>",
        "score over KL",
        "second score over KL",
        "score by length",
        "explained variance",
        "<td>reference</td>",
        "value warm-up",
        "policy_lr = 1e-4",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("NaN"));

    // At the path of --out, but never over one of its own inputs.
    folder.succeed(&["report", "runs/ppo", "--out", "page.html"]);
    assert_eq!(folder.read("page.html"), page);
    let args = ["report", "runs/ppo", "--out", "runs/ppo/metrics.jsonl"];
    folder.refuse(&args, &[&["runs/ppo/metrics.jsonl: ", "expected another file"]]);
}

/// What a run should not do is planted in its metrics, and named on its page.
#[test]
fn the_page_says_what_speaks_against_a_run() {
    let folder = Folder::new();
    let mut lines = ppo(&folder, "runs/ppo", &folder.rows("data/heldout-prompts.jsonl"), &[]);
    for line in &mut lines {
        for (name, value) in [("policy/entropy", 1.0), ("response/identical", 0.0), ("policy/clip_frac", 0.0)] {
            line[name] = json!(value);
        }
        line["value/explained_variance"] = json!(0.5);
        for (name, value) in [("ended", 1.0), ("distinct", 1.0), ("kl_ref", 1.0), ("tokens", 5.0)] {
            line[format!("eval/held/{name}")] = json!(value);
        }
        for name in ["repetition", "score_length_correlation", "score_mean"] {
            line[format!("eval/held/{name}")] = json!(0.0);
        }
        line["eval/held/reference_tokens"] = json!(5.0);
    }
    folder.write_rows("runs/ppo/metrics.jsonl", &lines);
    // What the guards said of the numbers before.
    let _ = std::fs::remove_dir_all(folder.join("runs/ppo/records"));
    folder.succeed(&["report", "runs/ppo"]);
    assert!(folder.read("runs/ppo/report.html").contains("No finding"));

    lines[2]["eval/held/kl_ref"] = json!(25.0);
    lines[3]["eval/held/kl_ref"] = json!(31.0);
    lines[3]["eval/held/ended"] = json!(0.25);
    lines[3]["policy/loss"] = Value::Null;
    folder.write_rows("runs/ppo/metrics.jsonl", &lines);
    folder.succeed(&["report", "runs/ppo"]);
    let page = folder.read("runs/ppo/report.html");
    assert!(!page.contains("No finding") && page.matches("class=\"found\"").count() == 2, "{page}");
    assert!(page.contains("over-optimisation: on held the policy is 31.0 nats a response away"));
    assert!(page.contains("since step 3") && page.contains("no end: on held only 25 %"));
}

#[test]
fn every_stage_has_a_page() {
    let folder = Folder::new();
    for stage in ["pretrain", "sft", "rm"] {
        let config = format!("{stage}.toml");
        folder.succeed(&[stage, "--config", &config, "--set", "train.steps=4"]);
        let run = format!("runs/{stage}");
        folder.succeed(&["report", &run]);
        let page = folder.read(&format!("{run}/report.html"));
        for part in ["loss", "learning rate", "Held-out files", "Samples: heldout", "finished, 4 steps"] {
            assert!(page.contains(part), "{part} of {stage}");
        }
        assert!(!page.contains("Findings") && page.matches("<svg").count() >= 5, "{stage}");
    }
}

#[test]
fn folders_that_hold_no_run_or_a_damaged_one_are_refused() {
    let folder = Folder::new();
    folder.refuse(&["report", "nowhere"], &[&["nowhere: ", "no such folder, expected the folder of a run"]]);
    folder.refuse(&["report", "policy"], &[&["policy: ", "a model folder, which has no run.json"]]);
    folder.succeed(&["sft", "--config", "sft.toml", "--set", "train.steps=2"]);
    let whole = folder.read("runs/sft/metrics.jsonl");
    // A run on its way may just be writing a line.
    folder.write("runs/sft/metrics.jsonl", format!("{whole}{{\"step\":3,\"tra"));
    folder.succeed(&["report", "runs/sft"]);
    folder.write("runs/sft/metrics.jsonl", whole.replacen("train/loss\":", "train/loss\":x", 1));
    folder.write("runs/sft/run.json", "{");
    folder.refuse(
        &["report", "runs/sft"],
        &[&["runs/sft/run.json: ", "is damaged"], &["runs/sft/metrics.jsonl:1: ", "is damaged"]],
    );
    folder.write("runs/sft/metrics.jsonl", "");
    folder.refuse(
        &["report", "runs/sft"],
        &[&["runs/sft/run.json: ", "is damaged"], &["runs/sft/metrics.jsonl: ", "has no line yet"]],
    );
}

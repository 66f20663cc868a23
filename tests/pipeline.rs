//! The recipe from end to end: every stage learns, and its run folder holds what it should.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::util::Folder;

const EVERYWHERE: [&str; 4] = ["step", "seconds", "time/step", "memory/peak_gib"];

/// Asserts what a finished run's folder holds, and that the first line of metrics.jsonl has all of `names`.
fn assert_run(folder: &Folder, run: &str, results: &[&str], names: &[&str]) {
    let files: BTreeSet<String> = folder.files(run).into_keys().collect();
    for file in ["config.toml", "run.json", "metrics.jsonl", "samples.jsonl"] {
        assert!(files.contains(file), "{run} has no {file}: {files:?}");
    }
    assert!(files.iter().any(|file| file.starts_with("tensorboard/events.out.tfevents.")), "{files:?}");
    for result in results {
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            assert!(files.contains(&format!("{result}/{file}")), "{run} has no {result}/{file}");
        }
        assert!(
            files.iter().any(|file| file.starts_with("checkpoints/step-") && file.contains(&format!("/{result}/")))
        );
    }
    let metrics = folder.rows(&format!("{run}/metrics.jsonl"));
    for (index, line) in metrics.iter().enumerate() {
        assert_eq!(line["step"], index + 1, "the first line is that of the first step");
        for name in EVERYWHERE.iter().chain(names) {
            assert!(line.get(*name).is_some(), "{name} is missing: {line}");
        }
    }
    let facts: Value = serde_json::from_str(&folder.read(&format!("{run}/run.json"))).unwrap();
    for key in ["version", "commit", "libtorch", "device", "seed", "threads", "started", "finished", "steps"] {
        assert!(facts.get(key).is_some(), "run.json has no {key}: {facts}");
    }
    // The evaluation is merged into the line of its step; the last step is always evaluated.
    assert!(metrics.last().unwrap().as_object().unwrap().keys().any(|name| name.starts_with("eval/")));
    let kept = std::fs::read_dir(folder.join(run).join("checkpoints")).unwrap().count();
    assert!(kept <= 3, "run.keep");
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[test]
fn pretrain_and_sft_learn() {
    let folder = Folder::new();
    let language_model =
        ["train/loss", "train/grad_norm", "train/lr", "train/loss_tokens", "train/tokens", "train/tokens_per_second"];
    for stage in ["pretrain", "sft"] {
        let config = format!("{stage}.toml");
        let (model, steps) = (format!("model.path='{}'", folder.join("base").display()), "train.steps=24");
        let fixed = ["--set", "data.shuffle=false", "--set", "optimizer.lr=2e-3", "--set", "train.batch_size=8"];
        folder.succeed(&[&[stage, "--config", &config, "--set", &model, "--set", steps], &fixed[..]].concat());
        let run = format!("runs/{stage}");
        assert_run(&folder, &run, &["model"], &language_model);
        let losses = folder.metric(&run, "train/loss");
        assert!(mean(&losses[20..]) < mean(&losses[..4]) - 0.05, "{stage}: {losses:?}");
        let set = if stage == "sft" { "heldout-sft" } else { "heldout-text" };
        let last = &folder.rows(&format!("{run}/metrics.jsonl"))[23];
        for name in ["loss", "perplexity", "token_accuracy"] {
            assert!(last[format!("eval/{set}/{name}")].is_f64(), "{last}");
        }
    }
    // The warm-up of sft.toml: lr·(s+1)/3, then the peak.
    let rates = folder.metric("runs/sft", "train/lr");
    for (found, expected) in rates.iter().zip([2e-3 / 3.0, 4e-3 / 3.0, 2e-3, 2e-3]) {
        assert!((found - expected).abs() < 1e-12, "{rates:?}");
    }
}

/// A question, and whether "yes" is the answer that people prefer: where the sky is named.
fn yes_or_no(index: usize) -> (String, [&'static str; 2]) {
    let names = ["Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Greta", "Hugo"];
    let name = names[index / 2 % names.len()];
    if index.is_multiple_of(2) {
        (format!("I am {name}. Is the sky blue?"), ["Yes.", "No."])
    } else {
        (format!("I am {name}. Is grass red?"), ["No.", "Yes."])
    }
}

/// A policy that answers by chance learns the answer that depends on the question, from comparisons alone.
#[test]
fn the_recipe_teaches_a_known_answer() {
    let folder = Folder::new();
    let chat = |prompt: &str, answer: &str| json!({ "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}] });
    let both = |index: usize| {
        let (prompt, answers) = yes_or_no(index);
        answers.map(|answer| chat(&prompt, answer))
    };
    folder.write_rows("sft.jsonl", &(0..16).flat_map(both).collect::<Vec<_>>());
    let pair = |index: usize| {
        let (prompt, [good, bad]) = yes_or_no(index);
        json!({ "prompt": prompt, "chosen": good, "rejected": bad })
    };
    folder.write_rows("rm.jsonl", &(0..16).map(pair).collect::<Vec<_>>());
    folder.write_rows("ppo.jsonl", &(0..16).map(|index| json!({ "prompt": yes_or_no(index).0 })).collect::<Vec<_>>());

    let stage = |stage: &str, sets: &[&str]| {
        let config = format!("{stage}.toml");
        let flags: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        folder.succeed(&[&[stage, "--config", &config], &flags[..]].concat());
    };
    let few_evaluations = ["run.eval_every=1000", "run.save_every=10"];
    let train = ["train.batch_size=16", "train.microbatch_tokens=4096", "optimizer.lr=3e-3"];
    let sft = [
        "model.path='policy'",
        "data.train='sft.jsonl'",
        "data.eval='sft.jsonl'",
        "train.steps=40",
        "train.dropout=0.0",
    ];
    stage("sft", &[&sft[..], &train, &few_evaluations].concat());
    let rm = ["data.train='rm.jsonl'", "data.eval='rm.jsonl'", "train.steps=40"];
    stage("rm", &[&rm[..], &train, &few_evaluations].concat());
    assert_run(
        &folder,
        "runs/rm",
        &["model"],
        &["train/loss", "train/accuracy", "train/margin", "train/grad_norm", "train/lr"],
    );
    assert_eq!(folder.metric("runs/rm", "eval/rm/accuracy")[39], 1.0);
    let contract: Value = serde_json::from_str(&folder.read("runs/rm/model/align.json")).unwrap();
    assert_eq!(contract["reference"]["scores"], 32, "{contract}");

    let ppo = [
        "models.policy='runs/sft/model'",
        "models.reward='runs/rm/model'",
        "data.prompts='ppo.jsonl'",
        "data.eval_prompts='ppo.jsonl'",
        "rollout.prompts_per_step=16",
        "rollout.max_response_tokens=6",
        "ppo.steps=24",
        "ppo.microbatch_tokens=4096",
        "ppo.policy_lr=2e-3",
        "reward.kl_coef=1.0",
    ];
    stage("ppo", &[&ppo[..], &few_evaluations].concat());
    let names = [
        "phase",
        "score/mean",
        "score/std",
        "score/running_mean",
        "reward/mean",
        "kl/ref",
        "kl/ref_k3",
        "kl/old",
        "policy/loss",
        "policy/clip_frac",
        "policy/entropy",
        "policy/ratio_max",
        "policy/grad_norm",
        "value/loss",
        "value/clip_frac",
        "value/explained_variance",
        "value/grad_norm",
        "ptx/loss",
        "ptx/grad_norm",
        "response/tokens",
        "response/ended",
        "response/identical",
        "time/rollout",
        "time/score",
        "time/update",
    ];
    assert_run(&folder, "runs/ppo", &["model", "value"], &names);
    let scores = folder.metric("runs/ppo", "score/mean");
    assert!(mean(&scores[20..]) > mean(&scores[..4]) + 0.5, "the score does not rise: {scores:?}");

    // The answers themselves, greedy, before and after.
    let share = |model: &str| {
        let out = ["--max-tokens", "6", "--temperature", "0", "--out", "out.jsonl"];
        folder.succeed(&[&["generate", "--model", model, "--prompts", "ppo.jsonl"], &out[..]].concat());
        let right = |(index, row): (usize, Value)| row["response"] == yes_or_no(index).1[0];
        folder.rows("out.jsonl").into_iter().enumerate().map(right).filter(|right| *right).count()
    };
    let (before, after) = (share("runs/sft/model"), share("runs/ppo/model"));
    assert!(after >= 14 && before <= 12, "{before} of 16 right before, {after} after");
}

//! What must hold between runs, seen from outside.

use align_text::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::resume::deterministic_metrics;
use crate::util::Folder;

/// A command with `--set` before each of `sets`.
fn set<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let flags = sets.iter().flat_map(|set| ["--set", set]);
    command.iter().copied().chain(flags).collect()
}

/// Runs a stage with its small config.
#[track_caller]
fn run(folder: &Folder, stage: &str, out: &str, sets: &[&str]) {
    let config = format!("{stage}.toml");
    folder.succeed(&[&set(&[stage, "--config", &config], sets)[..], &["--out", out]].concat());
}

#[track_caller]
fn assert_close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (found - expected).abs() / expected.abs().max(1.0);
    assert!(error <= tolerance, "{what}: {found}, expected {expected} within {tolerance}");
}

#[track_caller]
fn assert_all_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    found.iter().zip(expected).for_each(|(found, expected)| assert_close(*found, *expected, tolerance, what));
}

#[test]
fn microbatches_change_no_loss() {
    let folder = Folder::new();
    folder.write_rows("lists.jsonl", &(0..6).map(list).collect::<Vec<_>>());
    let lists = ["data.train=['lists.jsonl', 'data/rm.jsonl']", "loss.lm_coef=0.3", "loss.center_coef=0.01"];
    let stages: [(&str, &[&str]); 4] =
        [("sft", &["train.dropout=0.0"]), ("pretrain", &[]), ("rm", &[]), ("rm", &lists)];
    for (index, (stage, sets)) in stages.into_iter().enumerate() {
        for tokens in ["1", "100000"] {
            let microbatch = format!("train.microbatch_tokens={tokens}");
            let sets = [sets, &[&microbatch, "train.steps=3", "train.batch_size=8", "optimizer.lr=1e-5"]].concat();
            run(&folder, stage, &format!("runs/{index}-{tokens}"), &sets);
        }
        for name in ["train/loss", "train/grad_norm"] {
            let [alone, together] =
                ["1", "100000"].map(|tokens| folder.metric(&format!("runs/{index}-{tokens}"), name));
            assert!(alone.iter().all(|number| number.is_finite()));
            let tolerance = if name == "train/loss" { 1e-6 } else { 1e-5 };
            assert_all_close(&alone, &together, tolerance, &format!("{name} of {stage} {sets:?}"));
        }
    }
}

/// A prompt with several answers and their scores; which is best varies, and some are equal.
fn list(index: u64) -> Value {
    let answers: Vec<String> = (0..2 + index % 3).map(|answer| format!("Answer {answer} to {index}.")).collect();
    let scores: Vec<u64> = (0..answers.len() as u64).map(|answer| (answer * 2 + index) % 3).collect();
    json!({ "prompt": format!("Question {index}?"), "responses": answers, "scores": scores })
}

#[test]
fn one_seed_gives_one_run_and_another_seed_another() {
    let folder = Folder::new();
    for (stage, key) in [("sft", "train.seed"), ("rm", "train.seed"), ("ppo", "ppo.seed")] {
        let steps = if stage == "ppo" { "ppo.steps=2" } else { "train.steps=3" };
        let metrics = |seed: u64, out: &str| {
            let out = format!("runs/{stage}-{out}");
            run(&folder, stage, &out, &[steps, &format!("{key}={seed}"), "data.system='You are a helpful assistant.'"]);
            deterministic_metrics(&folder, &out)
        };
        let first = metrics(1, "first");
        assert_eq!(first, metrics(1, "again"), "{stage}");
        assert_ne!(first, metrics(2, "other"), "{stage}");
    }
}

/// A reward model's scores mean what its contract says: mean and spread on the first held-out file.
#[test]
fn the_score_contract_has_the_mean_that_eval_rm_finds() {
    let folder = Folder::new();
    run(&folder, "rm", "runs/rm", &["train.steps=4"]);
    let set = "data/heldout-comparisons.jsonl";
    folder.succeed(&["eval", "rm", "--model", "runs/rm/model", "--data", set, "--per-row", "scores.jsonl"]);
    let scores: Vec<f64> = folder
        .rows("scores.jsonl")
        .iter()
        .flat_map(|row| ["chosen_score", "rejected_score"].map(|key| row[key].as_f64().unwrap()))
        .collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let spread = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / scores.len() as f64).sqrt();
    let contract: Value = serde_json::from_str(&folder.read("runs/rm/model/align.json")).unwrap();
    let reference = &contract["reference"];
    assert_eq!((&reference["set"], &reference["scores"]), (&json!(set), &json!(scores.len())));
    assert_close(reference["mean"].as_f64().unwrap(), mean, 1e-6, "mean");
    assert_close(reference["std"].as_f64().unwrap(), spread, 1e-6, "spread");
}

/// While nothing is learned, the policy is the reference and its own past: exactly, since all three are
/// computed alike.
#[test]
fn ppo_without_learning_stays_at_the_reference() {
    let folder = Folder::new();
    let still = ["ppo.policy_lr=0.0", "ppo.value_lr=0.0", "ppo.value_warmup_steps=0", "ppo.steps=2"];
    for (index, convention) in ["rollout.logprobs='full'", "rollout.logprobs='nucleus'"].into_iter().enumerate() {
        let out = format!("runs/{index}");
        run(&folder, "ppo", &out, &[&still[..], &[convention, "rollout.temperature=0.7"]].concat());
        for (name, expected) in
            [("kl/ref", 0.0), ("kl/ref_k3", 0.0), ("kl/old", 0.0), ("policy/ratio_max", 1.0), ("policy/clip_frac", 0.0)]
        {
            assert_eq!(folder.metric(&out, name), [expected; 2], "{name} with {convention}");
        }
        assert!(
            folder.files(&format!("{out}/model"))["model.safetensors"] == folder.files("policy")["model.safetensors"]
        );
    }
    // Where the update's microbatches are others than those of the old log-probabilities, equal means 1e-5.
    let minibatches = ["ppo.minibatch_size=3", "ppo.epochs=2"];
    run(&folder, "ppo", "runs/minibatches", &[&still[..], &minibatches].concat());
    for ratio in folder.metric("runs/minibatches", "policy/ratio_max") {
        assert_close(ratio, 1.0, 1e-5, "policy/ratio_max");
    }
    for gap in folder.metric("runs/minibatches", "policy/logprob_gap") {
        assert_close(gap, 0.0, 1e-5, "policy/logprob_gap");
    }
    for kl in folder.metric("runs/minibatches", "kl/ref") {
        assert_eq!(kl, 0.0);
    }
}

/// With a learning policy, the first step still begins at the reference.
#[test]
fn the_first_ratio_is_one() {
    let folder = Folder::new();
    run(&folder, "ppo", "runs/ppo", &["ppo.value_warmup_steps=0", "ppo.steps=2", "ppo.policy_lr=1e-2"]);
    assert_eq!(folder.metric("runs/ppo", "policy/ratio_max"), [1.0, 1.0]);
    assert_eq!(folder.metric("runs/ppo", "kl/old"), [0.0, 0.0]);
    let kl = folder.metric("runs/ppo", "kl/ref_k3");
    assert!(kl[0] == 0.0 && kl[1] > 1e-6, "{kl:?}");
}

#[test]
fn the_value_warmup_trains_the_value_model_alone() {
    let folder = Folder::new();
    run(&folder, "ppo", "runs/warm", &["ppo.steps=3", "ppo.value_warmup_steps=3", "run.save_every=1"]);
    let weights = |of: &str| folder.files(of)["model.safetensors"].clone();
    assert!(weights("runs/warm/model") == weights("policy"), "the policy's bytes changed");
    assert!(weights("runs/warm/value") != weights("reward"), "the value model did not learn");
    assert!(weights("runs/warm/checkpoints/step-000001/value") != weights("runs/warm/value"));
    assert_eq!(folder.metric("runs/warm", "phase"), [0.0; 3]);
    for name in ["kl/ref", "kl/old"] {
        assert_eq!(folder.metric("runs/warm", name), [0.0; 3], "{name}");
    }
    assert!(folder.metric("runs/warm", "policy/loss").iter().all(|loss| loss.is_nan()), "null: nothing was measured");
    assert!(folder.metric("runs/warm", "value/grad_norm").iter().all(|norm| *norm > 0.0));
    // The next step's policy is the one that the warm-up left, so its KL still is 0.
    run(&folder, "ppo", "runs/after", &["ppo.steps=5", "ppo.value_warmup_steps=3"]);
    let kl = folder.metric("runs/after", "kl/ref_k3");
    assert!(kl[3] == 0.0 && kl[4] > 0.0, "{kl:?}");
    assert_eq!(folder.metric("runs/after", "value/loss")[..3], folder.metric("runs/warm", "value/loss"));
}

/// The value model is the reward model, shifted by minus the mean of the first rollout's scores.
#[test]
fn the_value_shift_is_minus_the_first_mean() {
    let folder = Folder::new();
    run(&folder, "ppo", "runs/ppo", &["rollout.missing_end='none'", "ppo.steps=3"]);
    let contract: Value = serde_json::from_str(&folder.read("runs/ppo/value/align.json")).unwrap();
    let (first, running) = (folder.metric("runs/ppo", "score/mean"), folder.metric("runs/ppo", "score/running_mean"));
    assert_close(contract["value_shift"].as_f64().unwrap(), -first[0], 1e-12, "value_shift");
    // Every rollout has 8 responses: the running mean is the mean of the means.
    let means = [first[0], (first[0] + first[1]) / 2.0, (first[0] + first[1] + first[2]) / 3.0];
    assert_all_close(&running, &means, 1e-12, "score/running_mean");
    // Value models are read by `ppo` again, with their own shift.
    let sets = ["models.value='runs/ppo/value'", "ppo.steps=1"];
    run(&folder, "ppo", "runs/next", &sets);
    let next: Value = serde_json::from_str(&folder.read("runs/next/value/align.json")).unwrap();
    assert_eq!(next["value_shift"], contract["value_shift"]);
}

/// Per row: the sum of −log p over the targets, and their number.
fn row_losses(folder: &Folder, model: &str, file: &str) -> Vec<(f64, f64)> {
    folder.succeed(&["eval", "lm", "--model", model, "--data", file, "--per-row", "per-row.jsonl"]);
    let loss = |row: &Value| {
        let (mask, logprobs) = (row["loss_mask"].as_array().unwrap(), row["logprobs"].as_array().unwrap());
        assert_eq!(mask.len(), row["input_ids"].as_array().unwrap().len());
        assert_eq!(mask.len(), logprobs.len());
        for (mask, logprob) in mask.iter().zip(logprobs) {
            assert_eq!(mask == 1, logprob.is_f64(), "null exactly where the mask is 0");
        }
        (
            -logprobs.iter().filter_map(Value::as_f64).sum::<f64>(),
            logprobs.iter().filter(|one| one.is_f64()).count() as f64,
        )
    };
    folder.rows("per-row.jsonl").iter().map(loss).collect()
}

fn mean(rows: &[(f64, f64)]) -> f64 {
    rows.iter().map(|(loss, _)| loss).sum::<f64>() / rows.iter().map(|(_, tokens)| tokens).sum::<f64>()
}

#[test]
fn unshuffled_rows_come_in_file_order_and_their_loss_is_the_token_mean() {
    let folder = Folder::new();
    folder.write_rows("ten.jsonl", &folder.rows("data/sft.jsonl")[..10]);
    let sets =
        ["data.train='ten.jsonl'", "data.shuffle=false", "train.dropout=0.0", "optimizer.lr=0.0", "train.steps=4"];
    run(&folder, "sft", "runs/sft", &sets);
    let rows = row_losses(&folder, "base", "ten.jsonl");
    let in_order: Vec<(f64, f64)> = rows.iter().cycle().take(16).copied().collect();
    let expected: Vec<f64> = in_order.chunks(4).map(mean).collect();
    assert_all_close(&folder.metric("runs/sft", "train/loss"), &expected, 1e-6, "train/loss");
    let tokens: Vec<f64> = in_order.chunks(4).map(|rows| rows.iter().map(|(_, tokens)| tokens).sum()).collect();
    assert_eq!(folder.metric("runs/sft", "train/loss_tokens"), tokens);
    // Rows of different lengths: the mean over tokens is not the mean of the rows' means.
    let of_means = rows[..4].iter().map(|row| mean(&[*row])).sum::<f64>() / 4.0;
    assert!((of_means - expected[0]).abs() > 1e-3, "the rows do not tell the two means apart");

    // Nothing was learned, so the run's evaluations are those of the command.
    let evaluated =
        folder.succeed(&["eval", "lm", "--model", "base", "--data", "data/heldout-sft.jsonl", "--json"]).json();
    let loss = evaluated["sets"][0]["loss"].as_f64().unwrap();
    assert_close(folder.metric("runs/sft", "eval/heldout-sft/loss")[3], loss, 1e-6, "eval/heldout-sft/loss");
    assert_close(mean(&row_losses(&folder, "base", "data/heldout-sft.jsonl")), loss, 1e-6, "--per-row");
}

#[test]
fn a_mix_draws_rows_by_weight_in_the_order_of_their_files() {
    let folder = Folder::new();
    let rows = folder.rows("data/sft.jsonl");
    folder.write_rows("a.jsonl", &rows[..9]);
    folder.write_rows("b.jsonl", &rows[20..25]);
    let mix = "data.mix=[{path='a.jsonl', weight=3.0}, {path=['b.jsonl'], weight=1.0}]";
    let sets = ["data.train=[]", mix, "data.shuffle=false", "train.dropout=0.0", "optimizer.lr=0.0", "train.steps=4"];
    run(&folder, "sft", "runs/sft", &sets);
    let (a, b) = (row_losses(&folder, "base", "a.jsonl"), row_losses(&folder, "base", "b.jsonl"));
    let batch = |step: usize| -> Vec<(f64, f64)> {
        let of_a = (3 * step..3 * step + 3).map(|row| a[row % 9]);
        of_a.chain([b[step % 5]]).collect()
    };
    let expected: Vec<f64> = (0..4).map(|step| mean(&batch(step))).collect();
    assert_all_close(&folder.metric("runs/sft", "train/loss"), &expected, 1e-6, "train/loss");
    // Shuffled, the same mix draws other rows.
    run(&folder, "sft", "runs/shuffled", &[&sets[..2], &sets[3..]].concat());
    assert_ne!(folder.metric("runs/shuffled", "train/loss"), folder.metric("runs/sft", "train/loss"));
}

#[test]
fn long_rows_are_dropped_or_cut_and_counted() {
    let folder = Folder::new();
    let answer = |words: usize| format!("It is{}.", " so".repeat(words));
    let row = |words| json!({ "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer(words)}] });
    folder.write_rows("rows.jsonl", &[row(2), row(200), row(3), row(300), row(4)]);
    let facts = |out: &str| -> Value { serde_json::from_str(&folder.read(&format!("{out}/run.json"))).unwrap() };
    let sets = ["data.train='rows.jsonl'", "train.steps=1", "data.max_tokens=64"];
    for (overlong, [rows, dropped, truncated]) in [("drop", [3, 2, 0]), ("truncate", [5, 0, 2])] {
        run(
            &folder,
            "sft",
            &format!("runs/{overlong}"),
            &[&sets[..], &[&format!("data.overlong='{overlong}'")]].concat(),
        );
        let facts = facts(&format!("runs/{overlong}"));
        assert_eq!(facts["rows"], rows, "{facts}");
        assert_eq!(facts["rows_dropped_for_length"], dropped, "{facts}");
        assert_eq!(facts["rows_truncated"], truncated, "{facts}");
    }
    let pair = |words| json!({ "prompt": "Why?", "chosen": answer(2), "rejected": answer(words) });
    folder.write_rows("rows.jsonl", &[pair(3), pair(200), pair(4)]);
    run(&folder, "rm", "runs/rm", &sets);
    assert_eq!((&facts("runs/rm")["comparisons"], &facts("runs/rm")["dropped_for_length"]), (&json!(2), &json!(1)));
    folder.write_rows("rows.jsonl", &[json!({ "prompt": answer(200) }), json!({ "prompt": "Why?" })]);
    run(&folder, "ppo", "runs/ppo", &["data.prompts='rows.jsonl'", "ppo.steps=1", "data.max_prompt_tokens=64"]);
    assert_eq!((&facts("runs/ppo")["prompts"], &facts("runs/ppo")["prompts_dropped"]), (&json!(1), &json!(1)));
}

#[test]
fn loss_falls_on_answers_and_their_end_and_the_system_text_is_inserted_once() {
    let folder = Folder::new();
    let user = json!({ "role": "user", "content": "  What is <|im_end|>?\n" });
    let turns = [
        user.clone(),
        json!({ "role": "assistant", "content": "A mark." }),
        user,
        json!({ "role": "assistant", "content": "The same." }),
    ];
    let system = json!({ "role": "system", "content": "Be brief." });
    folder.write_rows("plain.jsonl", &[json!({ "messages": turns })]);
    let with_system = [&[system][..], &turns].concat();
    folder.write_rows("own.jsonl", &[json!({ "messages": with_system })]);
    let tokenizer = Tokenizer::open(&folder.join("base")).unwrap();
    let row = |file: &str, system: &[&str]| {
        let args = ["eval", "lm", "--model", "base", "--data", file, "--per-row", "per-row.jsonl"];
        folder.succeed(&[&args[..], system].concat());
        folder.rows("per-row.jsonl").remove(0)
    };
    let ids = |row: &Value| -> Vec<i64> { serde_json::from_value(row["input_ids"].clone()).unwrap() };

    let plain = row("plain.jsonl", &[]);
    let scored: Vec<i64> = ids(&plain)
        .into_iter()
        .zip(plain["loss_mask"].as_array().unwrap())
        .filter(|(_, mask)| **mask == 1)
        .map(|(id, _)| id)
        .collect();
    assert_eq!(tokenizer.decode(&scored), "A mark.<|im_end|>The same.<|im_end|>");
    let turn = "<|im_start|>user\n  What is <|im_end|>?\n<|im_end|>\n<|im_start|>assistant\n";
    let text = |system: &str| format!("{system}{turn}A mark.<|im_end|>\n{turn}The same.<|im_end|>\n");
    let default = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
    assert_eq!(tokenizer.decode(&ids(&plain)), text(default));
    let marks = ids(&plain).iter().filter(|id| **id == tokenizer.special().im_end).count();
    assert_eq!(marks, 5, "`<|im_end|>` in a question is text, not a mark");

    assert_eq!(tokenizer.decode(&ids(&row("plain.jsonl", &["--system", ""]))), text(""));
    let own = row("own.jsonl", &[]);
    assert_eq!(tokenizer.decode(&ids(&own)), text("<|im_start|>system\nBe brief.<|im_end|>\n"));
    let inserted = row("plain.jsonl", &["--system", "Be brief."]);
    assert_eq!((ids(&inserted), &inserted["logprobs"]), (ids(&own), &own["logprobs"]));
}

/// Scores of comparisons by `eval rm`: (chosen, rejected). `loss.lm_coef` is the language-model loss on the
/// best answer, whole: its first words may stand in the shared prefix, and the best of a list need not come
/// first.
#[test]
fn the_language_model_loss_of_rm_is_that_of_eval_lm_on_the_best_answers() {
    let folder = Folder::new();
    let ask = |index: usize| format!("I am Anna Reed. What is {index} plus 1?");
    let comparisons = [
        json!({ "prompt": ask(1), "chosen": "Certainly, it is two.", "rejected": "Certainly, it is four." }),
        json!({ "prompt": ask(2), "responses": ["It is two.", "It is three.", "No."], "scores": [1, 5, 0] }),
        json!({ "prompt": ask(3), "chosen": "Four.", "rejected": "Silly question." }),
    ];
    let best = ["Certainly, it is two.", "It is three.", "Four."];
    let dialogue = |(index, answer): (usize, &&str)| {
        json!({ "messages": [
            { "role": "user", "content": ask(index + 1) }, { "role": "assistant", "content": answer },
        ] })
    };
    folder.write_rows("comparisons.jsonl", &comparisons);
    folder.write_rows("best.jsonl", &best.iter().enumerate().map(dialogue).collect::<Vec<_>>());
    let sets = ["data.train='comparisons.jsonl'", "train.batch_size=3", "train.steps=1", "loss.lm_coef=0.5"];
    run(&folder, "rm", "runs/rm", &sets);
    let measured = folder.succeed(&["eval", "lm", "--model", "base", "--data", "best.jsonl", "--json"]).json();
    let expected = measured["sets"][0]["loss"].as_f64().unwrap();
    assert_close(folder.metric("runs/rm", "train/lm_loss")[0], expected, 1e-5, "train/lm_loss");
}

/// Other programs stop where the chat format ends a turn.
#[test]
fn a_finetuned_model_names_its_end_tokens() {
    let folder = Folder::new();
    folder.copy("base", "own");
    folder.write("own/generation_config.json", r#"{"eos_token_id": 5, "top_k": 20}"#);
    let tokenizer = Tokenizer::open(&folder.join("base")).unwrap();
    let ends = [tokenizer.special().im_end, tokenizer.special().endoftext];
    run(&folder, "sft", "runs/sft", &["train.steps=1"]);
    run(&folder, "sft", "runs/own", &["train.steps=1", "model.path='own'"]);
    let written = |run: &str| -> Value {
        serde_json::from_str(&folder.read(&format!("runs/{run}/model/generation_config.json"))).unwrap()
    };
    assert_eq!(written("sft")["eos_token_id"], json!(ends));
    assert_eq!(written("own"), json!({ "eos_token_id": [ends[0], ends[1], 5], "top_k": 20 }));
}

fn pair_scores(folder: &Folder, rows: &[Value], more: &[&str]) -> Vec<(f64, f64)> {
    folder.write_rows("pairs.jsonl", rows);
    let args = ["eval", "rm", "--model", "reward", "--data", "pairs.jsonl", "--per-row", "per-row.jsonl"];
    folder.succeed(&[&args[..], more].concat());
    let score = |row: &Value, key: &str| row[key].as_f64().unwrap();
    folder.rows("per-row.jsonl").iter().map(|row| (score(row, "chosen_score"), score(row, "rejected_score"))).collect()
}

#[test]
fn a_list_gives_a_line_for_every_pair_that_differs() {
    let folder = Folder::new();
    let answers = ["Paris.", "Oslo, I think.", "I do not know.", "Paris, the capital."];
    let list = json!({ "prompt": "Capital of France?", "responses": answers, "scores": [3.0, 1.0, 1.0, 2.5] });
    let found = pair_scores(&folder, &[list], &[]);
    let pairs: Vec<Vec<usize>> =
        folder.rows("per-row.jsonl").iter().map(|row| serde_json::from_value(row["pair"].clone()).unwrap()).collect();
    let mut sorted = pairs.clone();
    sorted.sort();
    assert_eq!(sorted, [vec![0, 1], vec![0, 2], vec![0, 3], vec![3, 1], vec![3, 2]], "better first, ties left out");
    let single = |better: usize, worse: usize| {
        let row = json!({ "prompt": "Capital of France?", "chosen": answers[better], "rejected": answers[worse] });
        pair_scores(&folder, &[row], &[])[0]
    };
    for (pair, (chosen, rejected)) in pairs.iter().zip(found) {
        let (alone, other) = single(pair[0], pair[1]);
        assert_close(chosen, alone, 1e-5, "chosen_score");
        assert_close(rejected, other, 1e-5, "rejected_score");
    }
}

#[test]
fn a_reward_model_is_measured_under_the_system_text_it_was_trained_with() {
    let folder = Folder::new();
    let rows = folder.rows("data/heldout-comparisons.jsonl")[..4].to_vec();
    let default = pair_scores(&folder, &rows, &[]);
    assert_eq!(default, pair_scores(&folder, &rows, &["--system", "You are a helpful assistant."]));
    let brief = pair_scores(&folder, &rows, &["--system", "Be brief."]);
    assert_ne!(default, brief);
    run(
        &folder,
        "rm",
        "runs/brief",
        &["data.system='Be brief.'", "model.path='reward'", "optimizer.lr=0.0", "train.steps=1"],
    );
    let args = ["eval", "rm", "--model", "runs/brief/model", "--data", "pairs.jsonl", "--per-row", "per-row.jsonl"];
    folder.succeed(&args);
    let own: Vec<f64> = folder.rows("per-row.jsonl").iter().map(|row| row["chosen_score"].as_f64().unwrap()).collect();
    assert_eq!(own, brief.iter().map(|(chosen, _)| *chosen).collect::<Vec<_>>());
}

/// Prompts whose text is easily spoiled on its way into a dialogue.
fn awkward_prompts() -> Vec<Value> {
    let system = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "And you?\n" }]);
    let long = json!([
        { "role": "user", "content": "I am Mira. What is the capital of France?" },
        { "role": "assistant", "content": "Certainly, Mira, the capital of France is Paris." },
        { "role": "user", "content": "\n\nAnd of Japan?  " },
    ]);
    let texts = [
        "I am Mira. What is the capital of France?",
        "I am Mira. What is the capital of France?\n",
        "\n\nI am Ben. What colour is grass?",
        "   I am Ben. What colour is grass?   ",
        "我叫小明。我有红色的杯子和蓝色的帽子。我的帽子是什么颜色？\n",
        "<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>",
    ];
    texts.map(|text| json!(text)).into_iter().chain([system, long]).collect()
}

/// The reward model sees in PPO what it sees in `eval rm`: the same dialogue, the same end token, the same
/// number.
#[test]
fn ppo_scores_what_eval_rm_scores() {
    let folder = Folder::new();
    let prompts = awkward_prompts();
    folder.write_rows("prompts.jsonl", &prompts.iter().map(|prompt| json!({ "prompt": prompt })).collect::<Vec<_>>());
    // A nearly greedy policy writes words in the tokenizer's own cut, so that its text leads back to the
    // sampled tokens.
    let sets = [
        "data.prompts='prompts.jsonl'",
        "data.eval_prompts=[]",
        "data.shuffle=false",
        "rollout.temperature=0.2",
        "ppo.steps=2",
        "ppo.policy_lr=0.0",
        "run.eval_every=1",
    ];
    run(&folder, "ppo", "runs/ppo", &sets);
    let samples = folder.rows("runs/ppo/samples.jsonl");
    assert_eq!(samples.len(), 16, "two responses to each of eight prompts");

    for (step, samples) in samples.chunks(8).enumerate() {
        let scores: Vec<f64> = samples.iter().map(|sample| sample["score"].as_f64().unwrap()).collect();
        let mean = scores.iter().sum::<f64>() / 8.0;
        assert_close(folder.metric("runs/ppo", "score/mean")[step], mean, 1e-9, "score/mean");
    }

    let tokenizer = Tokenizer::open(&folder.join("policy")).unwrap();
    let (mut rows, mut expected) = (Vec::new(), Vec::new());
    for sample in &samples {
        let response = sample["response"].as_str().unwrap();
        let (text, marks) = response.strip_suffix("<|im_end|>").map_or((response, 0), |text| (text, 1));
        let tokens = tokenizer.encode(text).len() as u64 + marks;
        if text.is_empty() || text.contains("<|") || tokens != sample["tokens"] {
            continue; // no text leads to these tokens
        }
        let prompt = &prompts[sample["prompt_row"].as_u64().unwrap() as usize];
        rows.push(json!({ "prompt": prompt, "chosen": text, "rejected": "Something else." }));
        expected.push(sample["score"].as_f64().unwrap());
    }
    assert!(rows.len() >= 10, "only {} of 16 responses lead back to their tokens", rows.len());
    let found: Vec<f64> = pair_scores(&folder, &rows, &[]).into_iter().map(|(chosen, _)| chosen).collect();
    assert_all_close(&found, &expected, 1e-5, "score");
}

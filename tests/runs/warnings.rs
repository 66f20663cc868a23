//! Settings that do not fit together are reported before the first step, by every command about the run.

use super::*;

/// The warnings of a normal run, of its dry run, of doctor and of plan must be the same, and stand in
/// run.json; returned once.
#[track_caller]
fn warnings_of_every_command(folder: &Folder, stage: &str, config: &str, sets: &[&str]) -> Vec<String> {
    let run = set(&[stage, "--config", config], sets);
    let dry = folder.succeed(&with(&run, &["--dry-run"]));
    let reported = warnings(&dry.stderr);
    // After the table, separate from it, and last.
    if !reported.is_empty() {
        let after = dry.stderr.split("\n\nwarning: ").nth(1).unwrap_or_else(|| panic!("not set apart: {dry}"));
        assert_eq!(after.lines().count(), reported.len() + 1, "only the last line follows: {dry}");
        let table = dry.stderr.find(" steps  ").unwrap();
        assert!(dry.stderr.find("warning: ").unwrap() > table, "{dry}");
    }
    for command in ["doctor", "plan"] {
        let args = set(&[command, "--config", config], sets);
        let output = folder.succeed(&args);
        assert_eq!(warnings(&output.stdout), reported, "{output}");
        assert!(output.stdout.contains("starts from: "), "{output}");
        let json = folder.succeed(&with(&args, &["--json"])).json();
        assert_eq!(json["warnings"], json!(reported));
        assert!(json["starts_from"].is_string());
    }
    let output = folder.succeed(&run);
    assert_eq!(warnings(&output.stderr), reported, "{output}");
    assert_eq!(run_json(folder, &format!("runs/{stage}"))["warnings"], json!(reported));
    reported
}

#[test]
fn a_warm_up_longer_than_the_run() {
    let folder = Folder::new();
    folder.write_rows("few.jsonl", &folder.rows("data/sft.jsonl")[..20]);
    // No key but paths and the epochs: the report's warm-up of 1430 steps for 2.
    let text = "[model]\npath = 'base'\n[data]\ntrain = 'few.jsonl'\n[train]\nepochs = 2\n[run]\nout = 'runs/sft'\n";
    folder.write("few.toml", text);
    let reported = warnings_of_every_command(&folder, "sft", "few.toml", &[]);
    assert_eq!(
        reported,
        [
            "schedule.warmup_steps = 1430: the run has 2 steps, so the learning rate ends at 2/1430 of optimizer.lr (0.14 %); set \
             schedule.warmup_steps = 0, or give the run more steps"
        ]
    );
    assert_eq!(folder.metric("runs/sft", "train/lr"), [2e-6 / 1430.0, 2.0 * 2e-6 / 1430.0]);
    let page = folder.read(folder.succeed(&["report", "runs/sft"]).stdout.trim());
    assert!(page.contains("Reported before the first step: schedule.warmup_steps = 1430"), "{page}");
    let shown = folder.succeed(&["inspect", "run", "runs/sft"]).stdout;
    assert!(shown.contains("schedule.warmup_steps = 1430"), "{shown}");
}

#[test]
fn the_small_configs_fit_together() {
    let folder = Folder::new();
    for stage in ["pretrain", "sft", "rm", "ppo"] {
        assert_eq!(
            warnings_of_every_command(&folder, stage, &format!("{stage}.toml"), &[]),
            Vec::<String>::new(),
            "{stage}"
        );
    }
}

#[test]
fn the_reports_configs_and_the_quickstarts_fit_together() {
    let folder = Folder::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let many: Vec<Value> = (0..600).map(|index| dialogue(&format!("What is {index}?"), "It is so.")).collect();
    folder.write_rows("many.jsonl", &many);
    let paths = ["model.path='base'", "data.train='many.jsonl'", "data.eval=[]", "run.out='runs/report'"];
    for name in ["sft", "code-qwen-chat-7b", "code-qwen-chat-14b", "math-qwen-chat"] {
        let config = root.join(format!("configs/report/{name}.toml"));
        let run = set(&["sft", "--config", config.to_str().unwrap()], &paths);
        let output = folder.succeed(&with(&run, &["--dry-run"]));
        assert_eq!(warnings(&output.stderr), Vec::<String>::new(), "{output}");
    }
}

#[test]
fn a_policy_that_is_never_trained() {
    let folder = Folder::new();
    let reported = warnings_of_every_command(&folder, "ppo", "ppo.toml", &["ppo.steps=3"]);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(reported[0].starts_with("ppo.value_warmup_steps = 4: the run has 3 steps"), "{reported:?}");
    let weights = |model: &str| folder.files(model)["model.safetensors"].clone();
    assert!(weights("runs/ppo/model") == weights("policy"), "what the warning says is so");
}

#[test]
fn prompts_that_a_step_takes_more_than_once_and_keys_that_do_nothing() {
    let folder = Folder::new();
    folder.write_rows("few.jsonl", &folder.rows("data/ppo.jsonl")[..3]);
    let sets = ["data.prompts='few.jsonl'", "ptx.coef=0.0", "ppo.steps=5", "reward.kl_target=3.0"];
    let reported = warnings_of_every_command(&folder, "ppo", "ppo.toml", &sets);
    let expected = [
        "ptx.tokens_per_ppo_token = 2: does nothing while ptx.coef = 0",
        "data.pretrain: does nothing while ptx.coef = 0: it is not read",
        "reward.kl_target = 3: does nothing while reward.kl_controller = \"fixed\"",
        "rollout.prompts_per_step = 4: there are 3 prompts, so that a step takes each 1.3 times; set rollout.prompts_per_step = 3",
    ];
    assert_eq!(reported, expected);
}

#[test]
fn most_rows_dropped_and_held_out_rows_that_are_trained_on() {
    let folder = Folder::new();
    let sets = ["data.max_tokens=64", "data.eval='data/sft.jsonl'", "optimizer.lr=0.0", "schedule.min_lr_ratio=0.5"];
    let reported = warnings_of_every_command(&folder, "sft", "sft.toml", &sets);
    assert_eq!(reported.len(), 4, "{reported:?}");
    assert_eq!(reported[0], "optimizer.lr = 0: nothing is learned");
    assert!(
        reported[1].starts_with("schedule.min_lr_ratio = 0.5: does nothing with schedule.kind = \"constant\""),
        "{reported:?}"
    );
    let facts = run_json(&folder, "runs/sft");
    let (rows, dropped) = (facts["rows"].as_u64().unwrap(), facts["rows_dropped_for_length"].as_u64().unwrap());
    assert_eq!(rows + dropped, 256);
    assert!(reported[2].starts_with(&format!("data.max_tokens = 64: {dropped} of 256 rows (")), "{reported:?}");
    assert!(
        reported[3].starts_with(&format!("data.eval: {rows} of {rows} rows of sft (100 %) are trained on, too")),
        "{reported:?}"
    );

    let all = ["data.max_tokens=8"];
    folder.refuse(&set(&SFT, &all), &[&["data/sft.jsonl: ", "no row is left"], &["data/heldout-sft.jsonl: "]]);
}

/// A schedule that falls to the end of the run falls again when the run gets another end.
#[test]
fn a_resume_that_moves_the_end_of_a_falling_schedule() {
    let folder = Folder::new();
    let run = |steps: &str, kind: &str, out: &str| {
        let (steps, kind) = (format!("train.steps={steps}"), format!("schedule.kind='{kind}'"));
        let output = folder.succeed(&with(&set(&SFT, &[&steps, &kind]), &["--out", out, "--resume"]));
        warnings(&output.stderr)
    };
    assert_eq!(run("6", "cosine", "runs/a"), Vec::<String>::new());
    let reported = run("12", "cosine", "runs/a");
    assert!(
        reported.len() == 1 && reported[0].contains("was to end at step 6 and now ends at step 12"),
        "{reported:?}"
    );
    let rates = folder.metric("runs/a", "train/lr");
    assert!(rates[6] > rates[5], "the rate jumps up: {rates:?}");
    assert_eq!(run("6", "constant", "runs/b"), Vec::<String>::new());
    assert_eq!(run("12", "constant", "runs/b"), Vec::<String>::new());
}

/// 0.4 of 5 steps are 2 steps of warm-up, of 10 steps 4.
#[test]
fn a_resume_that_moves_a_warm_up_by_ratio() {
    let folder = Folder::new();
    let run = |steps: &str, ratio: &str, out: &str| {
        let (steps, ratio) = (format!("train.steps={steps}"), format!("schedule.warmup_ratio={ratio}"));
        let output = folder.succeed(&with(&set(&SFT, &[&steps, &ratio]), &["--out", out, "--resume"]));
        warnings(&output.stderr)
    };
    assert_eq!(run("5", "0.4", "runs/a"), Vec::<String>::new());
    assert_eq!(run_json(&folder, "runs/a")["warmup_steps"], 2);
    let reported = run("10", "0.4", "runs/a");
    assert_eq!(
        reported,
        [
            "schedule.warmup_ratio = 0.4: the warm-up was 2 of 5 steps and is now 4 of 10; a run of 10 steps from the start would have had \
          other rates so far"
        ]
    );
    assert_eq!(run_json(&folder, "runs/a")["warmup_steps"], 4);
    assert_eq!(run("5", "0.03", "runs/b"), Vec::<String>::new());
    assert_eq!(run("10", "0.03", "runs/b"), Vec::<String>::new());
}

/// `base` has 256 positions, a copy of it 40. Longer rows are reported once, and still trained on.
#[test]
fn rows_beyond_the_positions_of_the_model() {
    let folder = Folder::new();
    folder.copy("base", "short");
    let mut config: Value = serde_json::from_str(&folder.read("short/config.json")).unwrap();
    config["max_position_embeddings"] = json!(40);
    folder.write("short/config.json", config.to_string());
    let short = "model.path='short'";
    let reported = warnings_of_every_command(&folder, "sft", "sft.toml", &[short]);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(reported[0].starts_with("data.max_tokens: ") && reported[0].contains("40 positions"), "{reported:?}");
    let reported = warnings_of_every_command(&folder, "pretrain", "pretrain.toml", &[short]);
    assert!(reported.len() == 1 && reported[0].contains("model's 40 positions"), "{reported:?}");
    let reported = warnings_of_every_command(&folder, "rm", "rm.toml", &[short]);
    assert!(
        reported.len() == 1 && reported[0].contains("comparisons have a dialogue longer than the model's 40 positions"),
        "{reported:?}"
    );

    let output = folder.succeed(&["eval", "lm", "--model", "short", "--data", "data/heldout-sft.jsonl"]);
    assert_eq!(warnings(&output.stderr).len(), 1, "{output}");
    // YaRN extends them: 40 positions twice over are enough for none, sixteen times for all.
    for (factor, expected) in [(2.0, 1), (16.0, 0)] {
        config["rope_scaling"] =
            json!({ "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 40 });
        folder.write("short/config.json", config.to_string());
        let output = folder.succeed(&with(&set(&SFT, &[short, "run.out='runs/yarn'"]), &["--dry-run"]));
        assert_eq!(warnings(&output.stderr).len(), expected, "{output}");
    }
}

#[test]
fn rows_that_lose_their_ends_and_responses_that_are_all_the_same() {
    let folder = Folder::new();
    let reported =
        warnings_of_every_command(&folder, "sft", "sft.toml", &["data.max_tokens=64", "data.overlong='truncate'"]);
    let facts = run_json(&folder, "runs/sft");
    let (rows, cut) = (facts["rows"].as_u64().unwrap(), facts["rows_truncated"].as_u64().unwrap());
    assert!(cut > rows / 10);
    let expected = format!("data.max_tokens = 64: {cut} of {rows} rows (");
    assert!(
        reported.iter().any(|line| line.starts_with(&expected) && line.contains("longer and truncated")),
        "{reported:?}"
    );

    let args = [
        "generate",
        "--model",
        "policy",
        "--prompts",
        "data/heldout-prompts.jsonl",
        "--out",
        "g.jsonl",
        "--max-tokens",
        "4",
    ];
    let output = folder.succeed(&with(&args, &["--n", "3", "--temperature", "0"]));
    assert_eq!(warnings(&output.stderr), ["--n = 3: at --temperature 0 all 3 responses to a prompt are the same"]);
    let rows = folder.rows("g.jsonl");
    assert!(
        rows.chunks(3).all(|same| same[0]["tokens"] == same[1]["tokens"] && same[1]["tokens"] == same[2]["tokens"])
    );
    assert_eq!(warnings(&folder.succeed(&with(&args, &["--n", "3"])).stderr), Vec::<String>::new());
}

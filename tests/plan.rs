//! `align plan` against what the runs it plans then hold. What the plan has measured, the allocator's gaps,
//! was measured at other sizes.

use std::fs;

use serde_json::Value;

use crate::util::Folder;

/// A model whose steps are larger than the program around them: `base` with these widths, and no weights.
fn grow(folder: &Folder, name: &str, widths: &[(&str, u64)]) {
    fs::create_dir(folder.join(name)).unwrap();
    for entry in fs::read_dir(folder.join("base")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "model.safetensors" {
            fs::copy(entry.path(), folder.join(name).join(entry.file_name())).unwrap();
        }
    }
    let mut config: Value = serde_json::from_str(&folder.read(&format!("{name}/config.json"))).unwrap();
    for (key, width) in widths {
        config[*key] = (*width).into();
    }
    folder.write(&format!("{name}/config.json"), config.to_string());
}

/// Plans and runs a stage, and compares the plan with the most memory that the run has held.
fn within_15_percent(folder: &Folder, stage: &str, sets: &[&str]) {
    let config = format!("{stage}.toml");
    let out = format!("run.out='runs/planned-{stage}'");
    let few = ["run.eval_every=1000", "run.save_every=1000", &out];
    let sets: Vec<&str> = sets.iter().copied().chain(few).flat_map(|set| ["--set", set]).collect();
    let plan = folder.succeed(&[&["plan", "--config", &config, "--json"], &sets[..]].concat()).json();
    folder.succeed(&[&[stage, "--config", &config], &sets[..]].concat());
    let held = folder.metric(&format!("runs/planned-{stage}"), "memory/peak_gib");
    let held = held.into_iter().fold(0.0, f64::max) * f64::from(1 << 30);
    let planned = plan["peak_bytes"].as_f64().unwrap();
    eprintln!("{stage}: planned {:.0} MiB, held {:.0} MiB", planned / f64::from(1 << 20), held / f64::from(1 << 20));
    assert!((planned / held - 1.0).abs() < 0.15, "{stage} {sets:?}: planned {planned}, held {held}: {plan}");
    // The model's own part is more than what any process takes.
    let beside = plan["phases"][0]["parts"]["program and data"].as_f64().unwrap();
    assert!(beside < 0.5 * planned, "{plan}");
}

#[test]
fn memory_is_planned_within_15_percent_for_every_stage() {
    let folder = Folder::new();
    let widths = [("hidden_size", 192), ("intermediate_size", 640), ("num_hidden_layers", 5)];
    grow(&folder, "wide", &widths);
    let large = ["train.batch_size=96", "train.microbatch_tokens=9000", "train.steps=3", "data.eval=[]"];
    let first = ["model.path='wide'", "data.max_tokens=256"];
    within_15_percent(&folder, "pretrain", &[&large[..], &first].concat());
    fs::rename(folder.join("runs/planned-pretrain/model"), folder.join("wide-base")).unwrap();
    let base = "model.path='wide-base'";
    within_15_percent(&folder, "sft", &[&large[..], &[base, "train.dropout=0.0", "train.steps=2"]].concat());
    fs::remove_dir_all(folder.join("runs/planned-sft")).unwrap();
    within_15_percent(&folder, "sft", &[&large[..], &[base, "model.dtype='bfloat16'", "train.steps=2"]].concat());
    within_15_percent(&folder, "rm", &[&large[..], &[base, "train.batch_size=112"]].concat());
    let ppo = [
        "models.policy='runs/planned-sft/model'",
        "models.reward='runs/planned-rm/model'",
        "data.eval_prompts=[]",
        // Nearly every response is cut off, so that a step is as long as it may be; both models' activations
        // wait for its update.
        "rollout.prompts_per_step=80",
        "rollout.max_response_tokens=12",
        "ppo.microbatch_tokens=8000",
        "ppo.value_warmup_steps=0",
        "ppo.steps=2",
    ];
    within_15_percent(&folder, "ppo", &ppo);
}

#[test]
fn the_largest_microbatch_is_the_largest_that_fits() {
    let folder = Folder::new();
    let plan = |memory: &str, tokens: u64| {
        let set = format!("train.microbatch_tokens={tokens}");
        let args = ["plan", "--config", "sft.toml", "--json", "--memory", memory, "--set", "train.batch_size=256"];
        folder.succeed(&[&args[..], &["--set", &set]].concat()).json()
    };
    let whole = plan("64", 128);
    assert!(whole["largest_microbatch_tokens"].as_u64().unwrap() >= 4096, "{whole}");
    let beside = whole["phases"][0]["parts"]["program and data"].as_f64().unwrap() / f64::from(1 << 30);
    let memory = format!("{:.4}", beside + 0.1);
    let tight = plan(&memory, 128);
    let largest = tight["largest_microbatch_tokens"].as_u64().unwrap();
    assert!(largest < whole["largest_microbatch_tokens"].as_u64().unwrap());
    // 16 MiB of room for what the two plans' own processes differ in.
    let (limit, room) = (tight["memory_bytes"].as_f64().unwrap(), f64::from(16 << 20));
    let peak = |tokens| plan(&memory, tokens)["peak_bytes"].as_f64().unwrap();
    assert!(peak(largest) <= limit + room && peak(2 * largest) > limit - room, "{tight}");
    assert!(plan("0.01", 128)["largest_microbatch_tokens"].is_null());
}

#[test]
fn a_plan_is_a_table_and_refuses_like_a_run() {
    let folder = Folder::new();
    let output = folder.succeed(&["plan", "--config", "ppo.toml"]);
    for part in ["rollout", "score", "update", "save", "weights", "moments", "cache", "together", "seconds per step"] {
        assert!(output.stdout.contains(part), "{part}: {output}");
    }
    folder.refuse(&["plan", "--config", "sft.toml", "--set", "data.train='missing.jsonl'"], &[&["missing.jsonl"]]);
    folder.refuse(&["plan", "--config", "nothing.toml"], &[&["nothing.toml", "cannot be read"]]);
    assert!(!folder.join("plan").exists());
}

//! A run that is killed at any moment and resumed ends like an uninterrupted one: the same weights and
//! numbers, byte for byte.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::util::{Folder, world};

/// What may differ between two runs of the same config: time and memory.
fn is_wall_clock(name: &str) -> bool {
    name == "seconds" || name.ends_with("_per_second") || name.starts_with("time/") || name.starts_with("memory/")
}

/// The lines of metrics.jsonl without what may differ.
pub(crate) fn deterministic_metrics(folder: &Folder, run: &str) -> Vec<Value> {
    let mut rows = folder.rows(&format!("{run}/metrics.jsonl"));
    for row in &mut rows {
        row.as_object_mut().unwrap().retain(|name, _| !is_wall_clock(name));
    }
    rows
}

/// Asserts that two runs left the same result, the same last checkpoint and the same records.
#[track_caller]
fn assert_same_run(folder: &Folder, whole: &str, resumed: &str, steps: u64) {
    let (expected, found) = (deterministic_metrics(folder, whole), deterministic_metrics(folder, resumed));
    assert_eq!(expected.len() as u64, steps);
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found, "metrics of step {}", expected["step"]);
    }
    assert_eq!(expected.len(), found.len());
    assert_eq!(folder.read(&format!("{whole}/samples.jsonl")), folder.read(&format!("{resumed}/samples.jsonl")));
    for below in ["model".to_owned(), "value".to_owned(), format!("checkpoints/step-{steps:06}")] {
        if !folder.join(whole).join(&below).exists() {
            assert_eq!(below, "value", "{whole} has no {below}");
            continue;
        }
        let (expected, found) =
            (folder.files(&format!("{whole}/{below}")), folder.files(&format!("{resumed}/{below}")));
        let names: Vec<&String> = expected.keys().collect();
        assert_eq!(names, found.keys().collect::<Vec<_>>(), "the files of {below}");
        assert!(names.iter().any(|name| name.ends_with("model.safetensors")), "{names:?}");
        for (name, bytes) in &expected {
            // The run's own part of a checkpoint holds its seconds, and the manifest that file's checksum.
            if name != "run.json" && name != "manifest.json" {
                assert!(*bytes == found[name], "{below}/{name} differs");
            }
        }
    }
    let left: Vec<String> = folder.files(resumed).into_keys().filter(|name| name.contains(".tmp-")).collect();
    assert_eq!(left, Vec::<String>::new(), "half-written files stay");
}

/// Asserts that two runs kept the same checkpoints and call the same one the best.
#[track_caller]
fn assert_same_checkpoints(folder: &Folder, whole: &str, resumed: &str) {
    let of = |run: &str| {
        let mut files = folder.files(&format!("{run}/checkpoints"));
        // They hold the run's seconds.
        files.retain(|name, _| !name.ends_with("/run.json") && !name.ends_with("/manifest.json"));
        let facts: Value = serde_json::from_str(&folder.read(&format!("{run}/run.json"))).unwrap();
        (facts["best"].clone(), files)
    };
    let ((best, expected), (found_best, found)) = (of(whole), of(resumed));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    assert_eq!(best, found_best);
    expected.iter().for_each(|(name, bytes)| assert!(*bytes == found[name], "checkpoints/{name} differs"));
}

/// Pseudo-random numbers, for moments to kill at.
struct Moments(u64);

impl Moments {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Runs a stage in one piece (`runs/whole`) and again (`runs/killed`) with SIGKILL in the middle of some
/// step, at a random moment soon after some more, and while starting; `--resume` each time. The results must
/// be equal.
fn survives_kills(folder: &Folder, stage: &str, sets: &[&str], steps: u64) {
    let config = format!("{stage}.toml");
    let mut args = vec![stage, "--config", &config];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    folder.succeed(&[&args[..], &["--out", "runs/whole"]].concat());

    args.extend(["--out", "runs/killed"]);
    let metrics = folder.join("runs/killed/metrics.jsonl");
    let mut run = folder.spawn(&args);
    run.wait_for_lines(&metrics, steps as usize / 2 + 1);
    assert!(run.kill(), "the run ended before it was killed");

    args.push("--resume");
    let mut moments = Moments(steps * 1000 + stage.len() as u64);
    let mut tried = Vec::new();
    for lines in [steps / 2 + 2, steps - 3, steps - 1] {
        let milliseconds = moments.below(60);
        let mut run = folder.spawn(&args);
        run.wait_for_lines(&metrics, lines as usize);
        run.run_for(Duration::from_millis(milliseconds));
        tried.push(format!("{milliseconds} ms after line {lines}: killed {}", run.kill()));
    }
    let milliseconds = moments.below(400);
    let mut run = folder.spawn(&args);
    run.run_for(Duration::from_millis(milliseconds));
    tried.push(format!("{milliseconds} ms after the start: killed {}", run.kill()));

    folder.succeed(&args);
    eprintln!("{stage}: {tried:?}"); // shown when the comparison fails
    assert_same_run(folder, "runs/whole", "runs/killed", steps);
    assert_same_checkpoints(folder, "runs/whole", "runs/killed");
}

#[test]
fn pretrain_survives_kills() {
    survives_kills(&Folder::new(), "pretrain", &[], 12);
}

#[test]
fn sft_with_dropout_survives_kills() {
    let folder = Folder::new();
    survives_kills(&folder, "sft", &["train.dropout=0.1"], 12);
    let losses = |run: &str| folder.metric(run, "train/loss");
    folder.succeed(&["sft", "--config", "sft.toml", "--set", "train.dropout=0.0", "--out", "runs/without"]);
    assert_ne!(losses("runs/whole"), losses("runs/without"), "dropout did nothing");
}

/// 0.7 of 12 steps are 8.4: 9 steps of warm-up, in which the run is killed. Thirds of 180° by hand.
#[test]
fn a_run_survives_kills_in_a_warm_up_by_ratio() {
    let folder = Folder::new();
    survives_kills(&folder, "sft", &["schedule.warmup_ratio=0.7", "schedule.warmup_kind='cosine'"], 12);
    let rates = folder.metric("runs/killed", "train/lr");
    for (step, expected) in [(3, 0.25e-3), (6, 0.75e-3), (9, 1e-3), (12, 1e-3)] {
        assert!((rates[step - 1] - expected).abs() < 1e-15, "{rates:?}");
    }
    let record: Value = serde_json::from_str(&folder.read("runs/killed/run.json")).unwrap();
    assert_eq!(record["warmup_steps"], 9, "{record}");
}

/// A run from before `schedule.warmup_kind` continues with the linear warm-up that it had.
#[test]
fn a_run_that_is_older_than_a_key_is_resumed() {
    let folder = Folder::new();
    let run = |steps: &str, out: &str| {
        let steps = format!("train.steps={steps}");
        folder.succeed(&["sft", "--config", "sft.toml", "--set", &steps, "--out", out, "--resume"])
    };
    run("4", "runs/whole");
    run("2", "runs/older");
    let config = folder.read("runs/older/config.toml");
    assert!(config.contains("\nwarmup_kind = \"linear\"\n"), "{config}");
    folder.write("runs/older/config.toml", config.replace("\nwarmup_kind = \"linear\"\n", "\n"));
    run("4", "runs/older");
    assert_same_run(&folder, "runs/whole", "runs/older", 4);
}

#[test]
fn rm_survives_kills() {
    survives_kills(&Folder::new(), "rm", &["loss.lm_coef=0.1"], 12);
}

#[test]
fn ppo_survives_kills_in_and_after_the_value_warmup() {
    let folder = Folder::new();
    let sets = ["reward.kl_controller='adaptive'", "ppo.minibatch_size=4", "reward.second='reward'"];
    survives_kills(&folder, "ppo", &sets, 8);
    assert_eq!(folder.metric("runs/whole", "phase"), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
    assert!(folder.metric("runs/whole", "ptx/loss")[7].is_finite());
}

/// Checkpoints of bf16 sources hold bf16 weights; the fp32 masters beside them must come back.
#[test]
fn runs_on_bf16_checkpoints_survive_kills() {
    let folder = Folder::new();
    let config = folder.copy(world().join("config").to_str().unwrap(), "config16").join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"float32\"", "\"bfloat16\"")).unwrap();
    let start = ["--set", "model.path='config16'", "--set", "train.steps=8", "--out", "runs/base16"];
    folder.succeed(&[&["pretrain", "--config", "pretrain.toml"], &start[..]].concat());
    let header = String::from_utf8_lossy(&folder.files("runs/base16/model")["model.safetensors"]).into_owned();
    assert!(header.contains("\"BF16\"") && !header.contains("\"F32\""), "the checkpoint is not in bf16");

    let base = "model.path='runs/base16/model'";
    survives_kills(&folder, "sft", &[base, "optimizer.lr=1e-5"], 12);
    std::fs::rename(folder.join("runs/whole"), folder.join("runs/sft16")).unwrap();
    std::fs::remove_dir_all(folder.join("runs/killed")).unwrap();
    folder.succeed(&["rm", "--config", "rm.toml", "--set", base, "--set", "train.steps=2", "--out", "runs/rm16"]);
    let models = ["models.policy='runs/sft16/model'", "models.reward='runs/rm16/model'"];
    survives_kills(&folder, "ppo", &[&models[..], &["ppo.policy_lr=1e-6", "ppo.value_lr=1e-6"]].concat(), 8);
}

/// A run that saves after every step is writing nearly all the time: most of the kills hit a checkpoint that
/// is being written.
#[test]
fn twenty_kills_while_checkpoints_are_being_written() {
    const KILLS: u64 = 20;
    let folder = Folder::new();
    let steps = 3 * KILLS + 6;
    let sets = [&format!("train.steps={steps}"), "run.save_every=1", "run.keep=2"];
    let mut args = vec!["sft", "--config", "sft.toml"];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    let started = Instant::now();
    folder.succeed(&[&args[..], &["--out", "runs/whole"]].concat());
    let step = started.elapsed().as_micros() as u64 / steps;

    args.extend(["--out", "runs/killed", "--resume"]);
    let metrics = folder.join("runs/killed/metrics.jsonl");
    let (mut moments, mut amid) = (Moments(KILLS), 0);
    for kill in 1..=KILLS {
        let mut run = folder.spawn(&args);
        run.wait_for_lines(&metrics, 3 * kill as usize);
        run.run_for(Duration::from_micros(moments.below(2 * step)));
        assert!(run.kill(), "the run ended before kill {kill}");
        let left = folder.files("runs/killed/checkpoints").into_keys();
        amid += usize::from(left.into_iter().any(|name| name.starts_with(".tmp-step-")));
    }
    folder.succeed(&args);
    eprintln!("{amid} of {KILLS} kills hit a checkpoint that was being written");
    assert!(amid > 0);
    assert_same_run(&folder, "runs/whole", "runs/killed", steps);
    assert_same_checkpoints(&folder, "runs/whole", "runs/killed");
}

#[test]
fn a_disk_that_is_full_ends_the_run_with_a_line_and_harms_nothing() {
    let folder = Folder::new();
    let args = |steps: &'static str, out: &'static str| {
        ["sft", "--config", "sft.toml", "--set", steps, "--out", out, "--resume"]
    };
    folder.succeed(&args("train.steps=12", "runs/whole"));
    folder.succeed(&args("train.steps=3", "runs/full"));
    let before = folder.files("runs/full/checkpoints");
    let weights = before["step-000003/model/model.safetensors"].len() as u64;
    // The state is three times as large as the weights.
    let output = folder.align_with_small_files(3 * weights / 2, &args("train.steps=12", "runs/full"));
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    let said = output.stderr.lines().last().unwrap();
    assert!(said.starts_with("align: the checkpoint of step 6 is not saved: "), "{output}");
    assert!(said.contains("File too large") && said.contains("--resume"), "{output}");
    assert_eq!(output.stderr.matches("align: ").count(), 1, "{output}");
    assert!(before == folder.files("runs/full/checkpoints"), "{output}");
    folder.succeed(&args("train.steps=12", "runs/full"));
    assert_same_run(&folder, "runs/whole", "runs/full", 12);
}

#[test]
fn signals_end_a_run_after_a_checkpoint_and_it_resumes() {
    let folder = Folder::new();
    let args = ["sft", "--config", "sft.toml", "--set", "train.steps=40", "--set", "run.save_every=100"];
    folder.succeed(&[&args[..], &["--out", "runs/whole"]].concat());

    let args = [&args[..], &["--out", "runs/stopped", "--resume"]].concat();
    let metrics = folder.join("runs/stopped/metrics.jsonl");
    let mut done = 0;
    for (signal, expected) in [("INT", 130), ("TERM", 143)] {
        let mut run = folder.spawn(&args);
        run.wait_for_lines(&metrics, done + 3);
        run.signal(signal);
        let (code, stderr) = run.wait();
        assert_eq!(code, Some(expected), "{stderr}");
        done = folder.rows("runs/stopped/metrics.jsonl").len();
        assert!(stderr.trim_end().ends_with("a checkpoint is written, continue with --resume"), "{stderr}");
        assert!(folder.join(format!("runs/stopped/checkpoints/step-{done:06}/manifest.json")).exists(), "step {done}");
        assert!(!folder.join("runs/stopped/model").exists());
    }
    folder.succeed(&args);
    assert_same_run(&folder, "runs/whole", "runs/stopped", 40);
    let run: Value = serde_json::from_str(&folder.read("runs/stopped/run.json")).unwrap();
    assert_eq!(run["resumed"].as_array().unwrap().len(), 2, "{run}");
}

#[test]
fn a_finished_run_with_more_steps_equals_one_that_had_them_from_the_start() {
    let folder = Folder::new();
    let run = |steps: &str, out: &str| {
        let steps = format!("train.steps={steps}");
        folder.succeed(&["sft", "--config", "sft.toml", "--set", &steps, "--out", out, "--resume"])
    };
    run("12", "runs/whole");
    run("5", "runs/extended");
    let output = run("5", "runs/extended");
    assert!(output.stderr.contains("runs/extended is finished: 5 steps are done"), "{output}");
    assert_eq!(output.stdout, "runs/extended/model\n");
    run("12", "runs/extended");
    assert_same_run(&folder, "runs/whole", "runs/extended", 12);
}

/// Settings of [run] and evaluation may change across a resume; they change no number of the training.
#[test]
fn other_run_and_eval_settings_may_change_across_a_resume() {
    let folder = Folder::new();
    let args = ["sft", "--config", "sft.toml", "--set", "train.steps=8"];
    folder.succeed(&[&args[..], &["--out", "runs/whole"]].concat());
    folder.succeed(&[&args[..], &["--set", "train.steps=5", "--out", "runs/changed"]].concat());
    let changed = ["--set", "run.save_every=2", "--set", "run.keep=1", "--set", "data.eval=[]"];
    folder.succeed(&[&args[..], &changed, &["--out", "runs/changed", "--resume"]].concat());
    assert_eq!(folder.metric("runs/whole", "train/loss"), folder.metric("runs/changed", "train/loss"));
    assert!(folder.files("runs/whole/model") == folder.files("runs/changed/model"));
    assert_eq!(std::fs::read_dir(folder.join("runs/changed/checkpoints")).unwrap().count(), 1, "run.keep");
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_way_out() {
    let folder = Folder::new();
    // Nothing is learned, so that the first evaluation stays the best.
    let sets = ["--set", "optimizer.lr=0.0", "--set", "run.eval_every=3", "--set", "run.keep=1"];
    let args = [&["sft", "--config", "sft.toml", "--set", "train.steps=6"], &sets[..]].concat();
    let output = folder.succeed(&args);
    let best = "is that of step 3: runs/sft/checkpoints/step-000003\n";
    assert!(output.stderr.contains(best), "{output}");
    let run: Value = serde_json::from_str(&folder.read("runs/sft/run.json")).unwrap();
    assert_eq!(run["best"]["step"], 3, "{run}");
    assert_eq!(run["best"]["loss"], folder.metric("runs/sft", "eval/heldout-sft/loss")[2], "{run}");
    let file = "runs/sft/checkpoints/step-000006/model/model.safetensors";
    let mut bytes = std::fs::read(folder.join(file)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    folder.write(file, bytes);
    std::fs::remove_dir_all(folder.join("runs/sft/model")).unwrap();
    let args = [&["sft", "--config", "sft.toml", "--set", "train.steps=9", "--resume"], &sets[..]].concat();
    let way_out = "remove runs/sft/checkpoints/step-000006 to resume from runs/sft/checkpoints/step-000003";
    folder.refuse(&args, &[&[file, "checksum", way_out]]);
    std::fs::remove_dir_all(folder.join("runs/sft/checkpoints/step-000006")).unwrap();
    folder.succeed(&args);
    assert_eq!(folder.metric("runs/sft", "step").len(), 9);
}

/// Backends round differently: a resume under another one would not end like an uninterrupted run.
#[test]
fn a_resume_under_another_backend_is_refused() {
    let folder = Folder::new();
    let run = |backend: &str, steps: &str| {
        let steps = format!("train.steps={steps}");
        let args = ["sft", "--config", "sft.toml", "--set", &steps, "--out", "runs/sft", "--resume"];
        folder.align_with_variable("ALIGN_BACKEND", backend, &args)
    };
    let output = run("reference", "2");
    assert_eq!(output.code, Some(0), "{output}");
    let record: Value = serde_json::from_str(&folder.read("runs/sft/run.json")).unwrap();
    assert_eq!(record["backend"], "reference");
    let output = run("cpu", "4");
    assert_eq!(output.code, Some(2), "{output}");
    let expected = "runs/sft/run.json: the run was computed by the backend reference, this one would be by cpu; \
                    expected ALIGN_BACKEND=reference";
    assert!(output.stderr.contains(expected), "{output}");
    let output = run("reference", "4");
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(folder.metric("runs/sft", "step").len(), 4);
}

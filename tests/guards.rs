//! PPO runs that go wrong, and the doctor's check before a run.

use serde_json::{Value, json};

use crate::util::Folder;

const PPO: [&str; 5] = ["ppo", "--config", "ppo.toml", "--set", "run.save_every=1"];
/// The entropy is always below a thousand times the first.
const ALWAYS: [&str; 2] = ["--set", "guards.entropy_min=1000.0"];

/// Nothing is measured on held-out prompts, of which tiny models make something that is worth a warning.
const UNSEEN: [&str; 2] = ["--set", "data.eval_prompts=[]"];

fn record(folder: &Folder, run: &str, step: u64) -> Value {
    serde_json::from_str(&folder.read(&format!("{run}/records/step-{step:06}.json"))).unwrap()
}

#[test]
fn a_warning_is_reported_and_recorded_and_changes_nothing() {
    let folder = Folder::new();
    folder.succeed(&[&PPO[..], &UNSEEN, &["--out", "runs/quiet"]].concat());
    let output = folder.succeed(&[&PPO[..], &UNSEEN, &ALWAYS, &["--out", "runs/warned"]].concat());
    assert!(output.stderr.contains("warning: step 1: policy/entropy is"), "{output}");
    assert!(folder.files("runs/quiet/model") == folder.files("runs/warned/model"));
    assert!(!folder.join("runs/quiet/records").exists());

    let rows = folder.rows("runs/warned/metrics.jsonl");
    let found = record(&folder, "runs/warned", 1);
    assert!(found["alarms"][0].as_str().unwrap().contains("guards.entropy_min = 1000"), "{found}");
    let (worked_on, first) = (&found["worked_on"], &rows[0]);
    let scores: Vec<f64> = worked_on["scores"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    assert!((mean - first["score/mean"].as_f64().unwrap()).abs() < 1e-6, "{mean} {first}");
    let responses = worked_on["responses"].as_array().unwrap();
    for key in ["old_logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"] {
        let lengths = |rows: &[Value]| rows.iter().map(|row| row.as_array().unwrap().len()).collect::<Vec<_>>();
        assert_eq!(lengths(worked_on[key].as_array().unwrap()), lengths(responses), "{key}");
    }
    let trained: usize =
        worked_on["minibatches"].as_array().unwrap().iter().map(|batch| batch["rows"].as_array().unwrap().len()).sum();
    assert_eq!(trained % responses.len(), 0);
    assert_eq!(found["replay_from"], Value::Null, "no checkpoint before the first step");

    // It lasts: neither reported nor recorded again.
    assert_eq!(warnings(&output.stderr).len(), 1, "{output}");
    let long = ["--set", "ppo.steps=20", "--out", "runs/warned", "--resume"];
    let output = folder.succeed(&[&PPO[..], &UNSEEN, &ALWAYS, &long].concat());
    assert_eq!(warnings(&output.stderr), [""; 0], "{output}");
    assert_eq!(std::fs::read_dir(folder.join("runs/warned/records")).unwrap().count(), 1);

    folder.succeed(&["report", "runs/warned"]);
    let page = folder.read("runs/warned/report.html");
    assert!(page.contains("guards: step 1: policy&#x2f;entropy is"), "{page}");
}

/// The lines on single steps.
fn warnings(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("warning: step ") || line.starts_with("step ")).collect()
}

#[test]
fn a_resumed_run_tells_what_one_that_was_never_stopped_does() {
    let folder = Folder::new();
    let sets = ["ppo.value_warmup_steps=2", "ppo.policy_lr=1e-2", "guards.kl_max=0.05", "run.eval_every=3"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let run = |steps: u64, out: &str| {
        let steps = format!("ppo.steps={steps}");
        folder.succeed(&[&PPO[..], &sets, &["--set", &steps, "--out", out, "--resume"]].concat()).stderr
    };
    let step = |line: &str| line.split([' ', ':', ',']).find_map(|word| word.parse::<u64>().ok()).unwrap();
    let whole = run(12, "runs/whole");
    let reported = warnings(&whole);
    // The policy moves in the third step, which is seen in the fourth.
    let first = reported.iter().find(|line| line.contains("kl/ref is")).unwrap_or_else(|| panic!("{whole}"));
    let before = json!(format!("runs/whole/checkpoints/step-{:06}", step(first) - 1));
    assert_eq!(record(&folder, "runs/whole", step(first))["replay_from"], before);

    for (from, to) in [(0, 1), (1, 4), (4, 5), (5, 8), (8, 12)] {
        let part = run(to, "runs/parts");
        // The end of a part is evaluated: its findings are reported there and nowhere else.
        let between = |lines: &[&str]| -> Vec<String> {
            lines.iter().filter(|line| (from + 1..to).contains(&step(line))).map(|line| (*line).to_owned()).collect()
        };
        assert_eq!(between(&warnings(&part)), between(&reported), "steps {from} to {to}: {part}\n{whole}");
    }
}

#[test]
fn a_lasting_alarm_stops_the_run_and_a_resume_comes_to_it_again() {
    let folder = Folder::new();
    let stop = ["--set", "guards.action='stop'", "--set", "guards.patience=2", "--set", "run.keep=9"];
    let args = [&PPO[..], &ALWAYS, &stop, &["--out", "runs/stopped", "--resume"]].concat();
    let output = folder.align(&args);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    let said = output.stderr.lines().last().unwrap();
    assert!(said.starts_with("align: step 2: policy/entropy is"), "{output}");
    assert!(said.contains("recorded in runs/stopped/records/step-000002.json"), "{output}");
    assert!(said.contains("there is no checkpoint from before"), "{output}");
    assert!(!folder.join("runs/stopped/model").exists());

    // From the checkpoint of the first step, the second one is the same to the bit.
    let before = record(&folder, "runs/stopped", 2);
    std::fs::remove_file(folder.join("runs/stopped/records/step-000002.json")).unwrap();
    assert_eq!(folder.align(&args).code, Some(1));
    assert_eq!(record(&folder, "runs/stopped", 2), before);
    // Guards may change across a resume.
    folder.succeed(&[&PPO[..], &["--out", "runs/stopped", "--resume"]].concat());
}

#[test]
fn a_rollback_makes_the_last_good_checkpoint_the_result() {
    let folder = Folder::new();
    let sets = [
        "ppo.value_warmup_steps=2",
        "ppo.steps=6",
        "ppo.policy_lr=1e-2",
        "guards.kl_max=1e-3",
        "guards.action='rollback'",
        "run.keep=9",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let output = folder.align(&[&PPO[..], &sets, &["--set", "guards.patience=2", "--out", "runs/back"]].concat());
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    // The policy moves in the third step, which is seen in the fourth; the fifth is the second in a row.
    let said = output.stderr.lines().last().unwrap();
    assert!(said.starts_with("align: step 5: kl/ref is") && said.ends_with("the result is that of step 3"), "{output}");
    for name in ["model", "value"] {
        assert!(
            folder.files(&format!("runs/back/{name}"))
                == folder.files(&format!("runs/back/checkpoints/step-000003/{name}"))
        );
    }
    assert_eq!(std::fs::read_dir(folder.join("runs/back/checkpoints")).unwrap().count(), 3);
}

#[test]
fn numbers_that_are_none_end_the_run_with_a_record() {
    let folder = Folder::new();
    let sets = ["ppo.value_warmup_steps=0", "ppo.steps=6", "ppo.policy_lr=1e30", "guards.action='rollback'"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let output = folder.align(&[&PPO[..], &sets, &["--out", "runs/broken"]].concat());
    assert_eq!(output.code, Some(1), "{output}");
    let said = output.stderr.lines().last().unwrap();
    assert!(said.contains("is not finite") && said.contains("recorded in runs/broken/records/"), "{output}");
}

#[test]
fn the_doctor_finds_nothing_wrong_with_sound_stages() {
    let folder = Folder::new();
    for (config, checks) in [("sft.toml", 5), ("rm.toml", 5), ("ppo.toml", 15)] {
        let output = folder.succeed(&["doctor", "--config", config, "--json"]);
        let found = output.json();
        assert_eq!(found["faults"], json!(0), "{output}");
        assert!(found["checks"].as_array().unwrap().len() >= checks, "{output}");
        assert!(folder.succeed(&["doctor", "--config", config]).stdout.contains("no fault"));
    }
    assert!(!folder.join("doctor").exists() && !folder.join("runs").exists(), "nothing is written");
    folder.refuse(
        &["doctor", "--config", "ppo.toml", "--set", "models.reward='policy'"],
        &[&["policy", "language model"]],
    );
}

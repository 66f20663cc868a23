//! The life of a run folder: started, refused, killed, resumed, extended, damaged.

mod checkpoints;
mod stage;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::folder::{self, CHECKPOINTS, CONFIG, METRICS, RECORDS, RUN, SAMPLES};
use super::{Outcome, Preflight, Run, Spec, Started, preflight};
use crate::checkpoint;
use stage::{Hook, Stage, dies_at, facts_of, refusal, rows, stop, straight};

#[test]
fn a_run_from_start_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a/b");
    let stage = Stage::new(&out, 10, false);
    assert_eq!(preflight(&out, false, &stage.config(), Some(10), &Map::new()).unwrap(), Preflight::Fresh);
    assert_eq!(stage.train().unwrap(), Outcome::Finished { step: 10 });

    let lines: Vec<Map<String, Value>> = fs::read_to_string(out.join(METRICS))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    let names: Vec<&str> = lines[3].keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "step",
            "seconds",
            "train/loss",
            "train/grad_norm",
            "eval/a/loss",
            "eval/b/loss",
            "eval/a/accuracy",
            "time/step",
            "memory/peak_gib"
        ]
    );
    assert_eq!(lines.iter().filter(|line| line.contains_key("eval/a/loss")).count(), 3); // 4, 8 and the last
    assert_eq!(fs::read_to_string(out.join(SAMPLES)).unwrap().lines().next().unwrap(), r#"{"step":4,"response":"ä"}"#);
    assert_eq!(fs::read_to_string(out.join(CONFIG)).unwrap(), stage.config());
    let facts = folder::read_facts(&out).unwrap();
    assert_eq!((&facts["seed"], &facts["finished_step"]), (&json!(1), &json!(10)));
    let steps: Vec<u64> = checkpoint::list(&out.join(CHECKPOINTS)).unwrap().iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [9, 10]);
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [".lock", "checkpoints", "config.toml", "metrics.jsonl", "model", "run.json", "samples.jsonl", "tensorboard"]
    );

    // A finished run is reported; without --resume it is an error.
    let before = fs::read(out.join(RUN)).unwrap();
    assert_eq!(Stage::new(&out, 10, true).train().unwrap(), Outcome::AlreadyFinished { step: 10 });
    assert_eq!(
        preflight(&out, true, &stage.config(), Some(10), &Map::new()).unwrap(),
        Preflight::Finished { step: 10 }
    );
    assert_eq!(fs::read(out.join(RUN)).unwrap(), before);
    assert!(refusal(stage.train()).contains("has a run already"));
    assert!(refusal(preflight(&out, false, &stage.config(), Some(10), &Map::new())).contains("has a run already"));
}

#[test]
fn folders_that_are_accepted_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    Stage::new(folder.path(), 1, false).train().unwrap(); // empty

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("notes.txt"), "mine").unwrap();
    Stage::new(other.path(), 1, true).train().unwrap(); // nothing to resume: step 0

    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for out in [file.clone(), file.join("below"), Path::new("/proc/align").to_owned()] {
        let message = refusal(Stage::new(&out, 1, false).train());
        assert!(message.starts_with(&out.display().to_string()), "{message}");
    }
    assert!(refusal(preflight(&file, false, "", None, &Map::new())).contains("is a file"));
}

#[test]
fn one_process_per_folder() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(folder.path(), 1, false);
    let held = stage.start(&stage.config()).unwrap();
    for resume in [false, true] {
        let message = refusal(Stage::new(folder.path(), 1, resume).train());
        assert!(message.contains(&format!("in use by another process (pid {})", std::process::id())), "{message}");
    }
    drop(held);
    Stage::new(folder.path(), 1, true).train().unwrap();
}

#[test]
fn a_resume_with_another_config_or_other_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage { hook: dies_at(5, "log"), ..Stage::new(folder.path(), 9, false) };
    stage.train().unwrap_err();
    let other = Stage::new(folder.path(), 9, true);
    let message = refusal(other.start(&format!("{}[optimizer]\nlr = 1.0\n", other.config())));
    assert!(message.contains("optimizer.lr was not set, now 1.0"), "{message}");
    let spec = Spec {
        section: &other.section,
        config: &other.config(),
        resume: true,
        steps: 9,
        facts: json!({"inputs": rows(4)}).as_object().unwrap().clone(),
        interrupt: Arc::default(),
    };
    assert!(refusal(Run::start(spec)).starts_with("a.jsonl: its content differs from that of data.train"));
    let message = refusal(Stage::new(folder.path(), 2, true).train());
    assert!(message.contains("is at step 3 already"), "{message}");
    assert_eq!(
        preflight(folder.path(), true, &other.config(), Some(9), &Map::new()).unwrap(),
        Preflight::Resume { step: 3 }
    );
}

/// Fails at every point of every step, resumes, and ends like a run that was never interrupted.
#[test]
fn stopped_anywhere_and_resumed() {
    let expected = straight(7);
    let folder = tempfile::tempdir().unwrap();
    for step in 1..=7 {
        for point in ["log", "save", "saving", "checking", "finish"] {
            let out = folder.path().join(format!("{step}-{point}"));
            let dies = Stage { hook: dies_at(step, point), ..Stage::new(&out, 7, false) };
            if dies.train().is_err() {
                assert_eq!(Stage::new(&out, 7, true).train().unwrap(), Outcome::Finished { step: 7 });
            }
            assert_eq!(facts_of(&out), expected, "stopped at step {step}, {point}");
        }
    }
}

#[test]
fn interrupted_runs_save_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(folder.path(), 7, false);
    let flag = stage.interrupt.clone();
    let asked = Stage {
        hook: Arc::new(move |done, at| {
            if (done, at) == (5, "log") {
                flag.store(true, Ordering::Relaxed);
            }
            Ok(())
        }),
        ..stage
    };
    assert_eq!(asked.train().unwrap(), Outcome::Interrupted { step: 5 });
    assert_eq!(checkpoint::list(&folder.path().join(CHECKPOINTS)).unwrap().last().unwrap().0, 5);
    assert!(!folder.path().join("model").exists());
    assert_eq!(Stage::new(folder.path(), 7, true).train().unwrap(), Outcome::Finished { step: 7 });
    let (mut found, mut expected) = (facts_of(folder.path()), straight(7));
    // The checkpoint of the interruption replaces an older one.
    found.remove("checkpoints");
    expected.remove("checkpoints");
    assert_eq!(found, expected);
}

/// A finished run that is given more steps equals one that had them from the start: its last step was
/// evaluated only because it was the last.
#[test]
fn a_finished_run_is_extended() {
    let folder = tempfile::tempdir().unwrap();
    Stage::new(folder.path(), 5, false).train().unwrap();
    assert!(facts_of(folder.path())["metrics"].contains(r#""step":5"#));
    assert_eq!(Stage::new(folder.path(), 10, true).train().unwrap(), Outcome::Finished { step: 10 });
    let (mut found, mut expected) = (facts_of(folder.path()), straight(10));
    found.remove("checkpoints");
    expected.remove("checkpoints");
    assert_eq!(found, expected);
    assert_eq!(folder::read_facts(folder.path()).unwrap()["resumed"][0]["step"], 5);
}

#[test]
fn seconds_continue_across_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let dies = Stage {
        hook: Arc::new(|done, at| match (done, at) {
            (1, "log") => {
                sleep(Duration::from_millis(200));
                Ok(())
            }
            (4, _) => Err(stop()),
            _ => Ok(()),
        }),
        ..Stage::new(folder.path(), 5, false)
    };
    dies.train().unwrap_err();
    Stage::new(folder.path(), 5, true).train().unwrap();
    let text = fs::read_to_string(folder.path().join(METRICS)).unwrap();
    let seconds: Vec<f64> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seconds"].as_f64().unwrap()).collect();
    assert!(seconds.is_sorted() && seconds[0] >= 0.2, "{seconds:?}");
}

#[test]
fn a_damaged_checkpoint_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let dies = Stage { hook: dies_at(7, "log"), ..Stage::new(folder.path(), 9, false) };
    dies.train().unwrap_err();
    let file = folder.path().join("checkpoints/step-000006/state.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let message = refusal(Stage::new(folder.path(), 9, true).train());
    assert!(message.contains("step-000006/state.safetensors: is damaged"), "{message}");
    assert!(message.contains("resume from") && message.contains("step-000003"), "{message}");
    // Following the hint works.
    fs::remove_dir_all(folder.path().join("checkpoints/step-000006")).unwrap();
    Stage::new(folder.path(), 9, true).train().unwrap();
    assert_eq!(facts_of(folder.path()), straight(9));
}

#[test]
fn records_do_not_fill_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(folder.path(), 100, false);
    let Started::Ready(mut run) = stage.start(&stage.config()).unwrap() else { panic!("a new run") };
    let mut written = 0;
    while run.has_room_for_records().unwrap() {
        written += 1;
        run.record(written, &["wrong".to_owned()], None, Value::Null).unwrap();
    }
    assert_eq!((written, fs::read_dir(folder.path().join(RECORDS)).unwrap().count()), (16, 16));
}

/// Not a test by itself: the next test starts it as a process and kills it.
#[test]
fn child_to_be_killed() {
    let Ok(out) = std::env::var("ALIGN_TEST_RUN") else { return };
    let out = Path::new(&out);
    // Killing it between the creation of the folder and the first checkpoint is as likely as anywhere else.
    let slow: Hook = Arc::new(|_, _| {
        sleep(Duration::from_millis(2));
        Ok(())
    });
    Stage { hook: slow, ..Stage::new(out, 60, true) }.train().unwrap();
}

#[test]
fn killed_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let spawn = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run::tests::child_to_be_killed"])
            .env("ALIGN_TEST_RUN", &out)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut kills = 0;
    for round in 0..40u64 {
        let mut child = spawn();
        // Wait until the folder is in use, so that the wait does not depend on how long libtorch takes to
        // load.
        let before = fs::read(out.join(RUN)).ok();
        while fs::read(out.join(RUN)).ok() == before && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(500));
        }
        sleep(Duration::from_micros(17_000 * (round % 9) + 531 * round));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(spawn().wait().unwrap().success());
    assert!(kills >= 3, "{kills} kills before the run was through");
    assert_eq!(facts_of(&out), straight(60));
}

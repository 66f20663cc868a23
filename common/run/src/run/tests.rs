//! The life of a run folder: started, refused, killed, resumed, extended, damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;
use tch::{Kind, Tensor};

use super::best::eval_loss;
use super::folder::RUN;
use super::*;
use crate::checkpoint::SnapshotLock;
use crate::metrics::is_wall_clock;
use align_core::config::ResultDtype;
use align_core::error::Problem;
use align_model::Models;

/// A stage small enough to kill many times: three numbers that follow a target, which moves with the step.
struct Stage<'a> {
    out: &'a Path,
    steps: u64,
    resume: bool,
    section: RunSection,
    interrupt: Arc<AtomicBool>,
    /// The loss on held-out rows, by steps done.
    eval_loss: fn(u64) -> f64,
    /// Called with the steps done before the line is logged, before saving and while saving.
    hook: Hook,
}

type Hook = Arc<dyn Fn(u64, &str) -> Result<()> + Send + Sync>;

/// A hook that fails at a point of a step.
fn dies_at(step: u64, point: &'static str) -> Hook {
    Arc::new(move |done, at| if (done, at) == (step, point) { Err(stop()) } else { Ok(()) })
}

/// The three numbers, as models to be written.
struct Weights {
    tensor: Tensor,
    done: u64,
    hook: Hook,
}

impl Models for Weights {
    fn write(&self, folder: &Path) -> Result<()> {
        let model = folder.join("model");
        fs::create_dir(&model).map_err(Error::io(&model))?;
        (self.hook)(self.done, "saving")?;
        let tensors = [("weights".to_owned(), self.tensor.shallow_clone())];
        checkpoint::write_tensors(&model.join("model.safetensors"), &tensors)
    }

    fn check(&self, folder: &Path) -> Result<()> {
        (self.hook)(self.done, "checking")?;
        checkpoint::read_tensors(&folder.join("model/model.safetensors")).map(drop)
    }
}

/// Gradient descent with momentum, which waits for a lock before it changes its tensors.
struct Momentum {
    weights: Tensor,
    moment: Tensor,
    snapshot_lock: SnapshotLock,
}

impl Momentum {
    fn new(weights: &Tensor) -> Self {
        Self {
            weights: weights.shallow_clone(),
            moment: weights.zeros_like().detach(),
            snapshot_lock: SnapshotLock::default(),
        }
    }

    fn step(&mut self, lr: f64) {
        self.snapshot_lock.wait();
        let _guard = tch::no_grad_guard();
        self.moment *= 0.9;
        self.moment += self.weights.grad();
        self.weights -= &self.moment * lr;
        self.weights.zero_grad();
    }

    fn save(&self, state: &mut State) {
        state.hold(self.snapshot_lock.lock());
        let named =
            [("model/master/weights", self.weights.detach()), ("model/moment/weights", self.moment.shallow_clone())];
        state.tensors.extend(named.map(|(name, tensor)| (name.to_owned(), tensor)));
    }

    fn load(&mut self, state: &State) {
        let _guard = tch::no_grad_guard();
        let saved = state.by_name();
        self.weights.copy_(saved["model/master/weights"]);
        self.moment.copy_(saved["model/moment/weights"]);
    }
}

/// The entry in run.json for a data file of `count` rows.
fn rows(count: u64) -> Value {
    json!({ "data.train": [{ "file": "a.jsonl", "bytes": 9, "blake3": count.to_string() }] })
}

impl<'a> Stage<'a> {
    fn new(out: &'a Path, steps: u64, resume: bool) -> Self {
        let section =
            RunSection { out: out.to_owned(), eval_every: 4, save_every: 3, keep: 2, ..RunSection::default() };
        Self {
            out,
            steps,
            resume,
            section,
            interrupt: Arc::default(),
            eval_loss: |_| 1.0,
            hook: Arc::new(|_, _| Ok(())),
        }
    }

    fn config(&self) -> String {
        format!("[train]\nsteps = {}\n[run]\nout = {:?}\n", self.steps, self.out)
    }

    fn start(&self, config: &str) -> Result<Started> {
        Run::start(Spec {
            section: &self.section,
            config,
            resume: self.resume,
            steps: self.steps,
            facts: json!({"seed": 1, "inputs": rows(3)}).as_object().unwrap().clone(),
            interrupt: self.interrupt.clone(),
        })
    }

    fn train(&self) -> Result<Outcome> {
        self.train_with(&self.config())
    }

    fn train_with(&self, config: &str) -> Result<Outcome> {
        let mut run = match self.start(config)? {
            Started::Finished { step } => return Ok(Outcome::AlreadyFinished { step }),
            Started::Ready(run) => run,
        };
        let weights = Tensor::from_slice(&[1.0f32, 2.0, 3.0]).set_requires_grad(true);
        let mut optimizer = Momentum::new(&weights);
        if let Some(state) = run.state()? {
            optimizer.load(&state);
        }
        let snapshot = |optimizer: &Momentum, done: u64| {
            let mut state = State::new();
            optimizer.save(&mut state);
            let models = Box::new(Weights { tensor: weights.detach(), done, hook: self.hook.clone() });
            Snapshot { models, state }
        };
        if run.models_are_due() {
            run.save(run.next_step(), snapshot(&optimizer, run.next_step()))?;
        }
        for step in run.next_step()..run.steps() {
            let target = Tensor::from_slice(&[0.1f32, -0.2, 0.3]) * (step as f64).sin();
            let loss = (&weights - target).square().sum(Kind::Float);
            loss.backward();
            let done = step + 1;
            let mut metrics = Metrics::new();
            metrics.set("train/loss", loss.double_value(&[]));
            metrics.set("train/grad_norm", weights.grad().norm().double_value(&[]));
            optimizer.step(0.05);
            run.check_pending_save()?;
            if run.eval_due(done) {
                metrics.set("eval/a/loss", (self.eval_loss)(done));
                metrics.set("eval/b/loss", 3.0 * (self.eval_loss)(done));
                metrics.set("eval/a/accuracy", 0.5);
                run.sample(done, json!({"response": "ä"}).as_object().unwrap())?;
                run.text(done, "samples/0", "an *answer*, ä")?;
                run.histogram(done, "scores/a", &[1.0, 2.0, 4.0])?;
                let png = Png { bytes: vec![137, 80, done as u8], width: 2, height: 1 };
                run.image(done, "frontier/a", &png)?;
            }
            (self.hook)(done, "log")?;
            run.log(done, &metrics)?;
            if run.save_due(done) {
                (self.hook)(done, "save")?;
                run.save(done, snapshot(&optimizer, done))?;
            }
            if run.interrupted() {
                run.wait()?;
                return Ok(Outcome::Interrupted { step: done });
            }
        }
        (self.hook)(self.steps, "finish")?;
        run.finish()
    }
}

/// What must be equal however a run reached its end: metrics without time and memory, samples, weights, event
/// values.
fn facts_of(out: &Path) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut lines = String::new();
    for line in fs::read_to_string(out.join(METRICS)).unwrap().lines() {
        let mut line: Map<String, Value> = serde_json::from_str(line).unwrap();
        line.retain(|name, _| !is_wall_clock(name));
        lines += &format!("{}\n", Value::Object(line));
    }
    facts.insert("metrics".to_owned(), lines);
    facts.insert("samples".to_owned(), fs::read_to_string(out.join(SAMPLES)).unwrap_or_default());
    let weights = fs::read(out.join("model/model.safetensors")).unwrap();
    facts.insert("weights".to_owned(), format!("{weights:?}"));
    let mut events = metrics::event_values(&out.join(TENSORBOARD));
    events.retain(|(_, tag, _)| !is_wall_clock(tag));
    events.sort();
    facts.insert("events".to_owned(), format!("{events:?}"));
    let mut checkpoints: Vec<_> = checkpoint::list(&out.join(CHECKPOINTS)).unwrap();
    checkpoints.retain(|(_, path)| checkpoint::verify(path).is_ok());
    facts.insert(
        "checkpoints".to_owned(),
        format!("{:?}", checkpoints.iter().map(|(step, _)| step).collect::<Vec<_>>()),
    );
    facts
}

fn straight(steps: u64) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    assert_eq!(Stage::new(&out, steps, false).train().unwrap(), Outcome::Finished { step: steps });
    facts_of(&out)
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Invalid(problems)) => problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

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

fn stop() -> Error {
    Error::Failed("killed here".to_owned())
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

/// The losses on two held-out sets; the lowest mean at a saved step is that of step 12.
fn dips(done: u64) -> f64 {
    [0.5, 0.9, 0.7, 0.6, 0.3][done as usize / 4 % 5]
}

#[test]
fn the_best_checkpoint_is_kept_however_the_run_reached_its_end() {
    let folder = tempfile::tempdir().unwrap();
    fn stage(out: &Path, resume: bool) -> Stage<'_> {
        Stage { eval_loss: dips, ..Stage::new(out, 30, resume) }
    }
    let whole = folder.path().join("whole");
    stage(&whole, false).train().unwrap();
    let steps = |out: &Path| -> Vec<u64> {
        checkpoint::list(&out.join(CHECKPOINTS)).unwrap().iter().map(|(step, _)| *step).collect()
    };
    // Step 16 is lower, but was not saved; of those that were evaluated, 12, 24 and 30 were.
    assert_eq!(steps(&whole), [12, 27, 30]);
    let best = |out: &Path| folder::read_facts(out).unwrap()["best"].clone();
    assert_eq!(best(&whole), json!({"step": 12, "loss": 1.2}));
    for (step, point) in [(11, "log"), (12, "saving"), (12, "checking"), (13, "save"), (21, "save"), (30, "finish")] {
        let out = folder.path().join(format!("{step}-{point}"));
        if (Stage { hook: dies_at(step, point), ..stage(&out, false) }).train().is_err() {
            stage(&out, true).train().unwrap();
        }
        assert_eq!((steps(&out), best(&out)), (steps(&whole), best(&whole)), "stopped at step {step}, {point}");
    }
    // The last step of a run that is given more was evaluated only because it was the last: it does not
    // compete.
    let out = folder.path().join("extended");
    let low = |done| if done == 6 { 0.1 } else { dips(done) };
    Stage { eval_loss: low, ..Stage::new(&out, 6, false) }.train().unwrap();
    assert_eq!(best(&out)["step"], 6);
    Stage { eval_loss: low, ..Stage::new(&out, 30, true) }.train().unwrap();
    assert_eq!((steps(&out), best(&out)), (steps(&whole), best(&whole)));
}

#[test]
fn a_non_finite_loss_is_never_the_best() {
    let line = |losses: &[(&str, f64)]| eval_loss(losses.iter().map(|(name, loss)| (*name, Some(*loss))));
    assert_eq!(line(&[("train/loss", 1.0), ("eval/a/accuracy", 0.1), ("eval/loss", 2.0)]), None);
    assert_eq!(line(&[("eval/a/loss", 1.0), ("eval/b/loss", 2.0)]), Some(1.5));
    assert_eq!(line(&[("eval/a/loss", 1.0), ("eval/b/loss", f64::NAN)]), None);
    assert_eq!(eval_loss([("eval/a/loss", None), ("eval/b/loss", Some(1.0))].into_iter()), None);
}

/// A model that cannot be written, or does not read back as written, ends the run at the next step, or at its
/// end. The training state is kept: a resume continues after that step, and writes the model first.
#[test]
fn a_model_that_is_not_saved_ends_the_run_and_nothing_is_lost() {
    let expected = straight(9);
    for point in ["saving", "checking"] {
        for step in [6, 9] {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("run");
            let error = Stage { hook: dies_at(step, point), ..Stage::new(&out, 9, false) }.train().unwrap_err();
            assert_eq!(error.exit_code(), 1);
            let (said, path) = (error.to_string(), out.join(CHECKPOINTS).join(checkpoint::folder_name(step)));
            assert!(said.starts_with(&format!("the model of step {step} is not saved: killed here;")), "{said}");
            assert!(said.contains(&format!("in {}: --resume", path.display())), "{said}");
            let steps: Vec<u64> =
                checkpoint::list(&out.join(CHECKPOINTS)).unwrap().iter().map(|(step, _)| *step).collect();
            assert_eq!(steps, if step == 6 { vec![3, 6] } else { vec![3, 6, 9] }, "nothing is pruned");
            assert!(!out.join("model").exists());

            // Earlier models are not replaced as long as this one is not written.
            let again = Stage { hook: dies_at(step, point), ..Stage::new(&out, 9, true) }.train().unwrap_err();
            assert!(again.to_string().starts_with(&format!("the model of step {step} is not saved")), "{again}");
            assert!(checkpoint::has_models(&out.join(CHECKPOINTS).join("step-000003")));
            let Started::Ready(run) = Stage::new(&out, 9, true).start(&Stage::new(&out, 9, true).config()).unwrap()
            else {
                panic!("the run is not finished")
            };
            assert_eq!((run.next_step(), run.models_are_due()), (step, true));
            drop(run);
            assert_eq!(Stage::new(&out, 9, true).train().unwrap(), Outcome::Finished { step: 9 });
            assert_eq!(facts_of(&out), expected, "step {step}, {point}");
        }
    }
}

/// A finished run has its fp32 masters: its result can be written again in another dtype.
#[test]
fn a_finished_run_is_written_again_in_another_dtype() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let written = Arc::new(AtomicU64::new(0));
    let count = || written.load(Ordering::Relaxed);
    let hook: Hook = {
        let written = written.clone();
        Arc::new(move |_, at| {
            written.fetch_add(u64::from(at == "saving"), Ordering::Relaxed);
            Ok(())
        })
    };
    let train = |dtype: ResultDtype, resume| {
        let mut stage = Stage { hook: hook.clone(), ..Stage::new(&out, 4, resume) };
        stage.section.result_dtype = dtype;
        let name = serde_json::to_value(dtype).unwrap();
        let config = format!("{}result_dtype = {name}\n", stage.config());
        stage.train_with(&config).unwrap()
    };
    train(ResultDtype::Auto, false);
    assert_eq!(count(), 2); // 3 and the last
    let expected = facts_of(&out);
    assert_eq!(train(ResultDtype::Auto, true), Outcome::AlreadyFinished { step: 4 });
    assert_eq!(train(ResultDtype::Float32, true), Outcome::Finished { step: 4 });
    assert_eq!(count(), 3);
    assert_eq!(facts_of(&out), expected);
    assert_eq!(train(ResultDtype::Float32, true), Outcome::AlreadyFinished { step: 4 });
    assert_eq!(count(), 3);
}

/// A checkpoint has the state at the time of the call, even if training would be further by the time it is
/// written.
#[test]
fn training_waits_while_it_is_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let slow: Hook = Arc::new(|_, at| {
        if at == "saving" {
            sleep(Duration::from_millis(60));
        }
        Ok(())
    });
    let out = folder.path().join("run");
    Stage { hook: slow, ..Stage::new(&out, 7, false) }.train().unwrap();
    for step in ["step-000006", "step-000007"] {
        let state = checkpoint::load(&out.join(CHECKPOINTS).join(step)).unwrap();
        let written =
            checkpoint::read_tensors(&out.join(CHECKPOINTS).join(step).join("model/model.safetensors")).unwrap();
        assert!(state.by_name()["model/master/weights"].equal(&written[0].1));
    }
    assert_eq!(facts_of(&out), straight(7));
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

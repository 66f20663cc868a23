//! A small stage, and what is compared of its runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::super::folder::{CHECKPOINTS, METRICS, SAMPLES, TENSORBOARD};
use super::super::{Outcome, Run, Spec, Started};
use crate::checkpoint::{self, Snapshot, SnapshotLock, State};
use crate::metrics::{self, Metrics, is_wall_clock};
use crate::plot::Png;
use align_core::config::RunSection;
use align_core::error::{Error, Problem, Result};
use align_model::Models;

/// A stage small enough to kill many times: three numbers that follow a target, which moves with the step.
pub(super) struct Stage<'a> {
    pub(super) out: &'a Path,
    pub(super) steps: u64,
    pub(super) resume: bool,
    pub(super) section: RunSection,
    pub(super) interrupt: Arc<AtomicBool>,
    /// The loss on held-out rows, by steps done.
    pub(super) eval_loss: fn(u64) -> f64,
    /// Called with the steps done before the line is logged, before saving and while saving.
    pub(super) hook: Hook,
}

pub(super) type Hook = Arc<dyn Fn(u64, &str) -> Result<()> + Send + Sync>;

/// A hook that fails at a point of a step.
pub(super) fn dies_at(step: u64, point: &'static str) -> Hook {
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
pub(super) fn rows(count: u64) -> Value {
    json!({ "data.train": [{ "file": "a.jsonl", "bytes": 9, "blake3": count.to_string() }] })
}

impl<'a> Stage<'a> {
    pub(super) fn new(out: &'a Path, steps: u64, resume: bool) -> Self {
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

    pub(super) fn config(&self) -> String {
        format!("[train]\nsteps = {}\n[run]\nout = {:?}\n", self.steps, self.out)
    }

    pub(super) fn start(&self, config: &str) -> Result<Started> {
        Run::start(Spec {
            section: &self.section,
            config,
            resume: self.resume,
            steps: self.steps,
            facts: json!({"seed": 1, "inputs": rows(3)}).as_object().unwrap().clone(),
            interrupt: self.interrupt.clone(),
        })
    }

    pub(super) fn train(&self) -> Result<Outcome> {
        self.train_with(&self.config())
    }

    pub(super) fn train_with(&self, config: &str) -> Result<Outcome> {
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
pub(super) fn facts_of(out: &Path) -> BTreeMap<String, String> {
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

pub(super) fn straight(steps: u64) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    assert_eq!(Stage::new(&out, steps, false).train().unwrap(), Outcome::Finished { step: steps });
    facts_of(&out)
}

pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Invalid(problems)) => problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub(super) fn stop() -> Error {
    Error::Failed("killed here".to_owned())
}

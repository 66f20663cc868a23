//! A run: its folder, metrics and checkpoints, and how it resumes after it was stopped at any moment.
//!
//! A stage's loop looks like this:
//!
//! ```ignore
//! let mut run = match Run::start(spec)? {
//!     Started::Finished { step } => return Ok(Outcome::AlreadyFinished { step }),
//!     Started::Ready(run) => run,
//! };
//! if let Some(state) = run.state()? {
//!     optimizer.load("model", &state)?;
//! }
//! if run.models_are_due() {
//!     run.save(run.next_step(), snapshot())?;
//! }
//! for step in run.next_step()..run.steps() {
//!     let mut metrics = update(step)?;               // the stage's step
//!     run.check_pending_save()?;                     // a checkpoint that cannot be written ends the run
//!     let done = step + 1;
//!     if run.eval_due(done) {
//!         metrics.merge(evaluate()?);
//!     }
//!     run.log(done, &metrics)?;
//!     if run.save_due(done) {
//!         run.save(done, snapshot())?;               // written while the next step computes
//!     }
//!     if run.interrupted() {
//!         run.wait()?;
//!         return Ok(Outcome::Interrupted { step: done });
//!     }
//! }
//! run.finish()
//! ```
//!
//! The order of events makes it safe to be killed anywhere: the lines of a step reach the disk before its
//! checkpoint appears, a checkpoint appears atomically, and a resumed run first truncates metrics.jsonl,
//! samples.jsonl and the TensorBoard files to the checkpoint it starts from. At most one checkpoint is being
//! written, and every access to checkpoints waits for it: so the behaviour of a run never depends on the
//! speed of the disk.

mod best;
mod contents;
mod folder;
mod inputs;
mod past;
mod recorded;
mod saving;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use crate::checkpoint::{self, Snapshot, State};
use crate::metrics::{self, Histogram, Lines, Metrics, Shown, TensorBoard};
use crate::plot::Png;
use align_core::atomic_files;
use align_core::atomic_files::{TEMPORARY, replace_folder, sync_if_exists, sync_tree, write_atomic};
use align_core::config::RunSection;
use align_core::error::{Error, Result};
use align_core::process_memory;

use best::EvalLosses;
use past::{Clock, History, RunState};
use saving::Saving;

pub use best::Best;
pub use contents::{Contents, read};
pub use folder::{BACKEND, SHORT_BATCH};
pub use inputs::{Input, fingerprints};
pub use recorded::{Failure, Recorded};

use folder::{CHECKPOINTS, CONFIG, METRICS, RECORDS, SAMPLES, TENSORBOARD};

/// The maximum number of steps recorded while a run continues. The step that ends it is always recorded.
const MAX_RECORDS: usize = 16;

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A dry run: everything was checked, nothing was trained.
    DryRun,
    /// All steps are done and the result is written.
    Finished {
        /// Steps done.
        step: u64,
    },
    /// The resumed run has nothing left to do.
    AlreadyFinished {
        /// Steps done.
        step: u64,
    },
    /// The run was asked to stop; a checkpoint is written.
    Interrupted {
        /// Steps done.
        step: u64,
    },
}

/// What a run needs to start.
#[derive(Debug)]
pub struct Spec<'a> {
    /// `[run]`.
    pub section: &'a RunSection,
    /// The resolved config as TOML, from [`align_core::config::to_toml`].
    pub config: &'a str,
    /// Whether to resume a run in the folder.
    pub resume: bool,
    /// Steps of the whole run.
    pub steps: u64,
    /// The metadata for run.json: version, commit, libtorch, device, seed, parameter and row counts.
    /// `inputs`, the [`fingerprints`] of data and weights, must be equal across a resume.
    pub facts: Map<String, Value>,
    /// Set by the binary when the run is asked to stop.
    pub interrupt: Arc<AtomicBool>,
}

/// A run that is ready to start, or one that has nothing left to do.
#[derive(Debug)]
pub enum Started {
    /// The run is ready.
    Ready(Box<Run>),
    /// The folder has a finished run.
    Finished {
        /// Steps done.
        step: u64,
    },
}

/// The result of [`preflight`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preflight {
    /// A new run would start at step 0.
    Fresh,
    /// A resumed run would continue after this step.
    Resume {
        /// Steps done.
        step: u64,
    },
    /// The folder has a finished run.
    Finished {
        /// Steps done.
        step: u64,
    },
}

/// A run that holds its folder's lock.
#[derive(Debug)]
pub struct Run {
    out: PathBuf,
    section: RunSection,
    steps: u64,
    facts: Map<String, Value>,
    interrupt: Arc<AtomicBool>,
    stopping: bool,
    from: Option<PathBuf>,
    models_are_due: bool,
    next_step: u64,
    metrics: Lines,
    samples: Lines,
    board: TensorBoard,
    clock: Clock,
    eval_losses: EvalLosses,
    /// The checkpoint that is being written. Declared before the lock, which is dropped after it: the folder
    /// stays locked until the checkpoint is written.
    saving: Option<Saving>,
    _lock: folder::Lock,
}

/// Checks the folder without changing anything: for `--dry-run`, and to refuse a folder before a model is
/// loaded.
///
/// # Errors
/// [`Error::Invalid`] when [`Run::start`] would refuse; the lock is not checked.
pub fn preflight(
    out: &Path,
    resume: bool,
    config: &str,
    steps: Option<u64>,
    facts: &Map<String, Value>,
) -> Result<Preflight> {
    if out.exists() && !out.is_dir() {
        return Err(Error::invalid(out.display(), "is a file, expected a folder to write the run into"));
    }
    if let Some(file) = out.ancestors().skip(1).find(|above| above.is_file()) {
        let what = format!("is below {}, which is a file; expected a folder to write the run into", file.display());
        return Err(Error::invalid(out.display(), what));
    }
    folder::check(out, resume, config, facts)?;
    if let Some(step) = folder::finished(out, config, steps)? {
        return Ok(Preflight::Finished { step });
    }
    Ok(match folder::newest(out)? {
        Some((step, _)) => Preflight::Resume { step },
        None => Preflight::Fresh,
    })
}

/// The planned number of steps of the run in a folder; `None` if there is no run.
///
/// # Errors
/// [`Error::Invalid`] when its run.json is damaged.
pub fn planned_steps(out: &Path) -> Result<Option<u64>> {
    Ok(folder::read_facts(out)?.get("steps").and_then(Value::as_u64))
}

impl Run {
    /// Locks the folder, and creates it or, to resume, truncates its files to the newest checkpoint. Called
    /// after data and checkpoint headers are checked and before a model is loaded, so that a refusal comes
    /// early.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another process uses the folder, when it has a run that is not to be resumed
    /// or one with another config, and when the newest checkpoint is damaged; [`Error::Io`] when the folder
    /// cannot be written.
    pub fn start(spec: Spec<'_>) -> Result<Started> {
        let out = spec.section.out.clone();
        let lock = folder::lock(&out)?;
        folder::check(&out, spec.resume, spec.config, &spec.facts)?;
        let old = folder::read_facts(&out)?;
        if let Some(step) = folder::finished(&out, spec.config, Some(spec.steps))? {
            return Ok(Started::Finished { step });
        }
        folder::clean(&out)?;
        let from = folder::newest(&out)?;
        if let Some((step, path)) = &from {
            checkpoint::verify(path)?;
            if *step > spec.steps {
                let what = format!("is at step {step} already, expected at least that many steps, not {}", spec.steps);
                return Err(Error::invalid(out.display(), what));
            }
        }
        let next_step = from.as_ref().map_or(0, |(step, _)| *step);
        let run_state = from.as_ref().map(|(_, path)| RunState::read(path)).transpose()?;
        let seconds = run_state.as_ref().map_or(0.0, |state| state.seconds);
        let is_other_dtype = run_state.and_then(|state| state.result_dtype) != Some(spec.section.result_dtype);
        let models_are_due = from
            .as_ref()
            .is_some_and(|(step, path)| !checkpoint::has_models(path) || (is_other_dtype && *step == spec.steps));
        let was_last = old.get("steps").and_then(Value::as_u64) == Some(next_step);
        let extended = was_last && spec.steps > next_step;
        let history = History { next_step, extended, section: spec.section.clone() };
        let mut metrics = Lines::new(out.join(METRICS));
        let mut eval_losses = EvalLosses::default();
        metrics.retain(&mut |step, line| {
            let line = history.line(step, line)?;
            eval_losses.record(step, line.iter().map(|(name, value)| (name.as_str(), value.as_f64())));
            Some(line)
        })?;
        let mut samples = Lines::new(out.join(SAMPLES));
        samples.create()?;
        samples.retain(&mut |step, line| (history.keeps(step) && history.evaluated(step)).then_some(line))?;
        metrics::retain(&out.join(TENSORBOARD), &|step, shown| match shown {
            Shown::Scalar(name) => history.keeps_value(step, name),
            Shown::Picture => history.keeps(step) && history.evaluated(step),
        })?;

        write_atomic(&out.join(CONFIG), spec.config.as_bytes())?;
        let facts = facts(old, spec.facts, spec.steps, next_step);
        let board = TensorBoard::create(&out.join(TENSORBOARD))?;
        let mut run = Run {
            section: spec.section.clone(),
            steps: spec.steps,
            facts,
            interrupt: spec.interrupt,
            stopping: false,
            from: from.map(|(_, path)| path),
            models_are_due,
            next_step,
            metrics,
            samples,
            board,
            clock: Clock::new(seconds, next_step),
            eval_losses,
            saving: None,
            _lock: lock,
            out,
        };
        let best = run.best()?;
        run.note_best(best.as_ref());
        folder::write_facts(&run.out, &run.facts)?;
        // In case the last process was killed before it did so.
        checkpoint::prune(&run.out.join(CHECKPOINTS), run.section.keep, best.map(|best| best.step))?;
        Ok(Started::Ready(Box::new(run)))
    }

    /// The run's folder.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The 0-based step to do next; the number of steps done by earlier processes.
    pub fn next_step(&self) -> u64 {
        self.next_step
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The checkpoint that this run resumes from, with its models in sub-folders.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    /// Whether that checkpoint must first be saved again from its state: it has no models, or it is the last
    /// of the run and the models are in another dtype than requested.
    pub fn models_are_due(&self) -> bool {
        self.models_are_due
    }

    /// The state in that checkpoint, read again at every call.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Invalid`] when it cannot be read.
    pub fn state(&self) -> Result<Option<State>> {
        self.from.as_deref().map(checkpoint::load).transpose()
    }

    /// Whether a line is written when `done` steps are done.
    pub fn log_due(&self, done: u64) -> bool {
        done.is_multiple_of(self.section.log_every) || self.eval_due(done)
    }

    /// Whether to evaluate when `done` steps are done: every `eval_every` steps and at the end.
    pub fn eval_due(&self, done: u64) -> bool {
        self.eval_recurs(done) || done >= self.steps
    }

    /// Whether a longer run would evaluate there, too: the last step may be no multiple of `eval_every`.
    pub fn eval_recurs(&self, done: u64) -> bool {
        done.is_multiple_of(self.section.eval_every)
    }

    /// Whether to save when `done` steps are done: every `save_every` steps, at the end, and when asked to
    /// stop. Call it once a step.
    pub fn save_due(&mut self, done: u64) -> bool {
        // The flag is read only here: `save_due` and `interrupted` of a step must agree, or a run could stop
        // without a checkpoint.
        self.stopping = self.interrupt.load(Ordering::Relaxed) && done < self.steps;
        done.is_multiple_of(self.section.save_every) || done >= self.steps || self.stopping
    }

    /// Whether the run was asked to stop before the last call of [`Run::save_due`].
    pub fn interrupted(&self) -> bool {
        self.stopping
    }

    /// Writes the scalars of a step to metrics.jsonl and TensorBoard, if [`Run::log_due`].
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be written.
    pub fn log(&mut self, done: u64, metrics: &Metrics) -> Result<()> {
        if !self.log_due(done) {
            return Ok(());
        }
        self.eval_losses.record(done, metrics.iter().map(|(name, value)| (name, Some(value))));
        let mut all = Metrics::new();
        all.set("seconds", self.clock.seconds());
        all.merge(metrics.clone());
        all.set("time/step", self.clock.seconds_per_step(done));
        let peak = process_memory::peak_rss();
        if peak > 0 {
            all.set("memory/peak_gib", peak as f64 / f64::from(1 << 30));
        }
        let mut line = Map::new();
        line.insert("step".to_owned(), Value::from(done));
        line.extend(all.to_json());
        self.metrics.append(&line)?;
        self.board.scalars(done, &all)
    }

    /// Appends an object to samples.jsonl, preceded by the step. Samples belong to evaluations: call it only
    /// if [`Run::eval_due`].
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn sample(&mut self, done: u64, sample: &Map<String, Value>) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".to_owned(), Value::from(done));
        line.extend(sample.clone());
        self.samples.append(&line)
    }

    /// Writes a text to TensorBoard. Like samples, texts, histograms and images belong to evaluations.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn text(&mut self, done: u64, tag: &str, text: &str) -> Result<()> {
        self.board.text(done, tag, text)
    }

    /// Writes a histogram to TensorBoard.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn histogram(&mut self, done: u64, tag: &str, values: &[f64]) -> Result<()> {
        Histogram::of(values).map_or(Ok(()), |histogram| self.board.histogram(done, tag, &histogram))
    }

    /// Writes an image to TensorBoard.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn image(&mut self, done: u64, tag: &str, png: &Png) -> Result<()> {
        self.board.image(done, tag, png)
    }

    /// Writes the checkpoint of `done` steps on another thread, after waiting for the previous one. Training
    /// continues; an optimiser whose state is in `snapshot` waits with its next step until all bytes are
    /// handed to the operating system.
    ///
    /// # Errors
    /// As [`Run::wait`], for the previous checkpoint.
    pub fn save(&mut self, done: u64, snapshot: Snapshot) -> Result<()> {
        self.wait()?;
        let (folder, out, keep) = (self.out.join(CHECKPOINTS), self.out.clone(), self.section.keep);
        let lines = [self.metrics.path().to_owned(), self.samples.path().to_owned()];
        let run_state = self.run_state();
        let candidates = checkpoint::list(&folder)?.into_iter().map(|(step, _)| step).chain([done]);
        let best = self.eval_losses.best(candidates, &folder);
        let facts = self.note_best(best.as_ref()).then(|| self.facts.clone());
        self.saving = Some(Saving::start(done, move || {
            checkpoint::save(&folder, done, snapshot, |temporary| {
                run_state.write(temporary)?;
                lines.iter().try_for_each(|path| sync_if_exists(path))
            })?;
            facts.map_or(Ok(()), |facts| folder::write_facts(&out, &facts))?;
            checkpoint::prune(&folder, keep, best.map(|best| best.step))
        })?);
        Ok(())
    }

    fn run_state(&self) -> RunState {
        RunState { seconds: self.clock.seconds(), result_dtype: Some(self.section.result_dtype) }
    }

    /// Waits until the last checkpoint is on the disk.
    ///
    /// # Errors
    /// [`Error::Saving`] when it could not be written, [`Error::Models`] when it has no models; earlier ones
    /// are not changed.
    pub fn wait(&mut self) -> Result<()> {
        self.saving.take().map_or(Ok(()), Saving::finish)
    }

    /// Returns the error of the last checkpoint, if it has failed, without waiting. Call it once a step, so
    /// that a full disk ends the run.
    ///
    /// # Errors
    /// As [`Run::wait`].
    pub fn check_pending_save(&mut self) -> Result<()> {
        if self.saving.as_ref().is_some_and(Saving::is_finished) { self.wait() } else { Ok(()) }
    }

    /// The checkpoint with the lowest loss on the held-out sets; the first of equal ones.
    ///
    /// # Errors
    /// As [`Run::wait`]; [`Error::Io`] when the folder cannot be listed.
    pub fn best(&mut self) -> Result<Option<Best>> {
        self.wait()?;
        let folder = self.out.join(CHECKPOINTS);
        let candidates = checkpoint::list(&folder)?.into_iter().map(|(step, _)| step);
        Ok(self.eval_losses.best(candidates, &folder))
    }

    /// Records the best checkpoint in run.json's metadata; returns whether it changed.
    fn note_best(&mut self, best: Option<&Best>) -> bool {
        let Some(Best { step, loss, .. }) = best else { return self.facts.remove("best").is_some() };
        let entry = serde_json::json!({ "step": step, "loss": loss });
        self.facts.insert("best".to_owned(), entry.clone()) != Some(entry)
    }

    /// Writes records/step-….json for the step that ends with `done` steps: its alarms, the non-finite
    /// quantity if there is one, and its inputs. Returns the file's path.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn record(
        &mut self,
        done: u64,
        alarms: &[String],
        failure: Option<&Failure>,
        worked_on: Value,
    ) -> Result<PathBuf> {
        let folder = self.out.join(RECORDS);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(format!("{}.json", checkpoint::folder_name(done)));
        let from = self.last_checkpoint(done - 1)?.map(|(_, path)| path);
        let record =
            serde_json::json!({ "alarms": alarms, "failure": failure, "replay_from": from, "worked_on": worked_on });
        write_atomic(&path, format!("{record}\n").as_bytes())?;
        Ok(path)
    }

    /// Writes records/step-…/: a checkpoint from before the step that would have ended with `done` steps, so
    /// that [`Recorded`] can replay that step directly.
    ///
    /// # Errors
    /// As [`checkpoint::save`].
    pub fn keep_for_replay(&self, done: u64, snapshot: Snapshot) -> Result<()> {
        let run_state = self.run_state();
        checkpoint::save(&self.out.join(RECORDS), done, snapshot, |temporary| run_state.write(temporary)).map(drop)
    }

    /// Whether a run that continues may write another record. The first ones are the informative ones, and
    /// repeated alarms must not fill the disk.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn has_room_for_records(&self) -> Result<bool> {
        Ok(checkpoint::numbered(&self.out.join(RECORDS), ".json")?.len() < MAX_RECORDS)
    }

    /// The newest checkpoint of at most `done` steps.
    ///
    /// # Errors
    /// As [`Run::wait`]; [`Error::Io`] when the folder cannot be listed.
    pub fn last_checkpoint(&mut self, done: u64) -> Result<Option<(u64, PathBuf)>> {
        self.wait()?;
        Ok(checkpoint::list(&self.out.join(CHECKPOINTS))?.into_iter().rfind(|(step, _)| *step <= done))
    }

    /// Makes the models of the checkpoint of `step` steps the result, and removes later checkpoints.
    ///
    /// # Errors
    /// [`Error::Invalid`] when that checkpoint is damaged; [`Error::Io`] when something cannot be written.
    pub fn roll_back(&mut self, step: u64) -> Result<()> {
        self.wait()?;
        let mut later = checkpoint::list(&self.out.join(CHECKPOINTS))?;
        later.retain(|(other, _)| *other >= step);
        let Some((_, from)) = later.iter().find(|(other, _)| *other == step) else { return Ok(()) };
        checkpoint::verify(from)?;
        self.publish(from)?;
        later
            .iter()
            .filter(|(other, _)| *other > step)
            .try_for_each(|(_, path)| atomic_files::remove_folder_atomically(path))
    }

    /// Makes the models of the last checkpoint the result: `model`, and `value` if there is one.
    ///
    /// # Errors
    /// As [`Run::wait`]; [`Error::Io`] when something cannot be written.
    ///
    /// # Panics
    /// When no checkpoint was saved: the last step always has one.
    pub fn finish(&mut self) -> Result<Outcome> {
        let (_, last) = self.last_checkpoint(self.steps)?.expect("the last step was saved");
        self.publish(&last)?;
        self.metrics.sync()?;
        self.samples.sync()?;
        self.facts.insert("finished".to_owned(), Value::from(folder::now()));
        self.facts.insert("finished_step".to_owned(), Value::from(self.steps));
        self.facts.insert("seconds".to_owned(), Value::from(self.clock.seconds()));
        folder::write_facts(&self.out, &self.facts)?;
        Ok(Outcome::Finished { step: self.steps })
    }

    /// Adds an entry on the run's result to run.json.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn add_fact(&mut self, name: &str, value: Value) -> Result<()> {
        self.facts.insert(name.to_owned(), value);
        folder::write_facts(&self.out, &self.facts)
    }

    /// Replaces the result by the models of a checkpoint: copies them to a temporary folder, then renames
    /// each.
    fn publish(&self, from: &Path) -> Result<()> {
        let temporary = self.out.join(format!("{TEMPORARY}result"));
        fs::create_dir_all(&temporary).map_err(Error::io(&temporary))?;
        checkpoint::copy_models(from, &temporary)?;
        sync_tree(&temporary)?;
        for entry in fs::read_dir(&temporary).map_err(Error::io(&temporary))? {
            let entry = entry.map_err(Error::io(&temporary))?;
            replace_folder(&entry.path(), &self.out.join(entry.file_name()))?;
        }
        fs::remove_dir(&temporary).map_err(Error::io(&temporary))
    }
}

/// The contents of run.json: the stage's metadata, and the run's start and resumptions.
fn facts(mut old: Map<String, Value>, new: Map<String, Value>, steps: u64, next_step: u64) -> Map<String, Value> {
    let now = folder::now();
    let mut resumed = match old.remove("resumed") {
        Some(Value::Array(times)) => times,
        _ => Vec::new(),
    };
    let started = match old.remove("started") {
        None => Value::from(now),
        Some(started) => {
            resumed.push(serde_json::json!({ "step": next_step, "time": now }));
            started
        }
    };
    let mut facts = new;
    facts.insert("steps".to_owned(), Value::from(steps));
    facts.insert("started".to_owned(), started);
    facts.insert("resumed".to_owned(), Value::Array(resumed));
    facts
}

#[cfg(test)]
mod tests;

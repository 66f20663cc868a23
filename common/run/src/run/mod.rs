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
//!
//! `start` begins a run and `result` ends it; this module has what a loop calls in between. `folder` has the
//! names, the lock and run.json, `past` what a resumed run takes over, `saving` the thread that writes a
//! checkpoint.

mod best;
mod contents;
mod folder;
mod inputs;
mod past;
mod recorded;
mod result;
mod saving;
mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use crate::checkpoint::{self, Snapshot, State};
use crate::metrics::{Histogram, Lines, Metrics, TensorBoard};
use crate::plot::Png;
use align_core::atomic_files::sync_if_exists;
use align_core::config::RunSection;
use align_core::error::Result;
use align_core::folder_lock::FolderLock;
use align_core::process_memory;

use best::EvalLosses;
use folder::CHECKPOINTS;
use past::{Clock, RunState};
use saving::Saving;

pub use best::Best;
pub use contents::{Contents, read};
pub use folder::{BACKEND, SHORT_BATCH};
pub use inputs::{Input, fingerprints};
pub use recorded::{Failure, Recorded};
pub use start::{Preflight, Spec, Started, planned_steps, preflight};

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
    _lock: FolderLock,
}

impl Run {
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
    /// [`align_core::error::Error::Io`] or [`align_core::error::Error::Invalid`] when it cannot be read.
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
    /// [`align_core::error::Error::Io`] when they cannot be written.
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
    /// [`align_core::error::Error::Io`] when it cannot be written.
    pub fn sample(&mut self, done: u64, sample: &Map<String, Value>) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".to_owned(), Value::from(done));
        line.extend(sample.clone());
        self.samples.append(&line)
    }

    /// Writes a text to TensorBoard. Like samples, texts, histograms and images belong to evaluations.
    ///
    /// # Errors
    /// [`align_core::error::Error::Io`] when it cannot be written.
    pub fn text(&mut self, done: u64, tag: &str, text: &str) -> Result<()> {
        self.board.text(done, tag, text)
    }

    /// Writes a histogram to TensorBoard.
    ///
    /// # Errors
    /// [`align_core::error::Error::Io`] when it cannot be written.
    pub fn histogram(&mut self, done: u64, tag: &str, values: &[f64]) -> Result<()> {
        Histogram::of(values).map_or(Ok(()), |histogram| self.board.histogram(done, tag, &histogram))
    }

    /// Writes an image to TensorBoard.
    ///
    /// # Errors
    /// [`align_core::error::Error::Io`] when it cannot be written.
    pub fn image(&mut self, done: u64, tag: &str, png: &Png) -> Result<()> {
        self.board.image(done, tag, png)
    }

    /// Writes the checkpoint of `done` steps on another thread, after waiting for the previous one. Training
    /// continues; an optimizer whose state is in `snapshot` waits with its next step until all bytes are
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
    /// [`align_core::error::Error::Saving`] when it could not be written,
    /// [`align_core::error::Error::Models`] when it has no models; earlier ones are not changed.
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
    /// As [`Run::wait`]; [`align_core::error::Error::Io`] when the folder cannot be listed.
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

    /// The newest checkpoint of at most `done` steps.
    ///
    /// # Errors
    /// As [`Run::wait`]; [`align_core::error::Error::Io`] when the folder cannot be listed.
    pub fn last_checkpoint(&mut self, done: u64) -> Result<Option<(u64, PathBuf)>> {
        self.wait()?;
        Ok(checkpoint::list(&self.out.join(CHECKPOINTS))?.into_iter().rfind(|(step, _)| *step <= done))
    }
}

#[cfg(test)]
mod tests;

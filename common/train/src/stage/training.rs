//! The training loop and the trait of its trainers.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Kind;

use super::written::{self, CompareWritten};
use super::{Alert, AlertEvent};
use align_core::error::{Error, Result};
use align_core::progress::Progress;
use align_run::checkpoint::{Snapshot, State};
use align_run::metrics::Metrics;
use align_run::run::{Best, Failure, Outcome, Run};

/// What happens when a guard finds a run broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The alert is reported and recorded, and the run continues.
    Warn,
    /// The run ends.
    Stop,
    /// The run ends, and the last checkpoint before the failure is the result.
    Rollback,
}

/// The result of checking a step's metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepCheck {
    /// All alerts of the step.
    pub alerts: Vec<Alert>,
    /// The events to report: an alert that lasts is not reported at every step.
    pub events: Vec<AlertEvent>,
    /// Set when the run must end: the number of steps before the failure began.
    pub last_good_step: Option<u64>,
}

/// The models, optimizers and data of one stage, for [`train`].
pub trait Trainer {
    /// One step of training.
    ///
    /// # Errors
    /// [`align_core::error::Error::NonFinite`] before any update with a non-finite number.
    fn step(&mut self, step: u64) -> Result<Metrics>;

    /// Evaluates on held-out data after `done` steps, and writes samples.
    ///
    /// # Errors
    /// The run's error when a file cannot be written.
    fn evaluate(&mut self, run: &mut Run, done: u64) -> Result<Metrics>;

    /// A short text about a step, for the progress bar.
    fn note(&self, metrics: &Metrics) -> String;

    /// Checks the metrics of step `done`.
    fn check_step(&mut self, _done: u64, _metrics: &Metrics) -> StepCheck {
        StepCheck::default()
    }

    /// What happens when [`StepCheck::last_good_step`] is set or a step is non-finite.
    fn action(&self) -> Action {
        Action::Stop
    }

    /// The data of the latest step, for the record of a failure.
    fn record(&self) -> Value {
        Value::Null
    }

    /// Everything that a resume needs: the trained models (`model`, and others of the stage), and the
    /// remaining state.
    fn snapshot(&self) -> Snapshot;

    /// The dtype of matmul inputs.
    fn compute(&self) -> Kind;

    /// Restores a state.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] when an entry is missing.
    fn load(&mut self, state: &State) -> Result<()>;
}

/// Trains from the run's next step to its last one, or until the run is interrupted.
///
/// # Errors
/// The trainer's error; [`Error::Io`] when a file cannot be written; [`Error::Failed`] when a guard ends the
/// run.
pub fn train(
    mut trainer: impl Trainer + CompareWritten,
    mut run: Box<Run>,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    if let Some(state) = run.state()? {
        trainer.load(&state)?;
    }
    if run.models_are_due() {
        run.save(run.next_step(), trainer.snapshot())?;
    }
    progress.begin("training", run.steps() - run.next_step());
    for step in run.next_step()..run.steps() {
        let done = step + 1;
        let mut metrics = match trainer.step(step) {
            Err(error @ Error::NonFinite { .. }) => return Err(end_non_finite(&trainer, &mut run, done, &error)?),
            metrics => metrics?,
        };
        run.check_pending_save()?;
        if run.eval_due(done) {
            metrics.merge(trainer.evaluate(&mut run, done)?);
        }
        run.log(done, &metrics)?;
        progress.advance(1, &trainer.note(&metrics));
        let check = trainer.check_step(done, &metrics);
        for event in &check.events {
            progress.note(&event.line(done));
        }
        let alerts: Vec<String> = check.alerts.into_iter().map(|alert| alert.text).collect();
        if let Some(good) = check.last_good_step {
            return Err(Error::Failed(end_failed(&trainer, &mut run, done, good, &alerts, None)?));
        }
        let is_new = check.events.iter().any(|event| matches!(event, AlertEvent::Started(_)));
        if is_new && run.has_room_for_records()? {
            run.record(done, &alerts, None, trainer.record())?;
        }
        if run.save_due(done) {
            run.save(done, trainer.snapshot())?;
        }
        if run.interrupted() {
            progress.end();
            run.wait()?;
            return Ok(Outcome::Interrupted { step: done });
        }
    }
    progress.end();
    if let Some(Best { step, loss, path }) = run.best()? {
        progress
            .note(&format!("the lowest loss on held-out rows, {loss:.4}, is that of step {step}: {}", path.display()));
    }
    let outcome = run.finish()?;
    // After the run is finished, so that an error here does not lose the result.
    let compared = written::compare_result(&mut trainer, &mut run, progress);
    if let Err(error) = compared {
        progress.note(&format!("the result could not be compared with the trained model: {error}"));
    }
    Ok(outcome)
}

/// Ends a run whose next step is non-finite, and keeps the state that `align replay` needs.
fn end_non_finite(trainer: &impl Trainer, run: &mut Run, done: u64, error: &Error) -> Result<Error> {
    // A full disk must not hide the error.
    let kept = match run.keep_for_replay(done, trainer.snapshot()) {
        Ok(()) => format!("`align replay {}` repeats the step", run.out().display()),
        // The state is sufficient for a replay.
        Err(Error::Models { source, .. }) => {
            format!("`align replay {}` repeats the step; its model could not be written: {source}", run.out().display())
        }
        Err(other) => format!("the state before the step could not be kept: {other}"),
    };
    let failure = end_failed(trainer, run, done, done - 1, &[error.to_string()], Failure::of(error).as_ref())?;
    Ok(Error::Failed(format!("{failure}; {kept}")))
}

/// Ends a run that failed in step `done`; step `good` was the last one before the failure began. Returns a
/// message with the failure, its record and the remaining checkpoint.
fn end_failed(
    trainer: &impl Trainer,
    run: &mut Run,
    done: u64,
    good: u64,
    alerts: &[String],
    failure: Option<&Failure>,
) -> Result<String> {
    let record = run.record(done, alerts, failure, trainer.record())?;
    let checkpoint = match (trainer.action(), run.last_checkpoint(good)?) {
        (Action::Rollback, Some((step, _))) => {
            run.roll_back(step)?;
            format!("the result is that of step {step}")
        }
        (Action::Rollback, None) => "there is no checkpoint from before to roll back to".to_owned(),
        (_, Some((step, _))) => format!("the last checkpoint from before is that of step {step}"),
        (_, None) => "there is no checkpoint from before".to_owned(),
    };
    Ok(format!("step {done}: {}; recorded in {}; {checkpoint}", alerts.join("; "), record.display()))
}

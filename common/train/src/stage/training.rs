//! The training loop, and the trainer that it drives.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Kind;

use super::written::{self, CompareWritten};
use super::{Alarm, News};
use align_core::error::{Error, Result};
use align_core::progress::Progress;
use align_run::checkpoint::{Snapshot, State};
use align_run::metrics::Metrics;
use align_run::run::{Best, Failure, Outcome, Run};

/// What is done when a run has gone wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is told and recorded, and the run goes on.
    Warn,
    /// The run ends.
    Stop,
    /// The run ends, and the last checkpoint from before is the result.
    Rollback,
}

/// What a trainer thinks of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// What is wrong with it; empty when nothing is.
    pub alarms: Vec<Alarm>,
    /// What is told: of a warning that lasts, less than that it is there.
    pub news: Vec<News>,
    /// The run is to end; the number of steps that were done while all was well.
    pub halt_before: Option<u64>,
}

/// What [`train`] drives: models, optimisers and data of one stage.
pub trait Trainer {
    /// One step of training.
    ///
    /// # Errors
    /// [`align_core::error::Error::NonFinite`] before anything is updated with what is not a number.
    fn step(&mut self, step: u64) -> Result<Metrics>;

    /// Measures on held-out data after `done` steps, and writes samples.
    ///
    /// # Errors
    /// What the run returns when it cannot write.
    fn evaluate(&mut self, run: &mut Run, done: u64) -> Result<Metrics>;

    /// A few words on a step, for the progress bar.
    fn note(&self, metrics: &Metrics) -> String;

    /// Judges the step that makes `done` steps by its metrics.
    fn watch(&mut self, _done: u64, _metrics: &Metrics) -> Watch {
        Watch::default()
    }

    /// What is done when a run has gone wrong.
    fn action(&self) -> Action {
        Action::Stop
    }

    /// What the latest step worked on, for the record of what went wrong.
    fn record(&self) -> Value {
        Value::Null
    }

    /// All that a resume needs: the trained models (`model`, and what else the stage makes), and the state beside them.
    fn snapshot(&self) -> Snapshot;

    /// The dtype in which it computes.
    fn compute(&self) -> Kind;

    /// Takes a state back.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] when something is missing.
    fn load(&mut self, state: &State) -> Result<()>;
}

/// Trains from where the run stands to its end, or until it is asked to stop.
///
/// # Errors
/// What the trainer returns; [`Error::Io`] when something cannot be written; [`Error::Failed`] when a guard ends the run.
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
            Err(error @ Error::NonFinite { .. }) => return Err(halt_before(&trainer, &mut run, done, &error)?),
            metrics => metrics?,
        };
        run.check_pending_save()?;
        if run.eval_due(done) {
            metrics.merge(trainer.evaluate(&mut run, done)?);
        }
        run.log(done, &metrics)?;
        progress.advance(1, &trainer.note(&metrics));
        let watch = trainer.watch(done, &metrics);
        for news in &watch.news {
            progress.note(&news.line(done));
        }
        let alarms: Vec<String> = watch.alarms.into_iter().map(|alarm| alarm.text).collect();
        if let Some(good) = watch.halt_before {
            return Err(Error::Failed(halt(&trainer, &mut run, done, good, &alarms, None)?));
        }
        let begins = watch.news.iter().any(|news| matches!(news, News::Begins(_)));
        if begins && run.has_room_for_records()? {
            run.record(done, &alarms, None, trainer.record())?;
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
    // After the run is finished, so that nothing that fails here costs a result.
    let measured = written::measure(&mut trainer, &mut run, progress);
    if let Err(error) = measured {
        progress.note(&format!("the result could not be compared with what was trained: {error}"));
    }
    Ok(outcome)
}

/// Ends a run whose next step is not finite, and keeps all that repeats it.
fn halt_before(trainer: &impl Trainer, run: &mut Run, done: u64, error: &Error) -> Result<Error> {
    // A full disk must not hide what was wrong.
    let kept = match run.keep_for_replay(done, trainer.snapshot()) {
        Ok(()) => format!("`align replay {}` repeats the step", run.out().display()),
        // Its state is enough for that.
        Err(Error::Models { source, .. }) => {
            format!("`align replay {}` repeats the step; its model could not be written: {source}", run.out().display())
        }
        Err(other) => format!("what the step began with could not be kept: {other}"),
    };
    let said = halt(trainer, run, done, done - 1, &[error.to_string()], Failure::of(error).as_ref())?;
    Ok(Error::Failed(format!("{said}; {kept}")))
}

/// Ends a run that has gone wrong in the step that would make `done` steps; all was well for `good` steps. Returns what was
/// wrong, where it is recorded and where the run stands now.
fn halt(
    trainer: &impl Trainer,
    run: &mut Run,
    done: u64,
    good: u64,
    alarms: &[String],
    failure: Option<&Failure>,
) -> Result<String> {
    let record = run.record(done, alarms, failure, trainer.record())?;
    let stands = match (trainer.action(), run.last_checkpoint(good)?) {
        (Action::Rollback, Some((step, _))) => {
            run.roll_back(step)?;
            format!("the result is that of step {step}")
        }
        (Action::Rollback, None) => "there is no checkpoint from before to roll back to".to_owned(),
        (_, Some((step, _))) => format!("the last checkpoint from before is that of step {step}"),
        (_, None) => "there is no checkpoint from before".to_owned(),
    };
    Ok(format!("step {done}: {}; recorded in {}; {stands}", alarms.join("; "), record.display()))
}

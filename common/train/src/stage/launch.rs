//! From a checked stage to its last step: what will run is said, the run's folder taken, and the loop driven.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::Kind;

use super::misfits::{Outset, another_end};
use super::written::{self, Comparison};
use super::{Alarm, Examination, Job, News};
use align_core::config::{RunSection, ScheduleSection};
use align_core::error::{Error, Problem, Result, summarize};
use align_core::progress::Progress;
use align_run::checkpoint::{Snapshot, State};
use align_run::metrics::Metrics;
use align_run::run::{
    Best, Failure, Input, Outcome, Preflight, Recorded, Run, Spec, Started, fingerprints, planned_steps, preflight,
};

/// A stage whose config, data and checkpoints passed every check.
pub struct Plan<'a> {
    /// What run.json calls it.
    pub stage: &'a str,
    /// `[run]`.
    pub section: &'a RunSection,
    /// The resolved config as TOML.
    pub config: &'a str,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Of a stage whose learning rate moves, how it does.
    pub schedule: Option<&'a ScheduleSection>,
    /// What is shown before the first step and stands in run.json: counts of rows and tokens, and choices made from the data.
    pub facts: Vec<(&'static str, Value)>,
    /// What the models are before the first step, and what does not fit together: told last, and in run.json.
    pub outset: Outset,
    /// Bad rows that were left out.
    pub skipped: &'a [Problem],
    /// The data and the models that it is made of.
    pub inputs: Vec<Input>,
}

/// What became of a plan.
pub enum Launched<'a> {
    /// The folder is taken: load the models and [`train`].
    Ready(Box<Run>, &'a mut dyn Progress),
    /// There is nothing to train: a dry run (`None`), or a run that was finished before.
    Over(Option<Outcome>),
}

/// Says what will run and takes the run's folder.
///
/// # Errors
/// As [`preflight`] and [`Run::start`].
pub fn launch<'a>(mut plan: Plan<'_>, job: Job<'a>) -> Result<Launched<'a>> {
    plan.warn_of_another_end(job.resume)?;
    let facts = plan.facts(job.program)?;
    let state = preflight(&plan.section.out, job.resume, plan.config, Some(plan.steps), &facts)?;
    let progress = job.progress;
    if job.dry_run {
        plan.show(progress);
        return Ok(Launched::Over(None));
    }
    if let Preflight::Finished { step } = state {
        return Ok(Launched::Over(Some(Outcome::AlreadyFinished { step })));
    }

    tch::set_num_threads(plan.section.num_threads() as i32);
    let spec = Spec {
        section: plan.section,
        config: plan.config,
        resume: job.resume,
        steps: plan.steps,
        facts,
        interrupt: job.interrupt,
    };
    Ok(match Run::start(spec)? {
        Started::Finished { step } => Launched::Over(Some(Outcome::AlreadyFinished { step })),
        Started::Ready(run) => {
            plan.show(progress);
            Launched::Ready(run, progress)
        }
    })
}

impl Plan<'_> {
    /// What run.json says, beside the run's life.
    fn facts(&self, program: Map<String, Value>) -> Result<Map<String, Value>> {
        let mut facts = program;
        let mut set = |key: &str, value: Value| facts.insert(key.replace(' ', "_"), value);
        set("stage", json!(self.stage));
        set("device", json!(format!("{:?}", self.section.device())));
        set("threads", json!(self.section.num_threads()));
        set("seed", json!(self.seed));
        set("steps", json!(self.steps));
        set("starts from", json!(self.outset.starts_from));
        for (what, value) in &self.facts {
            set(what, value.clone());
        }
        set("warnings", json!(self.outset.warnings));
        set("inputs", fingerprints(&self.inputs)?);
        Ok(facts)
    }

    /// A schedule that falls towards the end of a run falls anew where the run gets another end.
    fn warn_of_another_end(&mut self, resume: bool) -> Result<()> {
        let before = if resume { planned_steps(&self.section.out)? } else { None };
        if let (Some(schedule), Some(before)) = (self.schedule, before) {
            self.outset.warnings.extend(another_end(schedule, before, self.steps));
        }
        Ok(())
    }

    fn show(&self, progress: &mut dyn Progress) {
        progress.note(self.config.trim_end());
        progress.note("");
        let (start, steps) = (("starts from", json!(self.outset.starts_from)), ("steps", json!(self.steps)));
        let facts = || std::iter::once(&start).chain(&self.facts).chain([&steps]);
        let width = facts().map(|(what, _)| what.len()).max().unwrap_or(0);
        for (what, value) in facts() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            progress.note(&format!("{what:>width$}  {value}"));
        }
        let (lines, rest) = summarize(self.skipped);
        lines.iter().for_each(|line| progress.note(&format!("skipped {line}")));
        if rest > 0 {
            progress.note(&format!("skipped rows for {rest} more reasons"));
        }
        self.outset.warn(progress);
    }
}

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

    /// Repeats the step that a run recorded, from the state that is in the record, and looks at everything on its way. The
    /// trainer may have moved on when the step no longer fails.
    ///
    /// # Errors
    /// Another one than what the step was recorded for.
    fn replay(&mut self, recorded: &Recorded) -> Result<Examination>;

    /// All that a resume needs: the trained models (`model`, and what else the stage makes), and the state beside them.
    fn snapshot(&self) -> Snapshot;

    /// Measures what the models in a checkpoint's folder say, beside what the trained ones do. Asked for where that is something else:
    /// [`written::differs`].
    ///
    /// # Errors
    /// When they cannot be read.
    fn compare_written(&mut self, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison>;

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
pub fn train(mut trainer: impl Trainer, mut run: Box<Run>, progress: &mut dyn Progress) -> Result<Outcome> {
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
    // Behind the end, so that nothing that happens here costs a result.
    let measured = written::measure(&mut trainer, &mut run, progress);
    if let Err(error) = measured {
        progress.note(&format!("the result could not be compared with what was trained: {error}"));
    }
    Ok(outcome)
}

/// Ends a run whose next step came to a number that is none, and keeps all that it needs to come there again.
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

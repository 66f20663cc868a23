//! From a checked stage to its first step: what will run is said, and the run's folder taken.

use serde_json::{Map, Value, json};

use super::Job;
use super::misfits::another_end;
use super::preflight::checked_device;
use crate::outset::Outset;
use align_core::config::{RunSection, ScheduleSection};
use align_core::error::{Problem, Result, summarize};
use align_core::progress::Progress;
use align_kernels::ops;
use align_run::run::{BACKEND, Input, Outcome, Preflight, Run, Spec, Started, fingerprints, planned_steps, preflight};

/// A stage whose config, data and checkpoints passed every check.
pub struct Plan<'a> {
    /// What run.json calls it.
    pub stage: &'a str,
    /// `[run]`.
    pub section: &'a RunSection,
    /// The resolved config as TOML.
    pub config: String,
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
pub(super) enum Launched<'a> {
    /// The folder is taken: load the models and train.
    Ready(Box<Run>, &'a mut dyn Progress),
    /// There is nothing to train: a dry run, or a run that was finished before.
    Over(Outcome),
}

/// Says what will run and takes the run's folder.
///
/// # Errors
/// As [`preflight`] and [`Run::start`].
pub(super) fn launch<'a>(mut plan: Plan<'_>, job: Job<'a>) -> Result<Launched<'a>> {
    if job.resume {
        plan.warn_of_another_end()?;
    }
    let facts = plan.facts(job.program)?;
    let state = preflight(&plan.section.out, job.resume, &plan.config, Some(plan.steps), &facts)?;
    let progress = job.progress;
    if job.dry_run {
        plan.show(progress);
        return Ok(Launched::Over(Outcome::DryRun));
    }
    if let Preflight::Finished { step } = state {
        return Ok(Launched::Over(Outcome::AlreadyFinished { step }));
    }

    tch::set_num_threads(plan.section.num_threads() as i32);
    let spec = Spec {
        section: plan.section,
        config: &plan.config,
        resume: job.resume,
        steps: plan.steps,
        facts,
        interrupt: job.interrupt,
    };
    Ok(match Run::start(spec)? {
        Started::Finished { step } => Launched::Over(Outcome::AlreadyFinished { step }),
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
        set(BACKEND, json!(ops(checked_device(self.section.device())).name()));
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
    fn warn_of_another_end(&mut self) -> Result<()> {
        if let (Some(schedule), Some(before)) = (self.schedule, planned_steps(&self.section.out)?) {
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

//! From a checked stage to its first step: reports what will run, and creates or opens the run's folder.

use serde_json::{Map, Value, json};

use super::Job;
use super::misfits::changed_steps;
use super::preflight::checked_device;
use crate::outset::Outset;
use crate::schedule::warmup_steps;
use align_core::config::{RunSection, ScheduleSection};
use align_core::error::{Problem, Result, summarize};
use align_core::progress::Progress;
use align_kernels::ops;
use align_run::run::{BACKEND, Input, Outcome, Preflight, Run, Spec, Started, fingerprints, planned_steps, preflight};

/// A stage whose config, data and checkpoints passed every check.
pub struct Plan<'a> {
    /// Its name in run.json.
    pub stage: &'a str,
    /// `[run]`.
    pub section: &'a RunSection,
    /// The resolved config as TOML.
    pub config: String,
    /// The seed of the run.
    pub seed: u64,
    /// Number of steps of the whole run.
    pub steps: u64,
    /// The learning-rate schedule, for stages that have one.
    pub schedule: Option<&'a ScheduleSection>,
    /// Run metadata, reported before the first step and written to run.json: counts of rows and tokens, and
    /// settings derived from the data.
    pub metadata: Vec<(&'static str, Value)>,
    /// The initial models and the warnings: reported last, and written to run.json.
    pub outset: Outset,
    /// Bad rows that are skipped.
    pub skipped: &'a [Problem],
    /// Its data and models.
    pub inputs: Vec<Input>,
}

/// The result of launching a plan.
pub(super) enum Launched<'a> {
    /// The folder is ready: load the models and train.
    Ready(Box<Run>, &'a mut dyn Progress),
    /// There is nothing to train: a dry run, or a run that is already finished.
    Done(Outcome),
}

/// Reports what will run, and creates or opens the run's folder.
///
/// # Errors
/// As [`preflight`] and [`Run::start`].
pub(super) fn launch<'a>(mut plan: Plan<'_>, job: Job<'a>) -> Result<Launched<'a>> {
    if job.resume {
        plan.warn_of_changed_steps()?;
    }
    let metadata = plan.run_metadata(job.program)?;
    let state = preflight(&plan.section.out, job.resume, &plan.config, Some(plan.steps), &metadata)?;
    let progress = job.progress;
    if job.dry_run {
        plan.show(progress);
        return Ok(Launched::Done(Outcome::DryRun));
    }
    if let Preflight::Finished { step } = state {
        return Ok(Launched::Done(Outcome::AlreadyFinished { step }));
    }

    tch::set_num_threads(plan.section.num_threads() as i32);
    let spec = Spec {
        section: plan.section,
        config: &plan.config,
        resume: job.resume,
        steps: plan.steps,
        facts: metadata,
        interrupt: job.interrupt,
    };
    Ok(match Run::start(spec)? {
        Started::Finished { step } => Launched::Done(Outcome::AlreadyFinished { step }),
        Started::Ready(run) => {
            plan.show(progress);
            Launched::Ready(run, progress)
        }
    })
}

impl Plan<'_> {
    /// The metadata in run.json, without the entries that the run adds as it proceeds.
    fn run_metadata(&self, program: Map<String, Value>) -> Result<Map<String, Value>> {
        let mut metadata = program;
        let mut set = |key: &str, value: Value| metadata.insert(key.replace(' ', "_"), value);
        set("stage", json!(self.stage));
        set("device", json!(format!("{:?}", self.section.device())));
        set(BACKEND, json!(ops(checked_device(self.section.device())).name()));
        set("threads", json!(self.section.num_threads()));
        set("seed", json!(self.seed));
        set("steps", json!(self.steps));
        if let Some((name, steps)) = self.warmup() {
            set(name, steps);
        }
        set("starts from", json!(self.outset.starts_from));
        for (name, value) in &self.metadata {
            set(name, value.clone());
        }
        set("warnings", json!(self.outset.warnings));
        set("inputs", fingerprints(&self.inputs)?);
        Ok(metadata)
    }

    /// The steps of the warm-up, if they follow from the number of steps.
    fn warmup(&self) -> Option<(&'static str, Value)> {
        let schedule = self.schedule.filter(|schedule| schedule.warmup_ratio.is_some())?;
        Some(("warmup steps", json!(warmup_steps(schedule, self.steps))))
    }

    /// Warns if a resume changes the number of steps under a schedule that depends on it.
    fn warn_of_changed_steps(&mut self) -> Result<()> {
        if let (Some(schedule), Some(before)) = (self.schedule, planned_steps(&self.section.out)?) {
            self.outset.warnings.extend(changed_steps(schedule, before, self.steps));
        }
        Ok(())
    }

    fn show(&self, progress: &mut dyn Progress) {
        progress.note(self.config.trim_end());
        progress.note("");
        let (start, steps) = (("starts from", json!(self.outset.starts_from)), ("steps", json!(self.steps)));
        let warmup = self.warmup();
        let entries = || std::iter::once(&start).chain(&self.metadata).chain([&steps]).chain(&warmup);
        let width = entries().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in entries() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            progress.note(&format!("{name:>width$}  {value}"));
        }
        let (lines, rest) = summarize(self.skipped);
        lines.iter().for_each(|line| progress.note(&format!("skipped {line}")));
        if rest > 0 {
            progress.note(&format!("skipped rows for {rest} more reasons"));
        }
        self.outset.warn(progress);
    }
}

//! What every stage does around its training. A [`Stage`] is checked before a tensor is loaded; [`run()`]
//! reports what will run, opens the run's folder, loads the models and trains. `plan`, `doctor` and `replay`
//! start with the same checks.

pub mod doctor;
mod launch;
mod microbatch_replay;
pub mod misfits;
mod mixture;
mod preflight;
mod replay;
mod scoring;
mod training;
mod warnings;
pub mod written;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value};

use align_core::config::{Config, RunSection};
use align_core::error::Result;
use align_core::progress::Progress;
use align_run::checkpoint;
use align_run::run::{Input, Outcome, Recorded};

use crate::footprint::StepEstimate;
pub use crate::outset::Outset;
use doctor::{Check, Diagnosis};
use launch::{Launched, launch};

pub use launch::Plan;
pub use microbatch_replay::{MicrobatchReplay, TracedMicrobatch};
pub use mixture::{Mixture, find_sources, ignored_files, rounded, set_names, source_paths};
pub use preflight::{
    Source, check_causal_lm, check_device, check_format, check_source, check_trained_length, checked_device,
    evaluation_options, model_input,
};
pub use replay::{NanReport, Replay, Replayed, Section, TensorStats, gradients, merge};
pub use scoring::{ScoreOptions, ScorePosition, Scorer, check_reward_model, check_scalar_model, refuse_value_model};
pub use training::{Action, StepCheck, Trainer, train};
pub use warnings::{ActiveAlerts, Alert, AlertEvent};
pub use written::{CompareWritten, Comparison};

/// A training stage whose config, data and checkpoints passed every check. No tensor is loaded yet.
pub trait Stage: Sized {
    /// Its config.
    type Config: Config;

    /// Takes the steps in the training loop.
    type Trainer: Trainer + Replay + CompareWritten;

    /// `[run]` of a config.
    fn run_section(config: &Self::Config) -> &RunSection;

    /// Reads and checks everything that a run needs.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] with every mistake in config, data and checkpoints.
    fn check(config: &Self::Config, progress: &mut dyn Progress) -> Result<Self>;

    /// Its data and models, which must be unchanged on resume.
    ///
    /// # Errors
    /// When a model's folder cannot be read.
    fn inputs(&self) -> Result<Vec<Input>>;

    /// The initial models and the warnings, before the first step.
    fn outset(&self) -> Outset;

    /// The plan of a run.
    ///
    /// # Errors
    /// As [`Stage::inputs`].
    fn plan(&self) -> Result<Plan<'_>>;

    /// Loads the models.
    ///
    /// # Errors
    /// When they cannot be read.
    fn load(self, start: Start) -> Result<Self::Trainer>;

    /// Estimates the memory and arithmetic of a step.
    fn estimate(self) -> StepEstimate;

    /// Loads the models and checks the parts of a step. Writes nothing.
    ///
    /// # Errors
    /// As [`Stage::load`], and what a step returns.
    fn doctor(self, progress: &mut dyn Progress) -> Result<Vec<Check>>;
}

/// Where training begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the models of the config; weights that no file has are randomly initialised.
    Models,
    /// With a checkpoint's state, which contains the weights: the models need only names, shapes and dtypes.
    Checkpoint,
}

/// How a command runs a stage.
pub struct Job<'a> {
    /// Resume the run in the folder.
    pub resume: bool,
    /// Check everything, report what would run, and stop.
    pub dry_run: bool,
    /// Set by a signal to stop the run.
    pub interrupt: Arc<AtomicBool>,
    /// Shows the progress.
    pub progress: &'a mut dyn Progress,
    /// The program's entries in run.json: version, commit, libtorch.
    pub program: Map<String, Value>,
}

/// Runs a stage: check, plan, launch, load, train. A dry run ends before the launch.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every mistake, before a model loads; what [`train`] returns.
pub fn run<S: Stage>(config: &S::Config, job: Job<'_>) -> Result<Outcome> {
    let stage = S::check(config, job.progress)?;
    let (run, progress) = match launch(stage.plan()?, job)? {
        Launched::Done(outcome) => return Ok(outcome),
        Launched::Ready(run, progress) => (run, progress),
    };
    let start = if run.checkpoint().is_some() { Start::Checkpoint } else { Start::Models };
    train(stage.load(start)?, run, progress)
}

/// Estimates the memory and time of [`run()`].
///
/// # Errors
/// As [`Stage::check`].
pub fn plan<S: Stage>(config: &S::Config, progress: &mut dyn Progress) -> Result<StepEstimate> {
    Ok(S::check(config, progress)?.estimate())
}

/// Checks the models and data that [`run()`] would train with. Writes nothing.
///
/// # Errors
/// As [`run()`] before its first step.
pub fn doctor<S: Stage>(config: &S::Config, progress: &mut dyn Progress) -> Result<Diagnosis> {
    let stage = S::check(config, progress)?;
    let outset = stage.outset();
    tch::set_num_threads(S::run_section(config).num_threads() as i32);
    Ok(Diagnosis { outset, checks: stage.doctor(progress)? })
}

/// Restores the state before a recorded step, and repeats the step.
///
/// # Errors
/// As [`Stage::check`]; [`align_core::error::Error::Invalid`] when data, models or the record have changed
/// since the run; the step's error unless it is [`align_core::error::Error::NonFinite`].
pub fn replay<S: Stage>(config: &S::Config, recorded: &Recorded, progress: &mut dyn Progress) -> Result<Replayed> {
    let stage = S::check(config, progress)?;
    recorded.check_inputs(&stage.inputs()?)?;
    let mut trainer = stage.load(Start::Checkpoint)?;
    tch::set_num_threads(S::run_section(config).num_threads() as i32);
    trainer.load(&checkpoint::load(&recorded.checkpoint)?)?;
    let found = trainer.replay(recorded)?;
    Ok(Replayed { stage: recorded.stage.clone(), done: recorded.done, recorded: recorded.failure.clone(), found })
}

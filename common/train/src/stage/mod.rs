//! What every stage does around its training. A [`Stage`] is checked before a tensor is loaded; [`run()`] says what will run, takes the
//! run's folder, loads the models and steps to the end. `plan`, `doctor` and `replay` begin with the same checks.

pub mod doctor;
mod launch;
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
pub use mixture::{Mixture, find_sources, passed_over, rounded, set_names, source_paths};
pub use preflight::{
    Source, check_causal_lm, check_device, check_format, check_source, check_trained_length, checked_device,
    evaluation_options, model_input,
};
pub use replay::{Examination, Part, Quantity, Replay, Replayed, gradients, merge};
pub use scoring::{ScorePlace, ScoreWish, Scorer, check_reward_model, check_scalar_model, refuse_value_model};
pub use training::{Action, Trainer, Watch, train};
pub use warnings::{Alarm, Lasting, News};
pub use written::{CompareWritten, Comparison};

/// A training stage whose config, data and checkpoints passed every check. No tensor is loaded yet.
pub trait Stage: Sized {
    /// Its config.
    type Config: Config;

    /// What the training loop drives.
    type Trainer: Trainer + Replay + CompareWritten;

    /// `[run]` of a config.
    fn run_section(config: &Self::Config) -> &RunSection;

    /// Reads and checks everything that a run needs.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] with every mistake in config, data and checkpoints.
    fn check(config: &Self::Config, progress: &mut dyn Progress) -> Result<Self>;

    /// The data and models that it is made of: what a resume must find unchanged.
    ///
    /// # Errors
    /// When a model's folder cannot be read.
    fn inputs(&self) -> Result<Vec<Input>>;

    /// What the models are before the first step, and what does not fit together.
    fn outset(&self) -> Outset;

    /// What a run of it is.
    ///
    /// # Errors
    /// As [`Stage::inputs`].
    fn plan(&self) -> Result<Plan<'_>>;

    /// Loads the models.
    ///
    /// # Errors
    /// When they cannot be read.
    fn load(self, start: Start) -> Result<Self::Trainer>;

    /// What a step needs of memory and arithmetic.
    fn estimate(self) -> StepEstimate;

    /// Loads the models and examines the pieces of a step. Nothing is written.
    ///
    /// # Errors
    /// As [`Stage::load`], and what a step returns.
    fn doctor(self, progress: &mut dyn Progress) -> Result<Vec<Check>>;
}

/// Where training begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the models of the config; new weights are drawn.
    Models,
    /// With a checkpoint's state, which brings the weights: of the models, names, shapes and dtypes are enough.
    Checkpoint,
}

/// How the binary asks a stage to run.
pub struct Job<'a> {
    /// Go on with the run in the folder.
    pub resume: bool,
    /// Check everything, say what would run, and stop.
    pub dry_run: bool,
    /// Set when the run is asked to stop.
    pub interrupt: Arc<AtomicBool>,
    /// Who is told how far it is.
    pub progress: &'a mut dyn Progress,
    /// What run.json says of the program: version, commit, libtorch.
    pub program: Map<String, Value>,
}

/// Runs a stage: check, plan, launch, load, train. A dry run ends before the launch.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every mistake, before a model loads; what [`train`] returns.
pub fn run<S: Stage>(config: &S::Config, job: Job<'_>) -> Result<Outcome> {
    let stage = S::check(config, job.progress)?;
    let (run, progress) = match launch(stage.plan()?, job)? {
        Launched::Over(outcome) => return Ok(outcome),
        Launched::Ready(run, progress) => (run, progress),
    };
    let start = if run.checkpoint().is_some() { Start::Checkpoint } else { Start::Models };
    train(stage.load(start)?, run, progress)
}

/// Plans what [`run()`] would need.
///
/// # Errors
/// As [`Stage::check`].
pub fn plan<S: Stage>(config: &S::Config, progress: &mut dyn Progress) -> Result<StepEstimate> {
    Ok(S::check(config, progress)?.estimate())
}

/// Examines what [`run()`] would train with. Nothing is written.
///
/// # Errors
/// As [`run()`] before its first step.
pub fn doctor<S: Stage>(config: &S::Config, progress: &mut dyn Progress) -> Result<Diagnosis> {
    let stage = S::check(config, progress)?;
    let outset = stage.outset();
    tch::set_num_threads(S::run_section(config).num_threads() as i32);
    Ok(Diagnosis { outset, checks: stage.doctor(progress)? })
}

/// Brings a trainer to where a recorded step began, and repeats it.
///
/// # Errors
/// As [`Stage::check`]; [`align_core::error::Error::Invalid`] when data, models or the record are not what the run left; what the step
/// returns but [`align_core::error::Error::NonFinite`].
pub fn replay<S: Stage>(config: &S::Config, recorded: &Recorded, progress: &mut dyn Progress) -> Result<Replayed> {
    let stage = S::check(config, progress)?;
    recorded.check_inputs(&stage.inputs()?)?;
    let mut trainer = stage.load(Start::Checkpoint)?;
    tch::set_num_threads(S::run_section(config).num_threads() as i32);
    trainer.load(&checkpoint::load(&recorded.checkpoint)?)?;
    let found = trainer.replay(recorded)?;
    Ok(Replayed { stage: recorded.stage.clone(), done: recorded.done, recorded: recorded.failure.clone(), found })
}

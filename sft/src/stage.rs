//! `align sft` and `align pretrain` as stages: the checks of each, and the stage that they share.

use align_core::config::{Config, RunSection};
use align_core::error::{Problems, Result};
use align_core::progress::Progress;
use align_model::{Face, untrained_chatml};
use align_run::run::Input;
use align_text::chatml::ChatFormat;
use align_train::footprint::StepEstimate;
use align_train::stage::doctor::Check;
use align_train::stage::{
    Outset, Plan, Source, Stage, Start, check_causal_lm, check_device, check_format, check_source,
};

use crate::checked::Inputs;
use crate::config::{DataSection, LmConfig, PretrainConfig, PretrainData, SftConfig, SftData};
use crate::data::{Rows, pretrain_rows, sft_rows};
use crate::train::Trainer;

/// A stage that trains a language model, checked.
pub struct LmStage<D: LmData> {
    inputs: Inputs,
    format: D::Format,
    config: LmConfig<D>,
}

/// `align sft`.
pub type Sft = LmStage<SftData>;

/// `align pretrain`: from a checkpoint, or from random weights if the folder has a config.json without
/// weights.
pub type Pretrain = LmStage<PretrainData>;

/// The data of a stage that trains a language model: how it is checked.
pub trait LmData: DataSection {
    /// How rows become tokens, as far as `doctor` checks it.
    type Format;

    /// Reads and checks everything that a run needs.
    ///
    /// # Errors
    /// As [`Stage::check`].
    fn check(config: &LmConfig<Self>, progress: &mut dyn Progress) -> Result<(Inputs, Self::Format)>;

    /// The checks of `doctor` that only this kind of data has.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn doctor(config: &LmConfig<Self>, format: &Self::Format) -> Result<Vec<Check>>;
}

impl<D: LmData> Stage for LmStage<D>
where
    LmConfig<D>: Config,
{
    type Config = LmConfig<D>;
    type Trainer = Trainer;

    fn run_section(config: &LmConfig<D>) -> &RunSection {
        &config.run
    }

    fn check(config: &LmConfig<D>, progress: &mut dyn Progress) -> Result<Self> {
        let (inputs, format) = D::check(config, progress)?;
        Ok(Self { inputs, format, config: config.clone() })
    }

    fn inputs(&self) -> Result<Vec<Input>> {
        self.inputs.fingerprinted()
    }

    fn outset(&self) -> Outset {
        self.inputs.outset()
    }

    fn plan(&self) -> Result<Plan<'_>> {
        self.inputs.plan()
    }

    fn load(self, start: Start) -> Result<Trainer> {
        self.inputs.load(start)
    }

    fn estimate(self) -> StepEstimate {
        crate::plan::estimate(self.inputs)
    }

    fn doctor(self, progress: &mut dyn Progress) -> Result<Vec<Check>> {
        let checks = D::doctor(&self.config, &self.format)?;
        crate::doctor::examine(self.inputs, checks, progress)
    }
}

impl LmData for SftData {
    type Format = ChatFormat;

    fn check(config: &SftConfig, progress: &mut dyn Progress) -> Result<(Inputs, ChatFormat)> {
        let mut problems = Problems::new();
        let path = &config.model.path;
        check_device("run.device", config.run.device(), &mut problems);
        let source = check_causal_lm(path, &mut problems)?;
        let format = check_format(path, source.as_ref(), &config.data.system, &mut problems)?;
        let rows = match &format {
            Some(format) => sft_rows(config, format, &mut problems, progress)?,
            None => None,
        };
        check_length(source.as_ref(), rows.as_ref(), &mut problems);
        let ((source, rows), format) = problems.into_checked(source.zip(rows).zip(format))?;
        let untrained = untrained_chatml(path, &source.header.config, &source.tokenizer)?;
        let mut inputs = Inputs::new("sft", config, source, rows);
        inputs.system_note = format.system_note();
        inputs.untrained_special_tokens = untrained;
        inputs.end_tokens = |special| vec![special.im_end, special.endoftext];
        Ok((inputs, format))
    }

    fn doctor(config: &SftConfig, format: &ChatFormat) -> Result<Vec<Check>> {
        crate::doctor::chat(config, format)
    }
}

impl LmData for PretrainData {
    type Format = ();

    fn check(config: &PretrainConfig, progress: &mut dyn Progress) -> Result<(Inputs, ())> {
        let mut problems = Problems::new();
        let path = &config.model.path;
        check_device("run.device", config.run.device(), &mut problems);
        let source = check_source(path, &mut problems)?;
        if source.as_ref().is_some_and(|source| source.header.face != Face::CausalLm) {
            problems.push(path.display(), "holds a reward or value model, expected a language model");
        }
        let rows = match &source {
            Some(source) => pretrain_rows(config, &source.tokenizer, &mut problems, progress)?,
            None => None,
        };
        check_length(source.as_ref(), rows.as_ref(), &mut problems);
        let (source, rows) = problems.into_checked(source.zip(rows))?;
        Ok((Inputs::new("pretrain", config, source, rows), ()))
    }

    fn doctor(_config: &PretrainConfig, (): &()) -> Result<Vec<Check>> {
        Ok(Vec::new())
    }
}

/// Refuses rows that a first-generation model must not be trained on.
fn check_length(source: Option<&Source>, rows: Option<&Rows>, problems: &mut Problems) {
    if let (Some(source), Some(rows)) = (source, rows) {
        rows.check_length(&source.header, problems);
    }
}

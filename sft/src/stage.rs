//! `align sft` and `align pretrain` as stages: what each checks.

use align_core::config::RunSection;
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
use crate::config::{PretrainConfig, SftConfig};
use crate::data::{Rows, pretrain_rows, sft_rows};
use crate::train::Trainer;

/// `align sft`.
pub struct Sft {
    config: SftConfig,
    format: ChatFormat,
    inputs: Inputs,
}

impl Stage for Sft {
    type Config = SftConfig;
    type Trainer = Trainer;

    fn run_section(config: &SftConfig) -> &RunSection {
        &config.run
    }

    fn check(config: &SftConfig, progress: &mut dyn Progress) -> Result<Self> {
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
        inputs.untrained = untrained;
        inputs.end_tokens = |special| vec![special.im_end, special.endoftext];
        Ok(Self { config: config.clone(), format, inputs })
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
        crate::doctor::sft(&self.config, &self.format, self.inputs, progress)
    }
}

/// `align pretrain`: from a checkpoint, or from random weights where the folder has a config.json and no weights.
pub struct Pretrain {
    inputs: Inputs,
}

impl Stage for Pretrain {
    type Config = PretrainConfig;
    type Trainer = Trainer;

    fn run_section(config: &PretrainConfig) -> &RunSection {
        &config.run
    }

    fn check(config: &PretrainConfig, progress: &mut dyn Progress) -> Result<Self> {
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
        Ok(Self { inputs: Inputs::new("pretrain", config, source, rows) })
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
        crate::doctor::examine(self.inputs, Vec::new(), progress)
    }
}

/// Refuses rows that a first-generation model must not be trained on.
fn check_length(source: Option<&Source>, rows: Option<&Rows>, problems: &mut Problems) {
    if let (Some(source), Some(rows)) = (source, rows) {
        rows.check_length(&source.header, problems);
    }
}

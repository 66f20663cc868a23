//! `align sft` and `align pretrain` as stages: what each checks, and what both make of it.

use align_core::config::{RunSection, to_toml};
use align_core::error::{Problems, Result};
use align_core::progress::Progress;
use align_kernels::kind_of;
use align_model::{CausalLm, Face, ModelOptions, SideFiles, untrained_chatml};
use align_run::run::Input;
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Special;
use align_train::footprint::Outline;
use align_train::stage::doctor::Check;
use align_train::stage::{
    Mixture, Outset, Plan, Source, Stage, Start, check_causal_lm, check_device, check_format, check_source,
    checked_device, model_input, passed_over, source_paths,
};
use serde_json::{Value, json};

use crate::config::{DataSection, LmConfig, PretrainConfig, SftConfig};
use crate::data::{Rows, pretrain_rows, sft_rows};
use crate::train::{Sections, Trainer};

/// `align sft`.
pub struct Sft {
    pub(crate) config: SftConfig,
    pub(crate) format: ChatFormat,
    pub(crate) inputs: Inputs,
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
        let inputs = Inputs {
            system_note: format.system_note(),
            untrained,
            end_tokens: |special| vec![special.im_end, special.endoftext],
            ..Inputs::new("sft", config, source, rows)
        };
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

    fn estimate(self) -> Outline {
        crate::plan::estimate(self.inputs)
    }

    fn doctor(self, progress: &mut dyn Progress) -> Result<Vec<Check>> {
        crate::doctor::sft(self, progress)
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

    fn estimate(self) -> Outline {
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

/// What a stage read, for the loop that both share.
pub(crate) struct Inputs {
    /// What run.json calls the stage.
    pub(crate) stage: &'static str,
    /// The resolved config.
    toml: String,
    pub(crate) sections: Sections,
    pub(crate) source: Source,
    pub(crate) rows: Rows,
    sources: Mixture,
    /// That the system text is not the template's.
    system_note: Option<String>,
    /// ChatML tokens that dialogues need and the checkpoint does not know.
    untrained: Vec<String>,
    /// What lies beside the files and is not read.
    passed_over: Option<(&'static str, Value)>,
    /// `data.max_tokens`.
    max_tokens: usize,
    /// Tokens at which the result stops generating.
    end_tokens: fn(&Special) -> Vec<i64>,
}

impl Inputs {
    /// Of text, which needs no chat format.
    fn new<D: DataSection>(stage: &'static str, config: &LmConfig<D>, source: Source, rows: Rows) -> Self
    where
        LmConfig<D>: align_core::config::Config,
    {
        let (train, mix, eval) = config.data.sources();
        Self {
            stage,
            toml: to_toml(config),
            sections: Sections::new(config),
            source,
            rows,
            sources: Mixture::new(train, mix),
            system_note: None,
            untrained: Vec::new(),
            passed_over: passed_over(source_paths(train, mix, eval)),
            max_tokens: config.data.max_tokens(),
            end_tokens: |special| vec![special.endoftext],
        }
    }

    /// What a resume must find unchanged.
    fn fingerprinted(&self) -> Result<Vec<Input>> {
        let mut inputs = self.sources.inputs();
        inputs.push(model_input("model.path", &self.sections.model.path)?);
        Ok(inputs)
    }

    /// What is said before the first step.
    pub(crate) fn outset(&self) -> Outset {
        let starts_from = match self.source.header.has_weights {
            true => format!("the weights in {}", self.sections.model.path.display()),
            false => format!("new random weights, seed {}", self.sections.train.seed),
        };
        let warnings = self.rows.misfits(&self.sections, self.max_tokens, &self.source.header.config);
        Outset { starts_from, warnings }
    }

    fn plan(&self) -> Result<Plan<'_>> {
        let mut facts = vec![("parameters", json!(self.source.header.num_parameters))];
        facts.extend(self.rows.facts());
        facts.extend(self.system_note.iter().map(|note| ("system text", json!(note))));
        facts.extend(self.passed_over.clone());
        if !self.untrained.is_empty() {
            let what = "their rows look as if they were never trained (a base checkpoint): the model has to learn here where answers end";
            facts.push(("untrained tokens", json!(format!("{}: {what}", self.untrained.join(", ")))));
        }
        Ok(Plan {
            stage: self.stage,
            section: &self.sections.run,
            config: self.toml.clone(),
            seed: self.sections.train.seed,
            steps: self.rows.batches.steps(),
            schedule: Some(&self.sections.schedule),
            facts,
            outset: self.outset(),
            skipped: &self.rows.skipped,
            inputs: self.fingerprinted()?,
        })
    }

    /// The model as it starts.
    pub(crate) fn model(&self, start: Start) -> Result<CausalLm> {
        let Sections { model: base, train, run, .. } = &self.sections;
        let Source { header, tokenizer, .. } = &self.source;
        let options = ModelOptions {
            device: checked_device(run.device()),
            compute: kind_of(base.dtype),
            trainable: true,
            recompute_layers: base.recompute_layers,
        };
        let mut model = if header.has_weights {
            CausalLm::load(&base.path, &options)?
        } else {
            let config = header.config.clone();
            let mut model = match start {
                Start::Checkpoint => CausalLm::blank(config, &options),
                Start::Models => CausalLm::random(config, train.seed, &options),
            };
            model.set_side_files(SideFiles::capture(&base.path)?);
            model
        };
        model.add_ends(&(self.end_tokens)(tokenizer.special()));
        Ok(model)
    }

    fn load(self, start: Start) -> Result<Trainer> {
        let model = self.model(start)?;
        Ok(self.trainer(model))
    }

    /// A trainer of this model, whose moments are zero.
    pub(crate) fn trainer(self, model: CausalLm) -> Trainer {
        Trainer::new(self.sections, self.rows, self.source.tokenizer, model)
    }
}

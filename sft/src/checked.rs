//! The checked inputs of sft or pretraining, for the training loop that they share.

use align_core::config::{Config, to_toml};
use align_core::error::Result;
use align_kernels::kind_of;
use align_model::{CausalLm, ModelOptions, SideFiles};
use align_run::run::Input;
use align_text::tokenizer::Special;
use align_train::stage::{
    Mixture, Outset, Plan, Source, Start, checked_device, ignored_files, model_input, source_paths,
};
use serde_json::{Value, json};

use crate::config::{DataSection, LmConfig, Sections};
use crate::data::Rows;
use crate::train::Trainer;

/// The checked config, model and data of a stage.
pub struct Inputs {
    /// The stage's name in run.json.
    pub(crate) stage: &'static str,
    /// The resolved config.
    toml: String,
    pub(crate) sections: Sections,
    pub(crate) source: Source,
    pub(crate) rows: Rows,
    sources: Mixture,
    /// A note that the system text is not the template's.
    pub(crate) system_note: Option<String>,
    /// ChatML tokens of the dialogues whose embedding rows look untrained.
    pub(crate) untrained_special_tokens: Vec<String>,
    /// Run metadata: files in data folders that are not read.
    ignored_files: Option<(&'static str, Value)>,
    /// `data.max_tokens`.
    max_tokens: usize,
    /// Tokens at which the trained model stops generating.
    pub(crate) end_tokens: fn(&Special) -> Vec<i64>,
}

impl Inputs {
    /// The inputs of a stage on plain text, without a chat format.
    pub(crate) fn new<D: DataSection>(stage: &'static str, config: &LmConfig<D>, source: Source, rows: Rows) -> Self
    where
        LmConfig<D>: Config,
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
            untrained_special_tokens: Vec::new(),
            ignored_files: ignored_files(source_paths(train, mix, eval)),
            max_tokens: config.data.max_tokens(),
            end_tokens: |special| vec![special.endoftext],
        }
    }

    /// Data and models, which must be unchanged on resume.
    pub(crate) fn fingerprinted(&self) -> Result<Vec<Input>> {
        let mut inputs = self.sources.inputs();
        inputs.push(model_input("model.path", &self.sections.model.path)?);
        Ok(inputs)
    }

    /// The initial model and the warnings, before the first step.
    pub(crate) fn outset(&self) -> Outset {
        let starts_from = match self.source.header.has_weights {
            true => format!("the weights in {}", self.sections.model.path.display()),
            false => format!("new random weights, seed {}", self.sections.train.seed),
        };
        let warnings = self.rows.warnings(&self.sections, self.max_tokens, &self.source.header.config);
        Outset { starts_from, warnings }
    }

    pub(crate) fn plan(&self) -> Result<Plan<'_>> {
        let mut metadata = vec![("parameters", json!(self.source.header.num_parameters))];
        metadata.extend(self.rows.metadata());
        metadata.extend(self.system_note.iter().map(|note| ("system text", json!(note))));
        metadata.extend(self.ignored_files.clone());
        if !self.untrained_special_tokens.is_empty() {
            let what = "their embedding rows look untrained (a base checkpoint): this run must teach the model where answers end";
            let tokens = self.untrained_special_tokens.join(", ");
            metadata.push(("untrained tokens", json!(format!("{tokens}: {what}"))));
        }
        Ok(Plan {
            stage: self.stage,
            section: &self.sections.run,
            config: self.toml.clone(),
            seed: self.sections.train.seed,
            steps: self.rows.batches.steps(),
            schedule: Some(&self.sections.schedule),
            metadata,
            outset: self.outset(),
            skipped: &self.rows.skipped,
            inputs: self.fingerprinted()?,
        })
    }

    /// The initial model.
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
        model.add_eos_token_ids(&(self.end_tokens)(tokenizer.special()));
        Ok(model)
    }

    pub(crate) fn load(self, start: Start) -> Result<Trainer> {
        let model = self.model(start)?;
        Ok(self.trainer(model))
    }

    /// A trainer of this model with zero moments.
    pub(crate) fn trainer(self, model: CausalLm) -> Trainer {
        Trainer::new(self.sections, self.rows, self.source.tokenizer, model)
    }
}

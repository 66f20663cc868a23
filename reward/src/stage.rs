//! `align rm` as a stage.

use align_core::config::{RunSection, to_toml};
use align_core::error::Result;
use align_core::progress::Progress;
use align_model::Face;
use align_run::run::Input;
use align_train::footprint::StepEstimate;
use align_train::stage::doctor::Check;
use align_train::stage::{Mixture, Outset, Plan, Stage, Start, ignored_files, model_input, source_paths};
use serde_json::json;

use crate::checked::Rm;
use crate::config::{RmConfig, Stage as RmStage};
use crate::train::Trainer;

impl Stage for Rm {
    type Config = RmConfig;
    type Trainer = Trainer;

    fn run_section(config: &RmConfig) -> &RunSection {
        &config.run
    }

    fn check(config: &RmConfig, _progress: &mut dyn Progress) -> Result<Self> {
        Self::read(config)
    }

    fn inputs(&self) -> Result<Vec<Input>> {
        let mut inputs = Mixture::new(&self.config.data.train, &self.config.data.mix).inputs();
        inputs.push(model_input("model.path", &self.config.model.path)?);
        Ok(inputs)
    }

    fn outset(&self) -> Outset {
        let starts_from = match self.source.header.face {
            Face::CausalLm => "a language model: the reward head is new",
            Face::Scalar => "a reward model: its head is kept",
        };
        Outset { starts_from: starts_from.to_owned(), warnings: self.warnings() }
    }

    fn plan(&self) -> Result<Plan<'_>> {
        let Self { config, source, format, rows } = self;
        let mut metadata = vec![("parameters", json!(source.header.num_parameters))];
        metadata.extend(rows.metadata());
        metadata.extend(format.system_note().map(|note| ("system text", json!(note))));
        metadata.extend(ignored_files(source_paths(&config.data.train, &config.data.mix, &config.data.eval)));
        Ok(Plan {
            stage: config.stage.map_or("", RmStage::name),
            section: &config.run,
            config: to_toml(config),
            seed: config.train.seed,
            steps: rows.batches.steps(),
            schedule: Some(&config.schedule),
            metadata,
            outset: self.outset(),
            skipped: &rows.skipped,
            inputs: self.inputs()?,
        })
    }

    fn load(self, _start: Start) -> Result<Trainer> {
        let model = self.model()?;
        Ok(self.trainer(model))
    }

    fn estimate(self) -> StepEstimate {
        crate::plan::estimate(self)
    }

    fn doctor(self, progress: &mut dyn Progress) -> Result<Vec<Check>> {
        crate::doctor::examine(self, progress)
    }
}

//! `align ppo` as a stage.

use align_core::config::{RunSection, to_toml};
use align_core::error::Result;
use align_core::progress::Progress;
use align_run::run::Input;
use align_train::footprint::StepEstimate;
use align_train::stage::doctor::Check;
use align_train::stage::{Outset, Plan, Stage, Start, ignored_files, model_input, rounded};
use serde_json::json;

use crate::checked::Ppo;
use crate::config::PpoConfig;
use crate::misfits::misfits;
use crate::session::Session;

impl Stage for Ppo {
    type Config = PpoConfig;
    type Trainer = Session;

    fn run_section(config: &PpoConfig) -> &RunSection {
        &config.run
    }

    fn check(config: &PpoConfig, _progress: &mut dyn Progress) -> Result<Self> {
        Self::read(config)
    }

    fn inputs(&self) -> Result<Vec<Input>> {
        let config = &self.config;
        let (data, models) = (&config.data, &config.models);
        let mut inputs = vec![Input::new("data.prompts", data.prompts.iter().cloned())];
        if config.ptx.coef > 0.0 {
            inputs.push(Input::new("data.pretrain", data.pretrain.iter().cloned()));
        }
        inputs.push(model_input("models.policy", &models.policy)?);
        inputs.push(model_input("models.reward", &models.reward)?);
        inputs.extend(models.value.as_ref().map(|path| model_input("models.value", path)).transpose()?);
        Ok(inputs)
    }

    fn outset(&self) -> Outset {
        let (config, models) = (&self.config, &self.config.models);
        let (policy, reward) = (models.policy.display(), models.reward.display());
        let starts_from = match &models.value {
            Some(value) => {
                format!("the policy in {policy}, the reward model in {reward}, the value model in {}", value.display())
            }
            None => {
                format!("the policy in {policy}, the reward model in {reward}, which also initialises the value model")
            }
        };
        let readers = [("models.policy", &self.policy.header.config), ("models.reward", &self.reward.header.config)];
        Outset { starts_from, warnings: misfits(config, &self.data, &readers) }
    }

    fn plan(&self) -> Result<Plan<'_>> {
        let config = &self.config;
        let mut metadata = vec![
            ("policy parameters", json!(self.policy.header.num_parameters)),
            ("reward parameters", json!(self.reward.header.num_parameters)),
        ];
        metadata.extend(self.data.metadata());
        metadata.extend([
            ("passes over the prompts", rounded(config.batches(self.data.prompts.tokens.len()).passes())),
            ("responses per step", json!(config.rollout_rows())),
        ]);
        metadata.extend(self.assumed.iter().map(|(key, assumed)| (*key, json!(assumed))));
        metadata.extend(self.format.system_note().map(|note| ("system text", json!(note))));
        metadata.extend(ignored_files([&config.data.prompts, &config.data.eval_prompts, &config.data.pretrain]));
        Ok(Plan {
            stage: "ppo",
            section: &config.run,
            config: to_toml(config),
            seed: config.ppo.seed,
            steps: config.ppo.steps,
            schedule: None,
            metadata,
            outset: self.outset(),
            skipped: &self.data.skipped,
            inputs: self.inputs()?,
        })
    }

    /// The initial models. A resume loads the weights of the checkpoint into the trained ones.
    fn load(self, _start: Start) -> Result<Session> {
        Session::load(self)
    }

    fn estimate(self) -> StepEstimate {
        crate::plan::estimate(self)
    }

    fn doctor(self, progress: &mut dyn Progress) -> Result<Vec<Check>> {
        crate::doctor::doctor(self, progress)
    }
}

//! The config of `align ppo` and its validation. Its defaults are in `sections`, those of shared
//! sections in `align_core`.

mod sections;

use std::path::PathBuf;

use align_core::config::{Config, DeviceSpec, Dtype, KeyDocs, RunSection, checks};
use align_core::error::Problems;
use align_data::{Batches, Length, Order};
use serde::{Deserialize, Serialize};

pub use sections::{GuardsSection, ModelsSection, PpoData, PpoSection, PtxSection, RewardSection, RolloutSection};

/// The models that a step trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The value model alone; the policy, its moments and its schedule do not change.
    ValueWarmup,
    /// Policy and value model.
    Ppo,
}

/// The distribution of a token's log-probability; the same for old, new and reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Logprobs {
    /// The whole softmax at the sampling temperature.
    Full,
    /// The nucleus recorded at rollout, renormalised.
    Nucleus,
}

/// The schedule of the KL penalty's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlControl {
    /// Constant.
    Fixed,
    /// Adapted to a target divergence.
    Adaptive,
}

/// The config of `align ppo`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "sections document themselves")]
pub struct PpoConfig {
    pub models: ModelsSection,
    pub data: PpoData,
    pub rollout: RolloutSection,
    pub reward: RewardSection,
    pub ppo: PpoSection,
    pub ptx: PtxSection,
    pub guards: GuardsSection,
    pub run: RunSection,
}

impl PpoConfig {
    /// Responses per step.
    pub fn rollout_rows(&self) -> usize {
        self.rollout.prompts_per_step * self.rollout.responses_per_prompt
    }

    /// Responses per optimizer step.
    pub fn minibatch_rows(&self) -> usize {
        self.ppo.minibatch_size.unwrap_or(self.rollout_rows())
    }

    /// What a step trains.
    pub fn phase(&self, step: u64) -> Phase {
        if step < self.ppo.value_warmup_steps { Phase::ValueWarmup } else { Phase::Ppo }
    }

    /// The prompts of each step, out of `num_prompts`.
    pub fn batches(&self, num_prompts: usize) -> Batches {
        let order = Order::new(&[num_prompts], None, self.data.shuffle.then_some(self.ppo.seed));
        Batches::new(order, self.rollout.prompts_per_step, Length::Steps(self.ppo.steps))
    }

    /// The checkpoint that initialises the value model.
    pub fn value_path(&self) -> &PathBuf {
        self.models.value.as_ref().unwrap_or(&self.models.reward)
    }

    /// The device of a model: that of its own key, or the device of the run.
    ///
    /// # Panics
    /// When the config was not validated.
    pub fn device(&self, named: &Option<String>) -> DeviceSpec {
        named.as_deref().map_or_else(|| self.run.device(), |text| text.parse().expect("validated"))
    }

    /// Dtype of reference and reward model.
    pub fn frozen_dtype(&self) -> Dtype {
        self.models.frozen_dtype.unwrap_or(self.models.dtype)
    }

    fn validate_models(&self, problems: &mut Problems) {
        checks::required(problems, "models.policy", &self.models.policy);
        checks::required(problems, "models.reward", &self.models.reward);
        let lowered = self.models.dtype == Dtype::Float32 && self.frozen_dtype() == Dtype::Bfloat16;
        if lowered && !self.models.frozen_dtype_ok {
            problems.push(
                "models.frozen_dtype",
                "beside a float32 policy the KL is then not 0 at step 0; set models.frozen_dtype_ok = true to accept that",
            );
        }
        for (key, named) in self.models.devices() {
            if let Some(text) = named {
                checks::device(problems, &format!("models.{key}"), text);
            }
        }
    }

    fn validate_ppo(&self, problems: &mut Problems) {
        let ppo = &self.ppo;
        checks::at_least_one(problems, "ppo.steps", ppo.steps);
        checks::at_least_one(problems, "ppo.epochs", ppo.epochs);
        checks::at_least_one(problems, "ppo.microbatch_tokens", ppo.microbatch_tokens as u64);
        if let Some(size) = ppo.minibatch_size {
            checks::at_least_one(problems, "ppo.minibatch_size", size as u64);
            if size > self.rollout_rows() {
                let rows = self.rollout_rows();
                problems.push("ppo.minibatch_size", format!("must be at most the {rows} responses of a rollout"));
            }
        }
        for (key, number) in
            [("cliprange", ppo.cliprange), ("cliprange_value", ppo.cliprange_value), ("grad_clip", ppo.grad_clip)]
        {
            checks::above_zero(problems, &format!("ppo.{key}"), number);
        }
        for (key, number) in [("gamma", ppo.gamma), ("gae_lambda", ppo.gae_lambda)] {
            if !(0.0..=1.0).contains(&number) {
                problems.push(format!("ppo.{key}"), "must be from 0 to 1");
            }
        }
        checks::at_least_zero(problems, "ppo.policy_lr", ppo.policy_lr);
        checks::at_least_zero(problems, "ppo.value_lr", ppo.value_lr);
    }
}

impl Config for PpoConfig {
    fn docs() -> Vec<(&'static str, KeyDocs)> {
        vec![
            ("models", ModelsSection::DOCS),
            ("data", PpoData::DOCS),
            ("rollout", RolloutSection::DOCS),
            ("reward", RewardSection::DOCS),
            ("ppo", PpoSection::DOCS),
            ("ptx", PtxSection::DOCS),
            ("guards", GuardsSection::DOCS),
            ("run", RunSection::DOCS),
        ]
    }

    fn find_files(&mut self) {
        align_data::find_files(&mut self.data.prompts);
        align_data::find_sets(&mut self.data.eval_prompts);
        align_data::find_files(&mut self.data.pretrain);
    }

    fn validate(&self, problems: &mut Problems) {
        self.validate_models(problems);
        checks::required_files(problems, "data.prompts", &self.data.prompts);
        if self.ptx.coef > 0.0 && self.data.pretrain.is_empty() {
            problems.push(
                "data.pretrain",
                "is required while ptx.coef is above 0: a file, a folder, a pattern, or an array of them",
            );
        }
        checks::at_least_one(problems, "data.max_prompt_tokens", self.data.max_prompt_tokens as u64);
        self.rollout.validate(problems);
        self.reward.validate(problems);
        self.validate_ppo(problems);
        checks::at_least_zero(problems, "ptx.coef", self.ptx.coef);
        checks::above_zero(problems, "ptx.tokens_per_ppo_token", self.ptx.tokens_per_ppo_token);
        self.guards.validate(problems);
        self.run.validate(problems);
    }
}

//! The sections of the config, each with its defaults.

use std::path::PathBuf;

use align_core::config::{Dtype, Files, checks};
use align_core::documented;
use align_core::error::Problems;
use align_data::BadRows;
use align_text::chatml::SYSTEM;
use align_train::stage::{Action, ScorePlace};

use super::{KlControl, Logprobs};
use crate::rewards::{MissingEnd, Normalize};

documented! {
    /// `[models]`: the four models.
    pub struct ModelsSection {
        /// The policy to train; as it stands, it also is the reference.
        pub policy: PathBuf,
        /// The reward model.
        pub reward: PathBuf,
        /// What the value model starts from; the reward model when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub value: Option<PathBuf>,
        /// Compute in "float32" or "bfloat16"; master weights and moments are fp32.
        pub dtype: Dtype,
        /// Dtype in which reference and reward model are kept; as `dtype` when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub frozen_dtype: Option<Dtype>,
        /// Allow a bfloat16 reference beside a float32 policy; the KL is then not 0 at step 0.
        pub frozen_dtype_ok: bool,
        /// Keep no activations inside layers and compute them again on the way back.
        pub recompute_layers: bool,
        /// Where the policy computes, in the words of `run.device`, which holds when absent; the same for the other three.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub policy_device: Option<String>,
        /// Where the reference computes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reference_device: Option<String>,
        /// Where the value model computes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub value_device: Option<String>,
        /// Where the reward model computes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reward_device: Option<String>,
    }
}

impl Default for ModelsSection {
    fn default() -> Self {
        Self {
            policy: PathBuf::new(),
            reward: PathBuf::new(),
            value: None,
            dtype: Dtype::Float32,
            frozen_dtype: None,
            frozen_dtype_ok: false,
            recompute_layers: false,
            policy_device: None,
            reference_device: None,
            value_device: None,
            reward_device: None,
        }
    }
}

impl ModelsSection {
    /// The devices that are named, by key.
    pub(crate) fn devices(&self) -> [(&'static str, &Option<String>); 4] {
        [
            ("policy_device", &self.policy_device),
            ("reference_device", &self.reference_device),
            ("value_device", &self.value_device),
            ("reward_device", &self.reward_device),
        ]
    }
}

documented! {
    /// `[data]` of ppo.
    pub struct PpoData {
        /// Prompts to train on ({"prompt"} rows): files, folders, patterns.
        pub prompts: Files,
        /// Held-out prompts; each file is measured for itself, a folder as one.
        pub eval_prompts: Files,
        /// Pretraining text for the pretrained gradient; required while `ptx.coef` is above 0.
        pub pretrain: Files,
        /// Longer prompts are left out and counted. Our choice.
        pub max_prompt_tokens: usize,
        /// Inserted where the first message is not a system message; "" inserts none.
        pub system: String,
        /// Shuffle the prompts; false takes them in file order.
        pub shuffle: bool,
        /// Bad rows: "error", or "skip", which counts and names them.
        pub bad_rows: BadRows,
    }
}

impl Default for PpoData {
    fn default() -> Self {
        Self {
            prompts: Files::default(),
            eval_prompts: Files::default(),
            pretrain: Files::default(),
            max_prompt_tokens: 1024,
            system: SYSTEM.to_owned(),
            shuffle: true,
            bad_rows: BadRows::Error,
        }
    }
}

documented! {
    /// `[rollout]`: sampling responses.
    pub struct RolloutSection {
        /// Prompts per step. Our choice.
        pub prompts_per_step: usize,
        /// Responses to each prompt. Qwen report §3.2.2.
        pub responses_per_prompt: usize,
        /// Longest response, in tokens. Our choice.
        pub max_response_tokens: usize,
        /// Softmax temperature. Our choice.
        pub temperature: f64,
        /// Sample from the smallest set of tokens that holds this probability. Qwen report §3.2.2.
        pub top_p: f64,
        /// Log-probabilities over the "full" softmax or renormalised over the "nucleus" recorded at rollout. Our choice.
        pub logprobs: Logprobs,
        /// The score of a response without an end token is kept ("none"), lowered ("subtract") or replaced ("replace"). Our choice.
        pub missing_end: MissingEnd,
        /// By how much, or with what. Our choice.
        pub missing_end_value: f64,
    }
}

impl Default for RolloutSection {
    fn default() -> Self {
        Self {
            prompts_per_step: 64,
            responses_per_prompt: 2,
            max_response_tokens: 512,
            temperature: 1.0,
            top_p: 0.9,
            logprobs: Logprobs::Full,
            missing_end: MissingEnd::Subtract,
            missing_end_value: 1.0,
        }
    }
}

impl RolloutSection {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, count) in [
            ("prompts_per_step", self.prompts_per_step),
            ("responses_per_prompt", self.responses_per_prompt),
            ("max_response_tokens", self.max_response_tokens),
        ] {
            checks::at_least_one(problems, &format!("rollout.{key}"), count as u64);
        }
        checks::above_zero(problems, "rollout.temperature", self.temperature);
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            problems.push("rollout.top_p", "must be above 0 and at most 1");
        }
        if !self.missing_end_value.is_finite() {
            problems.push("rollout.missing_end_value", "must be a number");
        }
    }
}

documented! {
    /// `[reward]`: from scores to rewards.
    pub struct RewardSection {
        /// Weight of the KL penalty, per token. Qwen report §3.2.2.
        pub kl_coef: f64,
        /// "fixed", or "adaptive" towards `kl_target`. Qwen report §3.2.2: fixed.
        pub kl_controller: KlControl,
        /// The divergence that "adaptive" aims at, in nats a response. 6, as in arXiv 1909.08593.
        pub kl_target: f64,
        /// Responses until "adaptive" has answered an error in full. 10000, as in arXiv 1909.08593.
        pub kl_horizon: f64,
        /// Scores are normalised by "none", "running-mean" or "running-mean-std". Qwen report §3.2.2: running mean.
        pub normalize: Normalize,
        /// The normalised score is held within ± this; unbounded when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub clip: Option<f64>,
        /// At which token the reward model's score is read: "auto" (as its align.json says; without one at the last token that its chat
        /// template writes, where other programs train), "end" (`<|im_end|>`) or "last". Our choice.
        pub score_at: ScorePlace,
        /// The system text that the reward model reads where a prompt has none; absent: its own, and where align.json has one, it must
        /// be data.system. Our choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub system: Option<String>,
        /// A second reward model, which scores held-out responses and never trains: it may see what fools the first. Our choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub second: Option<PathBuf>,
        /// As `score_at`, of the second reward model. Our choice.
        pub second_score_at: ScorePlace,
        /// As `system`, of the second reward model. Our choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub second_system: Option<String>,
    }
}

impl Default for RewardSection {
    fn default() -> Self {
        Self {
            kl_coef: 0.04,
            kl_controller: KlControl::Fixed,
            kl_target: 6.0,
            kl_horizon: 10000.0,
            normalize: Normalize::RunningMean,
            clip: None,
            score_at: ScorePlace::Auto,
            system: None,
            second: None,
            second_score_at: ScorePlace::Auto,
            second_system: None,
        }
    }
}

impl RewardSection {
    pub(super) fn validate(&self, problems: &mut Problems) {
        checks::at_least_zero(problems, "reward.kl_coef", self.kl_coef);
        checks::above_zero(problems, "reward.kl_target", self.kl_target);
        checks::above_zero(problems, "reward.kl_horizon", self.kl_horizon);
        checks::above_zero(problems, "reward.clip", self.clip.unwrap_or(1.0));
    }
}

documented! {
    /// `[ppo]`: learning.
    pub struct PpoSection {
        /// Steps, the value warm-up included. Our choice.
        pub steps: u64,
        /// First steps, in which the value model learns alone. Qwen report §3.2.2.
        pub value_warmup_steps: u64,
        /// Passes over each rollout. Our choice.
        pub epochs: u64,
        /// Responses per optimiser step; the whole rollout when absent. Our choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub minibatch_size: Option<usize>,
        /// Tokens computed at once: memory, not numbers; a longer prompt group goes alone. Our choice.
        pub microbatch_tokens: usize,
        /// Policy clip range. Our choice, as in arXiv 1707.06347.
        pub cliprange: f64,
        /// Value clip range. Qwen report §3.2.2.
        pub cliprange_value: f64,
        /// Discount per token. Our choice.
        pub gamma: f64,
        /// λ of generalised advantage estimation. Our choice.
        pub gae_lambda: f64,
        /// Bring advantages to mean 0 and variance 1 over the rollout. Our choice.
        pub whiten_advantages: bool,
        /// Learning rate of the policy. Qwen report §3.2.2.
        pub policy_lr: f64,
        /// Learning rate of the value model. Qwen report §3.2.2.
        pub value_lr: f64,
        /// Each gradient's norm is clipped to this. Our choice.
        pub grad_clip: f64,
        /// Seed of prompt order, sampling and minibatches.
        pub seed: u64,
    }
}

impl Default for PpoSection {
    fn default() -> Self {
        Self {
            steps: 1000,
            value_warmup_steps: 50,
            epochs: 1,
            minibatch_size: None,
            microbatch_tokens: 8192,
            cliprange: 0.2,
            cliprange_value: 0.15,
            gamma: 1.0,
            gae_lambda: 0.95,
            whiten_advantages: true,
            policy_lr: 1e-6,
            value_lr: 5e-6,
            grad_clip: 1.0,
            seed: 0,
        }
    }
}

documented! {
    /// `[ptx]`: the pretrained gradient.
    pub struct PtxSection {
        /// Weight of the pretraining loss beside the PPO loss; 0 turns it off. Our choice.
        pub coef: f64,
        /// Pretraining tokens for every response token. The report asks for far more pretraining text than PPO text; 4 is ours.
        pub tokens_per_ppo_token: f64,
    }
}

impl Default for PtxSection {
    fn default() -> Self {
        Self { coef: 0.1, tokens_per_ppo_token: 4.0 }
    }
}

documented! {
    /// `[guards]`: when a run has gone wrong. Limits and what to do are our choice; every breach is told and recorded.
    pub struct GuardsSection {
        /// When a limit stays broken for `patience` steps: "warn" only, "stop", or "rollback", which makes the last checkpoint from before
        /// the result and stops. A number that is not finite ends the run at once, with "warn" too.
        pub action: Action,
        /// Steps in a row that a limit may be broken, and evaluations in a row that may speak against the run.
        pub patience: u64,
        /// Most nats a response that the policy may be from the reference (kl/ref).
        pub kl_max: f64,
        /// Least entropy, as a share of the first step's.
        pub entropy_min: f64,
        /// Least mean length of responses, as a share of the first step's.
        pub length_min: f64,
        /// Most mean length of responses, as a multiple of the first step's.
        pub length_max: f64,
        /// Largest share of prompts whose responses may all be the same.
        pub identical_max: f64,
    }
}

impl Default for GuardsSection {
    fn default() -> Self {
        Self {
            action: Action::Warn,
            patience: 3,
            kl_max: 50.0,
            entropy_min: 0.05,
            length_min: 0.2,
            length_max: 3.0,
            identical_max: 0.95,
        }
    }
}

impl GuardsSection {
    pub(super) fn validate(&self, problems: &mut Problems) {
        checks::at_least_one(problems, "guards.patience", self.patience);
        for (key, number) in [
            ("kl_max", self.kl_max),
            ("entropy_min", self.entropy_min),
            ("length_min", self.length_min),
            ("length_max", self.length_max),
            ("identical_max", self.identical_max),
        ] {
            checks::at_least_zero(problems, &format!("guards.{key}"), number);
        }
    }
}

//! The sections of the config, each with its defaults.

use std::path::PathBuf;

use align_core::config::{Dtype, Files, checks};
use align_core::documented;
use align_core::error::Problems;
use align_data::BadRows;
use align_text::chatml::SYSTEM;
use align_train::stage::{Action, ScorePosition};

use super::{KlControl, Logprobs};
use crate::rewards::{MissingEnd, Normalize};

documented! {
    /// `[models]`: the four models.
    pub struct ModelsSection {
        /// The policy to train: a checkpoint folder. Its initial weights are also the reference.
        pub policy: PathBuf,
        /// The reward model: a checkpoint folder.
        pub reward: PathBuf,
        /// What the value model starts from; `reward` when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub value: Option<PathBuf>,
        /// Compute in "float32" or "bfloat16"; master weights, gradients and moments are fp32 either way. On
        /// a CPU responses are sampled with the fp32 weights.
        pub dtype: Dtype,
        /// Dtype of the weights of reference and reward model; `dtype` when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub frozen_dtype: Option<Dtype>,
        /// Allow a bfloat16 reference beside a float32 policy; the KL is then not 0 at step 0.
        pub frozen_dtype_ok: bool,
        /// Save no activations inside layers and recompute them in the backward pass: less memory, about a
        /// third more time.
        pub recompute_layers: bool,
        /// Device of the policy, as in `run.device`, which is used when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub policy_device: Option<String>,
        /// Device of the reference, as `policy_device`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reference_device: Option<String>,
        /// Device of the value model, as `policy_device`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub value_device: Option<String>,
        /// Device of the reward model, as `policy_device`.
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
        /// Prompts to train on ({"prompt"} rows): files, folders or patterns.
        pub prompts: Files,
        /// Held-out prompts; each file is measured separately, a folder as one set.
        pub eval_prompts: Files,
        /// Pretraining text for the pretrained gradient; required when `ptx.coef` is above 0.
        pub pretrain: Files,
        /// Longest prompt, in tokens; longer ones are left out and counted. Our choice.
        pub max_prompt_tokens: usize,
        /// System text for a prompt that has none. "" inserts none; "template" inserts what the checkpoint's
        /// chat template would.
        pub system: String,
        /// Shuffle the prompts; false takes them in file order.
        pub shuffle: bool,
        /// Bad rows: "error" names them and refuses the data; "skip" leaves them out, counted and named.
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
        /// Responses sampled for each prompt. Qwen report §3.2.2.
        pub responses_per_prompt: usize,
        /// Longest response, in tokens. Our choice.
        pub max_response_tokens: usize,
        /// Softmax temperature. Our choice.
        pub temperature: f64,
        /// Nucleus sampling: sample from the smallest set of tokens that holds this probability. Qwen report
        /// §3.2.2.
        pub top_p: f64,
        /// Log-probabilities over the "full" softmax at the sampling temperature, or renormalised over the
        /// "nucleus" recorded at rollout; one convention for old, new and reference. Our choice.
        pub logprobs: Logprobs,
        /// The score of a response without an end token is kept ("none"), lowered by `missing_end_value`
        /// ("subtract") or replaced by it ("replace"). Our choice.
        pub missing_end: MissingEnd,
        /// By how much `missing_end` lowers the score, or what replaces it. Our choice.
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
        /// Target KL of "adaptive", in nats per response. 6, as in arXiv 1909.08593.
        pub kl_target: f64,
        /// Responses over which "adaptive" corrects an error in full. 10000, as in arXiv 1909.08593.
        pub kl_horizon: f64,
        /// Normalise scores: "none", "running-mean" (subtract it) or "running-mean-std" (also divide by the
        /// standard deviation). Qwen report §3.2.2: running mean.
        pub normalize: Normalize,
        /// The normalised score is clipped to ± this; unbounded when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub clip: Option<f64>,
        /// At which token the reward model's score is read: "end" (`<|im_end|>`), "last" (the last token that
        /// its chat template writes, where other programs train), or "auto": as align.json says, "last"
        /// without one. Our choice.
        pub score_at: ScorePosition,
        /// System text that the reward model reads for a prompt that has none. When absent: align.json's,
        /// which must equal `data.system`, or the chat template's for a model without align.json. Our choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub system: Option<String>,
        /// A second reward model, on the first one's device, which scores held-out responses only: it may
        /// reveal what fools the first. Our choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub second: Option<PathBuf>,
        /// As `score_at`, for the second reward model. Our choice.
        pub second_score_at: ScorePosition,
        /// As `system`, for the second reward model. Our choice.
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
            score_at: ScorePosition::Auto,
            system: None,
            second: None,
            second_score_at: ScorePosition::Auto,
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
        /// First steps, in which only the value model is trained. Qwen report §3.2.2.
        pub value_warmup_steps: u64,
        /// Passes over each rollout. Our choice.
        pub epochs: u64,
        /// Responses per optimizer step; the whole rollout when absent. Our choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub minibatch_size: Option<usize>,
        /// Maximum tokens computed at once; a longer prompt group is computed alone. Changes memory use, not
        /// results. Our choice.
        pub microbatch_tokens: usize,
        /// Clip range of the policy's ratio. Our choice, as in arXiv 1707.06347.
        pub cliprange: f64,
        /// Clip range of the values around the old ones. Qwen report §3.2.2.
        pub cliprange_value: f64,
        /// Discount per token. Our choice.
        pub gamma: f64,
        /// λ of generalised advantage estimation. Our choice.
        pub gae_lambda: f64,
        /// Whiten advantages to mean 0 and variance 1 over the whole rollout. Our choice.
        pub whiten_advantages: bool,
        /// Learning rate of the policy: AdamW, β 0.9 and 0.95, ε 1e-8, no weight decay, constant. Qwen report
        /// §3.2.2 (the rate).
        pub policy_lr: f64,
        /// Learning rate of the value model, with the same optimizer. Qwen report §3.2.2 (the rate).
        pub value_lr: f64,
        /// Each model's gradient norm is clipped to this. Our choice.
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
        /// Weight of the pretraining loss added to the PPO loss; 0 turns it off. Our choice.
        pub coef: f64,
        /// Pretraining tokens per response token. The report asks for far more pretraining text than PPO
        /// text; 4 is our choice.
        pub tokens_per_ppo_token: f64,
    }
}

impl Default for PtxSection {
    fn default() -> Self {
        Self { coef: 0.1, tokens_per_ppo_token: 4.0 }
    }
}

documented! {
    /// `[guards]`: when a run has gone wrong. Limits and actions are our choice; every breach is reported and
    /// recorded.
    pub struct GuardsSection {
        /// When a limit stays broken for `patience` steps: "warn" only, "stop" the run, or "rollback": stop,
        /// with the last checkpoint from before as the result. A non-finite loss or gradient ends the run at
        /// once, whatever this says.
        pub action: Action,
        /// Steps in a row that a limit may be broken, and evaluations in a row that may show a warning sign.
        pub patience: u64,
        /// Maximum KL from the reference, in nats per response (`kl/ref`).
        pub kl_max: f64,
        /// Minimum entropy, as a fraction of the first step's.
        pub entropy_min: f64,
        /// Minimum mean response length, as a fraction of the first step's.
        pub length_min: f64,
        /// Maximum mean response length, as a multiple of the first step's.
        pub length_max: f64,
        /// Maximum fraction of prompts whose responses are all the same.
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

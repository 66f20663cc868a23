//! The four models, and their evaluation of a rollout.

use align_kernels::HOST;
use align_model::{CausalLm, Forward, Over, ScalarModel};
use tch::{Kind, Tensor};

use crate::config::Phase;
use crate::masked;
use crate::rollout::{Layout, Reading, Rollout, Rows};
use crate::trajectory::RolloutStats;

/// The models of PPO.
pub struct Models {
    /// Samples the responses; trained.
    pub policy: CausalLm,
    /// The policy as it was before the first step; frozen.
    pub ref_policy: CausalLm,
    /// Predicts the return before every token; trained.
    pub value_model: ScalarModel,
    /// Scores whole responses; frozen.
    pub reward_model: ScalarModel,
}

/// The convention of log-probabilities: of the softmax at the sampling temperature, either full or
/// renormalised over the nucleus recorded at rollout. The same for old, new and reference.
#[derive(Debug, Clone, Copy)]
pub struct Convention {
    /// The sampling temperature.
    pub temperature: f64,
    /// Whether to renormalise over the recorded nucleus.
    pub nucleus: bool,
}

impl Convention {
    /// Runs `with` under this convention for the tokens of `rows`.
    pub fn over<T>(&self, rollout: &Rollout, rows: &[usize], with: impl FnOnce(&Over) -> T) -> T {
        if !self.nucleus {
            return with(&Over { temperature: self.temperature, nucleus: None });
        }
        let nucleus: Vec<Vec<i64>> =
            rows.iter().flat_map(|row| rollout.responses[*row].nucleus.iter().cloned()).collect();
        with(&Over { temperature: self.temperature, nucleus: Some(&nucleus) })
    }
}

/// The forward pass that gives the log-probabilities of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferencePass {
    /// That of the reference.
    Own,
    /// That of the policy, whose weights still equal those of the reference, if both compute in the same
    /// dtype; otherwise that of the reference.
    OfPolicy,
}

/// Forward passes of the evaluation that the first update reuses.
pub struct ReusedForward {
    /// The policy's, at the indices that predict response tokens (N), in a phase that trains the policy.
    pub policy: Option<Forward>,
    /// The value model's.
    pub value_model: ValueForward,
}

/// The value model's forward pass in training, at the indices that predict response tokens (N).
pub struct ValueForward {
    /// The value before every response token (N), differentiable.
    pub values: Tensor,
    /// The saved forward pass, for its backward pass.
    pub forward: Forward,
}

/// The evaluation of response tokens by the models, flat (N).
#[derive(Default)]
struct FlatStats {
    old_logprobs: Vec<f32>,
    ref_logprobs: Vec<f32>,
    values: Vec<f32>,
    entropy: Vec<f32>,
}

impl FlatStats {
    fn into_tables(self, lengths: &[usize]) -> RolloutStats {
        RolloutStats {
            old_logprobs: masked::table(&self.old_logprobs, lengths),
            ref_logprobs: masked::table(&self.ref_logprobs, lengths),
            values: masked::table(&self.values, lengths),
            entropy: masked::table(&self.entropy, lengths),
        }
    }
}

impl Models {
    /// Log-probabilities, values and entropies of every response token, computed with the code, dtype and
    /// microbatches of the update.
    pub fn evaluate(
        &self,
        rollout: &Rollout,
        microbatches: &[Rows],
        convention: Convention,
        reference: ReferencePass,
    ) -> RolloutStats {
        let mut stats = FlatStats::default();
        for rows in microbatches {
            self.evaluate_rows(rollout, rows, convention, reference, None, &mut stats);
        }
        stats.into_tables(&rollout.lengths())
    }

    /// As [`Models::evaluate`], for a rollout that is a single microbatch and the first minibatch. The
    /// forward passes of the models that `phase` trains are saved, and the update reuses them.
    pub fn evaluate_for_update(
        &self,
        rollout: &Rollout,
        convention: Convention,
        reference: ReferencePass,
        phase: Phase,
    ) -> (RolloutStats, ReusedForward) {
        let mut stats = FlatStats::default();
        let reused = self.evaluate_rows(rollout, &rollout.rows(), convention, reference, Some(phase), &mut stats);
        (stats.into_tables(&rollout.lengths()), reused.expect("a phase trains the value model"))
    }

    /// Adds the log-probabilities, values and entropies of the tokens of `rows`. The forward passes of the
    /// models that `trained` trains are saved.
    fn evaluate_rows(
        &self,
        rollout: &Rollout,
        rows: &[usize],
        convention: Convention,
        reference: ReferencePass,
        trained: Option<Phase>,
        stats: &mut FlatStats,
    ) -> Option<ReusedForward> {
        let layout = rollout.layout(rows, self.policy.device());
        let is_shared = reference == ReferencePass::OfPolicy && self.policy.computes_like(&self.ref_policy);
        let token_stats = |model: &CausalLm, hidden: &Tensor| {
            convention.over(rollout, rows, |over| {
                model.logprobs(&hidden.detach(), &layout.tokens.to_device(model.device()), over)
            })
        };
        let ref_logprobs = (!is_shared).then(|| {
            let hidden = hidden_before_tokens(&self.ref_policy, &layout);
            host(&token_stats(&self.ref_policy, &hidden).logprobs)
        });
        let forward = (trained == Some(Phase::Ppo)).then(|| forward_before_tokens(&self.policy, &layout));
        let policy = match &forward {
            Some(forward) => token_stats(&self.policy, &forward.hidden),
            None => token_stats(&self.policy, &hidden_before_tokens(&self.policy, &layout)),
        };
        let logprobs = host(&policy.logprobs);
        stats.ref_logprobs.extend(ref_logprobs.as_ref().unwrap_or(&logprobs));
        stats.old_logprobs.extend(logprobs);
        stats.entropy.extend(host(&policy.entropy));
        let value_model = trained.map(|_| ValueForward::before_tokens(&self.value_model, &layout));
        stats.values.extend(match &value_model {
            Some(forward) => host(&forward.values.detach()),
            None => host(&values_before_tokens(&self.value_model, &layout)),
        });
        value_model.map(|value_model| ReusedForward { policy: forward, value_model })
    }
}

/// Raw scores of the rows of `microbatches`, read at the token that `reading` gives.
///
/// # Shapes
/// (rows) in order.
pub fn score(
    reward_model: &ScalarModel,
    rollout: &Rollout,
    microbatches: &[Rows],
    end_id: i64,
    reading: &Reading,
) -> Vec<f64> {
    let _no_grad = tch::no_grad_guard();
    let mut scores = Vec::new();
    for rows in microbatches {
        let (flat, ends) = rollout.reward_model_batch(rows, end_id, reading, reward_model.device());
        let hidden = reward_model.hidden_at(&flat, &ends, None); // (rows, D)
        scores.extend(host(&reward_model.scalars(&hidden)).into_iter().map(f64::from));
    }
    scores
}

/// The policy's hidden states before every response token (N, D).
fn hidden_before_tokens(model: &CausalLm, layout: &Layout) -> Tensor {
    model.hidden_at(&layout.flat, &layout.predict_indices.to_device(model.device()), None)
}

/// The policy's forward pass in training, at the indices that predict response tokens.
pub fn forward_before_tokens(model: &CausalLm, layout: &Layout) -> Forward {
    model.forward_train(&layout.flat, Some(&layout.predict_indices.to_device(model.device())), None)
}

/// The value before every response token (N).
fn values_before_tokens(model: &ScalarModel, layout: &Layout) -> Tensor {
    let indices = layout.predict_indices.to_device(model.device());
    tch::no_grad(|| model.scalars(&model.hidden_at(&layout.flat, &indices, None)))
}

impl ValueForward {
    /// The forward pass of a layout, in training.
    pub fn before_tokens(model: &ScalarModel, layout: &Layout) -> Self {
        let indices = layout.predict_indices.to_device(model.device());
        let forward = model.forward_train(&layout.flat, Some(&indices), None);
        Self { values: model.scalars(&forward.hidden), forward }
    }
}

fn host(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).to_device(HOST)).expect("a flat fp32 tensor")
}

//! The four models, and who is frozen.

use align_model::Over;
use align_model::{CausalLm, ScalarModel};
use tch::{Kind, Tensor};

use crate::rollout::{Layout, Reading, Rollout};
use crate::train::Phase;

/// Policy and value model are trained; the reference and the reward model never change.
pub struct Models {
    /// Writes the responses; trained.
    pub policy: CausalLm,
    /// The policy as it was before the first step; frozen.
    pub ref_policy: CausalLm,
    /// Predicts the rest of the rewards before every token; trained.
    pub value_model: ScalarModel,
    /// Scores whole responses; frozen.
    pub reward_model: ScalarModel,
}

/// What policy, reference and value model think of every response token, in the order of rows.
#[derive(Debug, Clone, Default)]
pub struct Opinions {
    /// (N) log-probabilities under the policy that is about to be trained.
    pub old_logprobs: Vec<f32>,
    /// (N) log-probabilities under the reference.
    pub ref_logprobs: Vec<f32>,
    /// (N) values before each token.
    pub values: Vec<f32>,
    /// (N) entropy of the policy's distribution before each token, in nats.
    pub entropy: Vec<f32>,
}

/// How log-probabilities are taken: over the softmax at the sampling temperature, whole or renormalised over the nucleus that
/// was recorded at rollout. One convention for old, new and reference.
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

impl Models {
    /// Log-probabilities, values and entropies of every response token, by the code, dtype and microbatches of the update. While
    /// the policy has not moved it is its own reference, and one pass serves both. With `ahead`, the passes through the models that
    /// this phase trains are those of the update, which goes on from them: for a rollout that is one microbatch.
    pub fn opine(
        &self,
        rollout: &Rollout,
        microbatches: &[Vec<usize>],
        convention: Convention,
        policy_moved: bool,
        ahead: Option<Phase>,
    ) -> (Opinions, Option<Ahead>) {
        let mut opinions = Opinions::default();
        let mut kept = None;
        let one_pass = !policy_moved && self.policy.computes_like(&self.ref_policy);
        let with_grad_if = |with: bool, pass: &dyn Fn() -> Tensor| if with { pass() } else { tch::no_grad(pass) };
        for rows in microbatches {
            let layout = rollout.layout(rows, self.policy.device());
            let stats = |model: &CausalLm, hidden: &Tensor| {
                convention.over(rollout, rows, |over| {
                    model.logprobs(&hidden.detach(), &layout.tokens.to_device(model.device()), over)
                })
            };
            let reference = (!one_pass).then(|| {
                let hidden = tch::no_grad(|| before(&self.ref_policy, &layout));
                host(&stats(&self.ref_policy, &hidden).logprobs)
            });
            let hidden = with_grad_if(ahead == Some(Phase::Ppo), &|| before(&self.policy, &layout));
            let policy = stats(&self.policy, &hidden);
            let logprobs = host(&policy.logprobs);
            opinions.ref_logprobs.extend(reference.as_ref().unwrap_or(&logprobs));
            opinions.old_logprobs.extend(logprobs);
            opinions.entropy.extend(host(&policy.entropy));
            let values = with_grad_if(ahead.is_some(), &|| values(&self.value_model, &layout));
            opinions.values.extend(host(&values.detach()));
            kept = ahead.map(|_| Ahead { hidden, values });
        }
        (opinions, kept)
    }
}

/// Passes of the first update that were taken when responses were judged, with their graphs.
pub struct Ahead {
    /// The policy's hidden states before each response token (N, D); with a graph only where the policy is trained.
    pub hidden: Tensor,
    /// Values before each response token (N).
    pub values: Tensor,
}

/// Raw scores of the rows of `microbatches`: a reward model at the end token, or where `reading` says.
///
/// # Shapes
/// (rows) in order.
pub fn score(
    reward_model: &ScalarModel,
    rollout: &Rollout,
    microbatches: &[Vec<usize>],
    end_id: i64,
    reading: &Reading,
) -> Vec<f64> {
    let _no_grad = tch::no_grad_guard();
    let mut scores = Vec::new();
    for rows in microbatches {
        let (flat, ends) = rollout.scored(rows, end_id, reading, reward_model.device());
        let hidden = reward_model.hidden_at(&flat, &ends, None); // (rows, D)
        scores.extend(host(&reward_model.scalars(&hidden)).into_iter().map(f64::from));
    }
    scores
}

/// The policy's hidden states before every response token (N, D), differentiable.
pub fn before(model: &CausalLm, layout: &Layout) -> Tensor {
    model.hidden_at(&layout.flat, &layout.before.to_device(model.device()), None)
}

/// The value before every response token (N), differentiable.
pub fn values(model: &ScalarModel, layout: &Layout) -> Tensor {
    model.scalars(&model.hidden_at(&layout.flat, &layout.before.to_device(model.device()), None))
}

fn host(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).to_device(align_kernels::HOST)).expect("a flat fp32 tensor")
}

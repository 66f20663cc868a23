//! A rollout with everything that a step computes from it. Per-token values are (B, R) tables in f64: models
//! return them flat in fp32 ([`masked::table`]), and losses and records use them flat in fp32 again
//! ([`Trajectory::flat`]).

use ndarray::Axis;
use tch::{Device, Tensor};

use crate::masked::{self, Mask, Table};
use crate::rollout::Rollout;

/// The evaluation of a rollout by policy, reference and value model, before any update. All (B, R).
#[derive(Debug, Clone)]
pub struct RolloutStats {
    /// Log-probabilities under the policy before the update.
    pub old_logprobs: Table,
    /// Log-probabilities under the reference.
    pub ref_logprobs: Table,
    /// Values before each token.
    pub values: Table,
    /// Entropy of the policy's distribution before each token, in nats.
    pub entropy: Table,
}

/// A step's rollout, its evaluation by the models, and the targets of the update.
#[derive(Debug, Clone)]
pub struct Trajectory {
    /// Prompts and responses.
    pub rollout: Rollout,
    /// (B, R) true where a response has a token.
    pub response_mask: Mask,
    /// Log-probabilities, values and entropies before the update.
    pub stats: RolloutStats,
    /// (B) raw scores.
    pub scores: Vec<f64>,
    /// (B) scores after missing-end handling, normalising and clipping.
    pub normalized_scores: Vec<f64>,
    /// (B, R) k1 against the reference.
    pub kl: Table,
    /// (B, R) the KL penalty, and the normalised score on the last token.
    pub rewards: Table,
    /// (B, R) advantages, whitened if `ppo.whiten_advantages` is set.
    pub advantages: Table,
    /// (B, R) the targets of the value model.
    pub returns: Table,
}

impl Trajectory {
    /// A table's values for the tokens of some responses, in the order of `rows`, in fp32.
    ///
    /// # Shapes
    /// `table` (B, R) → (N).
    pub fn flat(&self, table: &Table, rows: &[usize]) -> Vec<f32> {
        let (table, mask) = (table.select(Axis(0), rows), self.response_mask.select(Axis(0), rows));
        masked::flat(&table, &mask).into_iter().map(|number| number as f32).collect()
    }

    /// As [`Trajectory::flat`], as a tensor on a device.
    pub fn flat_tensor(&self, table: &Table, rows: &[usize], device: Device) -> Tensor {
        Tensor::from_slice(&self.flat(table, rows)).to_device(device)
    }

    /// The responses with their scores and divergences.
    pub fn scored(&self) -> ScoredRollout {
        ScoredRollout {
            rollout: self.rollout.clone(),
            scores: self.scores.clone(),
            kl: masked::row_sums(&self.kl, &self.response_mask),
        }
    }
}

/// Responses with their scores and divergences, for samples, histograms and held-out metrics.
#[derive(Debug, Clone)]
pub struct ScoredRollout {
    /// Prompts and responses.
    pub rollout: Rollout,
    /// (B) raw scores.
    pub scores: Vec<f64>,
    /// (B) Σ k1 over each response.
    pub kl: Vec<f64>,
}

//! What one step worked on, in full: enough to compute its numbers again by other means.

use serde_json::{Value, json};

use crate::models::Opinions;
use crate::rollout::Rollout;

/// A step's rollout, what the models thought of it, and the targets that were made of that. Vectors over response tokens (N) are in
/// the order of rows.
#[derive(Debug, Clone)]
pub struct Record {
    /// The step, 0-based.
    pub step: u64,
    /// Prompts and responses.
    pub rollout: Rollout,
    /// (N) log-probabilities and values before the update.
    pub opinions: Opinions,
    /// (B) raw scores.
    pub scores: Vec<f64>,
    /// (B) scores after missing-end handling, normalising and clipping.
    pub scores_shaped: Vec<f64>,
    /// (N) per-token rewards: KL penalty, and the score at the end.
    pub rewards: Vec<f32>,
    /// (N) advantages, whitened where the config says so.
    pub advantages: Vec<f32>,
    /// (N) what the value model learns.
    pub returns: Vec<f32>,
    /// The optimiser steps so far.
    pub minibatches: Vec<Minibatch>,
}

/// What one optimiser step saw.
#[derive(Debug, Clone)]
pub struct Minibatch {
    /// Rows of the rollout.
    pub rows: Vec<usize>,
    /// The pretraining pieces beside them; every token but a piece's first is a target.
    pub ptx: Vec<Vec<i64>>,
}

impl Record {
    /// As records/step-….json has it: per response, then per token.
    pub fn to_json(&self) -> Value {
        let (rollout, opinions) = (&self.rollout, &self.opinions);
        let lengths = rollout.lengths();
        let by_row = |flat: &[f32]| {
            let mut rest = flat;
            let mut take = |length: &usize| {
                let (row, others) = rest.split_at(*length);
                rest = others;
                row.to_vec()
            };
            lengths.iter().map(&mut take).collect::<Vec<Vec<f32>>>()
        };
        let tokens: Vec<&[i64]> = rollout.responses.iter().map(|response| response.tokens.as_slice()).collect();
        let nucleus: Vec<_> = rollout.responses.iter().map(|response| response.nucleus.clone()).collect();
        let minibatches: Vec<Value> =
            self.minibatches.iter().map(|batch| json!({ "rows": batch.rows, "ptx": batch.ptx })).collect();
        json!({
            "step": self.step,
            "prompt_rows": rollout.prompt_rows,
            "prompts": rollout.prompts,
            "responses_per_prompt": rollout.samples,
            "responses": tokens,
            "nucleus": nucleus,
            "scores": self.scores,
            "scores_shaped": self.scores_shaped,
            "old_logprobs": by_row(&opinions.old_logprobs),
            "ref_logprobs": by_row(&opinions.ref_logprobs),
            "values": by_row(&opinions.values),
            "rewards": by_row(&self.rewards),
            "advantages": by_row(&self.advantages),
            "returns": by_row(&self.returns),
            "minibatches": minibatches,
        })
    }
}

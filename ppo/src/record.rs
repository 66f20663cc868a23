//! What one step worked on, in full: enough to compute its numbers again by other means.

use align_core::error::{Error, Result};
use align_model::generate::Response;
use serde::Deserialize;
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
#[derive(Debug, Clone, Deserialize)]
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

    /// Reads back what [`Record::to_json`] wrote, the entropies aside; a `null` is no number.
    ///
    /// # Errors
    /// [`Error::Invalid`] when something is missing.
    pub fn from_json(value: &Value) -> Result<Self> {
        let written = Written::deserialize(value)
            .map_err(|error| Error::invalid("worked_on", format!("{error}, expected what a step of ppo records")))?;
        let mut nucleus = written.nucleus.into_iter();
        let response = |tokens| Response { tokens, ended: false, nucleus: nucleus.next().unwrap_or_default() };
        let number = |number: Option<f64>| number.unwrap_or(f64::NAN);
        let flat = |rows: Vec<Vec<Option<f64>>>| rows.concat().into_iter().map(|x| number(x) as f32).collect();
        let whole = |numbers: Vec<Option<f64>>| numbers.into_iter().map(number).collect();
        Ok(Self {
            step: written.step,
            rollout: Rollout {
                prompt_rows: written.prompt_rows,
                prompts: written.prompts,
                samples: written.responses_per_prompt,
                responses: written.responses.into_iter().map(response).collect(),
            },
            opinions: Opinions {
                old_logprobs: flat(written.old_logprobs),
                ref_logprobs: flat(written.ref_logprobs),
                values: flat(written.values),
                entropy: Vec::new(),
            },
            scores: whole(written.scores),
            scores_shaped: whole(written.scores_shaped),
            rewards: flat(written.rewards),
            advantages: flat(written.advantages),
            returns: flat(written.returns),
            minibatches: written.minibatches,
        })
    }
}

/// A record as it stands in its file.
#[derive(Deserialize)]
struct Written {
    step: u64,
    prompt_rows: Vec<usize>,
    prompts: Vec<Vec<i64>>,
    responses_per_prompt: usize,
    responses: Vec<Vec<i64>>,
    nucleus: Vec<Vec<Vec<i64>>>,
    scores: Vec<Option<f64>>,
    scores_shaped: Vec<Option<f64>>,
    old_logprobs: Vec<Vec<Option<f64>>>,
    ref_logprobs: Vec<Vec<Option<f64>>>,
    values: Vec<Vec<Option<f64>>>,
    rewards: Vec<Vec<Option<f64>>>,
    advantages: Vec<Vec<Option<f64>>>,
    returns: Vec<Vec<Option<f64>>>,
    minibatches: Vec<Minibatch>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let response =
            |tokens: &[i64]| Response { tokens: tokens.to_vec(), ended: false, nucleus: vec![vec![5]; tokens.len()] };
        let record = Record {
            step: 6,
            rollout: Rollout {
                prompt_rows: vec![3],
                prompts: vec![vec![7, 8]],
                samples: 2,
                responses: vec![response(&[1, 2, 3]), response(&[4])],
            },
            opinions: Opinions {
                old_logprobs: vec![-0.1, -1.2e-7, -3.3, f32::NAN],
                ref_logprobs: vec![-0.2, -1.0 / 3.0, -3.4, -0.7],
                values: vec![0.1, 0.2, 0.3, 1e30],
                entropy: Vec::new(),
            },
            scores: vec![1.0 / 3.0, f64::NAN],
            scores_shaped: vec![0.1, f64::NAN],
            rewards: vec![0.0, 0.5, 0.25, f32::NAN],
            advantages: vec![-1.0, 0.7, 0.3, 0.0],
            returns: vec![0.9, 0.8, 0.7, 0.6],
            minibatches: vec![Minibatch { rows: vec![0, 1], ptx: vec![vec![9, 9, 4]] }],
        };
        let written = record.to_json();
        let read = Record::from_json(&serde_json::from_str(&written.to_string()).unwrap()).unwrap();
        assert_eq!(read.to_json(), written);
        assert_eq!(read.opinions.old_logprobs[..3], record.opinions.old_logprobs[..3]);
        assert!(read.opinions.old_logprobs[3].is_nan() && read.scores[1].is_nan());
        assert!(
            Record::from_json(&Value::Null).unwrap_err().to_string().contains("expected what a step of ppo records")
        );
    }
}

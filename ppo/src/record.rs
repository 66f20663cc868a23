//! The full data of one step, sufficient to recompute its results by other means.

use std::rc::Rc;

use align_core::error::{Error, Result};
use align_model::generate::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::masked::{self, Table, mask};
use crate::rewards::kl_k1;
use crate::rollout::Rollout;
use crate::trajectory::{RolloutStats, Trajectory};

/// A step's trajectory, and its optimizer steps.
#[derive(Debug, Clone)]
pub struct Record {
    /// The step, 0-based.
    pub step: u64,
    /// Prompts, responses, and everything computed from them.
    pub trajectory: Rc<Trajectory>,
    /// The optimizer steps so far.
    pub minibatches: Vec<Minibatch>,
}

/// The data of one optimizer step.
#[derive(Debug, Clone, Deserialize)]
pub struct Minibatch {
    /// Rows of the rollout.
    pub rows: Vec<usize>,
    /// The pretraining pieces; every token but the first of a piece is a target.
    pub ptx: Vec<Vec<i64>>,
}

impl Record {
    /// The content of records/step-….json: per response, then per token.
    pub fn to_json(&self) -> Value {
        let trajectory = &*self.trajectory;
        let Trajectory { rollout, stats, .. } = trajectory;
        let by_row = |table: &Table| -> Vec<Vec<f32>> {
            rollout.rows().into_iter().map(|row| trajectory.flat(table, &[row])).collect()
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
            "scores": trajectory.scores,
            "scores_shaped": trajectory.normalized_scores,
            "old_logprobs": by_row(&stats.old_logprobs),
            "ref_logprobs": by_row(&stats.ref_logprobs),
            "values": by_row(&stats.values),
            "rewards": by_row(&trajectory.rewards),
            "advantages": by_row(&trajectory.advantages),
            "returns": by_row(&trajectory.returns),
            "minibatches": minibatches,
        })
    }

    /// Parses the JSON of [`Record::to_json`]. A `null` is NaN, and the entropies are NaN: they are not
    /// recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] when something is missing.
    pub fn from_json(value: &Value) -> Result<Self> {
        let written = Written::deserialize(value)
            .map_err(|error| Error::invalid("worked_on", format!("{error}, expected what a step of ppo records")))?;
        let mut nucleus = written.nucleus.into_iter();
        let response = |tokens| Response { tokens, ended: false, nucleus: nucleus.next().unwrap_or_default() };
        let rollout = Rollout {
            prompt_rows: written.prompt_rows,
            prompts: written.prompts,
            samples: written.responses_per_prompt,
            responses: written.responses.into_iter().map(response).collect(),
        };
        let lengths = rollout.lengths();
        let number = |number: Option<f64>| number.unwrap_or(f64::NAN);
        let table = |key: &str, rows: Vec<Vec<Option<f64>>>| -> Result<Table> {
            if !rows.iter().map(Vec::len).eq(lengths.iter().copied()) {
                let what = format!("has another number of `{key}` than of tokens, expected what a step of ppo records");
                return Err(Error::invalid("worked_on", what));
            }
            let flat: Vec<f32> = rows.concat().into_iter().map(|x| number(x) as f32).collect();
            Ok(masked::table(&flat, &lengths))
        };
        let whole = |numbers: Vec<Option<f64>>| numbers.into_iter().map(number).collect();
        let response_mask = mask(&lengths);
        let stats = RolloutStats {
            old_logprobs: table("old_logprobs", written.old_logprobs)?,
            ref_logprobs: table("ref_logprobs", written.ref_logprobs)?,
            values: table("values", written.values)?,
            entropy: Table::from_elem(response_mask.raw_dim(), f64::NAN),
        };
        let trajectory = Trajectory {
            scores: whole(written.scores),
            normalized_scores: whole(written.scores_shaped),
            kl: kl_k1(&stats.old_logprobs, &stats.ref_logprobs, &response_mask),
            rewards: table("rewards", written.rewards)?,
            advantages: table("advantages", written.advantages)?,
            returns: table("returns", written.returns)?,
            rollout,
            response_mask,
            stats,
        };
        Ok(Self { step: written.step, trajectory: Rc::new(trajectory), minibatches: written.minibatches })
    }
}

/// A record as it is serialised.
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
        let rollout = Rollout {
            prompt_rows: vec![3],
            prompts: vec![vec![7, 8]],
            samples: 2,
            responses: vec![response(&[1, 2, 3]), response(&[4])],
        };
        let table = |flat: [f32; 4]| masked::table(&flat, &[3, 1]);
        let trajectory = Trajectory {
            response_mask: mask(&[3, 1]),
            stats: RolloutStats {
                old_logprobs: table([-0.1, -1.2e-7, -3.3, f32::NAN]),
                ref_logprobs: table([-0.2, -1.0 / 3.0, -3.4, -0.7]),
                values: table([0.1, 0.2, 0.3, 1e30]),
                entropy: table([f32::NAN; 4]),
            },
            scores: vec![1.0 / 3.0, f64::NAN],
            normalized_scores: vec![0.1, f64::NAN],
            kl: table([0.0; 4]),
            rewards: table([0.0, 0.5, 0.25, f32::NAN]),
            advantages: table([-1.0, 0.7, 0.3, 0.0]),
            returns: table([0.9, 0.8, 0.7, 0.6]),
            rollout,
        };
        let minibatches = vec![Minibatch { rows: vec![0, 1], ptx: vec![vec![9, 9, 4]] }];
        let record = Record { step: 6, trajectory: Rc::new(trajectory), minibatches };
        let written = record.to_json();
        let read = Record::from_json(&serde_json::from_str(&written.to_string()).unwrap()).unwrap();
        assert_eq!(read.to_json(), written);
        let (read, recorded) = (&read.trajectory, &record.trajectory);
        assert_eq!(read.flat(&read.stats.old_logprobs, &[0]), recorded.flat(&recorded.stats.old_logprobs, &[0]));
        assert!(read.stats.old_logprobs[(1, 0)].is_nan() && read.scores[1].is_nan());
        let mut torn = written.clone();
        torn["values"][0] = json!([0.1]);
        assert!(
            Record::from_json(&torn).unwrap_err().to_string().contains("another number of `values` than of tokens")
        );
        assert!(
            Record::from_json(&Value::Null).unwrap_err().to_string().contains("expected what a step of ppo records")
        );
    }
}

//! Sampled responses, and the flat layout in which all four models read them.

use std::collections::HashMap;
use std::ops::Range;

use align_kernels::batch::FlatBatch;
use align_kernels::batch::microbatches;
use align_model::generate::Response;
use tch::{Device, Tensor};

/// A batch of prompts and the responses of the policy.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// (B / samples) the prompts' rows in the data, for records.
    pub prompt_rows: Vec<usize>,
    /// (B / samples) token ids of the prompts, the assistant header included.
    pub prompts: Vec<Vec<i64>>,
    /// Responses per prompt.
    pub samples: usize,
    /// (B) the responses, those of one prompt together.
    pub responses: Vec<Response>,
}

/// Responses as a flat batch for one forward pass: every prompt once, then its responses.
///
/// N is the number of response tokens. Entry t of every (N) tensor belongs to response token t and is
/// computed from the hidden state one token earlier.
pub struct Layout {
    /// The flat batch.
    pub flat: FlatBatch,
    /// (N) index of the token before each response token, which predicts it.
    pub predict_indices: Tensor,
    /// (N) the response tokens.
    pub tokens: Tensor,
    /// Per response, in order: its range in the (N) tensors.
    pub ranges: Vec<Range<usize>>,
}

/// The layout of `(prompt, responses)` groups.
pub fn layout<'a>(groups: impl IntoIterator<Item = (&'a [i64], Vec<&'a [i64]>)>, device: Device) -> Layout {
    let (mut flat, mut predict_indices, mut tokens) = (FlatBatch::new(), Vec::new(), Vec::new());
    let mut ranges = Vec::new();
    for (prompt, responses) in groups {
        let prefix = flat.push(prompt, None);
        let last_of_prompt = flat.len() as i64 - 1;
        for response in responses {
            let start = tokens.len();
            let offset = flat.len() as i64;
            predict_indices.push(last_of_prompt);
            predict_indices.extend((0..response.len() as i64 - 1).map(|token| offset + token));
            tokens.extend_from_slice(response);
            ranges.push(start..tokens.len());
            if response.len() > 1 {
                flat.push(&response[..response.len() - 1], Some(prefix)); // nothing is read at the last token
            }
        }
    }
    let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
    Layout { flat, predict_indices: tensor(&predict_indices), tokens: tensor(&tokens), ranges }
}

/// How a reward model reads the policy's dialogues, where its tokens differ from the policy's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Prompts in the reward model's rendering, by the policy's rendering; those with equal renderings are
    /// left out.
    pub prompts: HashMap<Vec<i64>, Vec<i64>>,
    /// The tokens after a response's end token, up to the one at which the score is read.
    pub tokens_after_end: Vec<i64>,
}

impl Reading {
    /// Whether the reward model reads the tokens of the policy, and scores them at the end token.
    pub fn equals_policy(&self) -> bool {
        *self == Self::default()
    }
}

/// Some responses of a rollout, as sorted rows.
pub type Rows = Vec<usize>;

impl Rollout {
    /// (B) response lengths in tokens.
    pub fn lengths(&self) -> Vec<usize> {
        self.responses.iter().map(|response| response.tokens.len()).collect()
    }

    /// All rows (B), in order.
    pub fn rows(&self) -> Rows {
        (0..self.responses.len()).collect()
    }

    /// Number of response tokens of some rows.
    pub fn num_tokens(&self, rows: &[usize]) -> usize {
        rows.iter().map(|row| self.responses[*row].tokens.len()).sum()
    }

    /// (B) whether each response ends with the end token.
    pub fn ended(&self, end_id: i64) -> Vec<bool> {
        self.responses.iter().map(|response| response.tokens.last() == Some(&end_id)).collect()
    }

    /// Splits sorted rows into microbatches of whole prompt groups: up to `microbatch_tokens`, or a single
    /// larger group.
    pub fn split_into_microbatches(&self, rows: &[usize], microbatch_tokens: usize) -> Vec<Rows> {
        let groups: Vec<&[usize]> = self.by_prompt(rows).collect();
        let lengths: Vec<usize> =
            groups.iter().map(|rows| self.prompts[rows[0] / self.samples].len() + self.num_tokens(rows)).collect();
        microbatches(&lengths, microbatch_tokens).into_iter().map(|range| groups[range].concat()).collect()
    }

    /// The layout of some rows, as the policy, the reference and the value model read it.
    pub fn layout(&self, rows: &[usize], device: Device) -> Layout {
        let groups = self.by_prompt(rows).map(|rows| {
            let responses = rows.iter().map(|row| self.responses[*row].tokens.as_slice()).collect();
            (self.prompts[rows[0] / self.samples].as_slice(), responses)
        });
        layout(groups, device)
    }

    /// The batch of the reward model: whole responses, each with the end token, which is appended if the
    /// policy did not sample it, and the tokens of `reading` after it. Returns the batch and the index of
    /// every response's last token.
    pub fn reward_model_batch(
        &self,
        rows: &[usize],
        end_id: i64,
        reading: &Reading,
        device: Device,
    ) -> (FlatBatch, Tensor) {
        let (mut flat, mut ends) = (FlatBatch::new(), Vec::new());
        for rows in self.by_prompt(rows) {
            let prompt = &self.prompts[rows[0] / self.samples];
            let prefix = flat.push(reading.prompts.get(prompt).unwrap_or(prompt), None);
            for row in rows {
                let mut tokens = self.responses[*row].tokens.clone();
                if tokens.last() != Some(&end_id) {
                    tokens.push(end_id);
                }
                tokens.extend(&reading.tokens_after_end);
                flat.push(&tokens, Some(prefix));
                ends.push(flat.len() as i64 - 1);
            }
        }
        (flat, Tensor::from_slice(&ends).to_device(device))
    }

    fn by_prompt<'a>(&self, rows: &'a [usize]) -> impl Iterator<Item = &'a [usize]> + use<'a> {
        let samples = self.samples;
        rows.chunk_by(move |a, b| a / samples == b / samples)
    }
}

#[cfg(test)]
mod tests {
    use align_kernels::HOST;

    use super::*;

    #[test]
    fn a_response_token_is_predicted_at_the_index_before_it() {
        let layout = layout([(&[7, 8, 9][..], vec![&[1, 2, 3][..], &[4][..]])], HOST);
        assert_eq!(layout.flat.tokens(), &[7, 8, 9, 1, 2]);
        assert_eq!(Vec::<i64>::try_from(&layout.predict_indices).unwrap(), vec![2, 3, 4, 2]);
        assert_eq!(Vec::<i64>::try_from(&layout.tokens).unwrap(), vec![1, 2, 3, 4]);
        assert_eq!(layout.ranges, vec![0..3, 3..4]);
        assert_eq!(layout.flat.positions(), &[0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_reward_model_sees_the_sampled_ids_and_one_end_token() {
        let response = |tokens: &[i64], ended| Response { tokens: tokens.to_vec(), ended, nucleus: Vec::new() };
        let rollout = Rollout {
            prompt_rows: vec![0],
            prompts: vec![vec![7, 8]],
            samples: 2,
            responses: vec![response(&[1, 5], true), response(&[2, 0], true)],
        };
        let (flat, ends) = rollout.reward_model_batch(&[0, 1], 5, &Reading::default(), HOST);
        assert_eq!(flat.tokens(), &[7, 8, 1, 5, 2, 0, 5]);
        assert_eq!(Vec::<i64>::try_from(&ends).unwrap(), vec![3, 6]);
        // A reward model with another rendering of prompts that is read after the end token.
        let reading = Reading { prompts: [(vec![7, 8], vec![9, 9, 8])].into(), tokens_after_end: vec![6] };
        let (flat, ends) = rollout.reward_model_batch(&[0, 1], 5, &reading, HOST);
        assert_eq!(flat.tokens(), &[9, 9, 8, 1, 5, 6, 2, 0, 5, 6]);
        assert_eq!(Vec::<i64>::try_from(&ends).unwrap(), vec![5, 9]);
    }
}

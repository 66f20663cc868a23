//! Scores of single responses or lists of responses: the rows of a file, or a request to the service.

use std::ops::Range;

use align_data::Response;
use align_kernels::batch::microbatches;
use align_model::ScalarModel;
use align_text::chatml::{ChatFormat, Dialogue};
use serde_json::{Map, Value, json};

use crate::data::{Branches, share_prefix};
use crate::eval::score_batch;
use crate::stats::best;

/// A prompt with its responses, in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Responses {
    /// The tokens that all dialogues begin with.
    pub prefix: Vec<i64>,
    /// The remaining tokens of each dialogue, up to the end token at which it is scored.
    pub tails: Vec<Vec<i64>>,
    /// Whether the row has a list of responses, rather than a single one.
    pub is_list: bool,
}

impl Responses {
    /// Renders a row of [`align_data::Kind::Response`].
    ///
    /// # Errors
    /// As [`ChatFormat::dialogue`].
    pub fn new(row: &Response, format: &ChatFormat) -> Result<Self, String> {
        let (dialogues, is_list): (&[Dialogue], bool) = match row {
            Response::One(dialogue) => (std::slice::from_ref(dialogue), false),
            Response::Several(dialogues) => (dialogues, true),
        };
        let encoded = dialogues.iter().map(|dialogue| format.scored(dialogue)).collect::<Result<Vec<_>, String>>()?;
        let (prefix, tails) = share_prefix(&encoded);
        Ok(Self { prefix, tails, is_list })
    }

    /// The length of the longest dialogue, in tokens.
    pub fn longest(&self) -> usize {
        self.branches(0..self.tails.len()).longest()
    }

    /// Splits the responses into microbatches of at most `microbatch_tokens`, prefix included, or of a single
    /// response.
    pub fn microbatches(&self, microbatch_tokens: usize) -> Vec<Range<usize>> {
        let lengths: Vec<usize> = self.tails.iter().map(Vec::len).collect();
        microbatches(&lengths, microbatch_tokens.saturating_sub(self.prefix.len()))
    }

    /// A range of the responses, with their prefix.
    pub fn branches(&self, range: Range<usize>) -> Branches<'_> {
        Branches { prefix: &self.prefix, tails: &self.tails[range] }
    }

    /// The scores as JSON: `score` of a single response; `scores` of a list, and the index of the `best`.
    pub fn to_json(&self, scores: &[f64]) -> Map<String, Value> {
        let entries = match self.is_list {
            true => vec![("scores", json!(scores)), ("best", json!(best(scores)))],
            false => vec![("score", json!(scores[0]))],
        };
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The raw scores of every row's responses, in order; calls `done` with the number of responses finished
/// since the last call.
pub fn score(
    model: &ScalarModel,
    rows: &[Responses],
    microbatch_tokens: usize,
    done: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let branches: Vec<Branches<'_>> = rows
        .iter()
        .flat_map(|row| row.microbatches(microbatch_tokens).into_iter().map(|range| row.branches(range)))
        .collect();
    let lengths: Vec<usize> = branches.iter().map(Branches::len).collect();
    let mut scores = Vec::new();
    for range in microbatches(&lengths, microbatch_tokens) {
        let before = scores.len();
        scores.extend(score_batch(model, branches[range].iter().copied()));
        done(scores.len() - before);
    }
    let mut rest = scores.into_iter();
    rows.iter().map(|row| rest.by_ref().take(row.tails.len()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(prefix: usize, tails: &[usize]) -> Responses {
        let tails = tails.iter().map(|length| vec![2; *length]).collect();
        Responses { prefix: vec![1; prefix], tails, is_list: true }
    }

    #[test]
    fn a_list_has_scores_and_a_best_index_and_a_single_response_a_score() {
        let json = |responses: Responses, scores: &[f64]| Value::Object(responses.to_json(scores));
        assert_eq!(json(list(2, &[1, 1]), &[0.25, 1.5]), json!({ "scores": [0.25, 1.5], "best": 1 }));
        assert_eq!(json(list(2, &[1]), &[0.25]), json!({ "scores": [0.25], "best": 0 }));
        assert_eq!(json(Responses { is_list: false, ..list(0, &[3]) }, &[0.25]), json!({ "score": 0.25 }));
    }

    #[test]
    fn microbatches_include_the_prefix() {
        let responses = list(4, &[2, 3, 1, 9, 1]);
        assert_eq!(responses.microbatches(10), [0..3, 3..4, 4..5]);
        assert_eq!(responses.microbatches(3), [0..1, 1..2, 2..3, 3..4, 4..5]);
        assert_eq!(responses.microbatches(19), [0..4, 4..5]);
        assert_eq!(responses.branches(1..3).len(), 4 + 3 + 1);
        assert_eq!(responses.longest(), 13);
    }
}

//! Responses that are scored without being compared: the rows of a file, or a request to the service.

use std::ops::Range;

use align_data::Response;
use align_kernels::batch::microbatches;
use align_model::ScalarModel;
use align_text::chatml::{ChatFormat, Dialogue};
use serde_json::{Map, Value, json};

use crate::data::{Branches, share_prefix};
use crate::eval::score_at_once;
use crate::stats::best;

/// One prompt with its responses, in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Responses {
    /// What all dialogues begin with.
    pub prefix: Vec<i64>,
    /// How each dialogue goes on, to the end token where it is scored.
    pub tails: Vec<Vec<i64>>,
    /// Whether a list was given, of which the best is told, rather than a single response.
    pub is_list: bool,
}

impl Responses {
    /// Renders what was read as [`align_data::Kind::Response`].
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

    /// The longest dialogue, in tokens.
    pub fn longest(&self) -> usize {
        self.branches(0..self.tails.len()).longest()
    }

    /// Cuts the responses into runs that are computed at once: at most `microbatch_tokens` with the prefix, or a single one.
    pub fn runs(&self, microbatch_tokens: usize) -> Vec<Range<usize>> {
        let lengths: Vec<usize> = self.tails.iter().map(Vec::len).collect();
        microbatches(&lengths, microbatch_tokens.saturating_sub(self.prefix.len()))
    }

    /// Some of the responses, behind their prefix.
    pub fn branches(&self, run: Range<usize>) -> Branches<'_> {
        Branches { prefix: &self.prefix, tails: &self.tails[run] }
    }

    /// What is told of the scores: `score` of a single response; `scores` of a list, and the place of the `best`.
    pub fn verdict(&self, scores: &[f64]) -> Map<String, Value> {
        let told = match self.is_list {
            true => vec![("scores", json!(scores)), ("best", json!(best(scores)))],
            false => vec![("score", json!(scores[0]))],
        };
        told.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The raw scores of every row's responses, in order; `done` is called with the number of responses finished.
pub fn score(
    model: &ScalarModel,
    rows: &[Responses],
    microbatch_tokens: usize,
    done: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let of_row = |row: &'_ Responses| row.runs(microbatch_tokens);
    let branches: Vec<Branches<'_>> =
        rows.iter().flat_map(|row| of_row(row).into_iter().map(|run| row.branches(run))).collect();
    let lengths: Vec<usize> = branches.iter().map(Branches::len).collect();
    let mut scores = Vec::new();
    for range in microbatches(&lengths, microbatch_tokens) {
        let before = scores.len();
        scores.extend(score_at_once(model, branches[range].iter().copied()));
        done(scores.len() - before);
    }
    let mut rest = scores.into_iter();
    rows.iter().map(|row| rest.by_ref().take(row.tails.len()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn responses(prefix: usize, tails: &[usize], is_list: bool) -> Responses {
        Responses { prefix: vec![1; prefix], tails: tails.iter().map(|length| vec![2; *length]).collect(), is_list }
    }

    #[test]
    fn a_list_is_told_its_best_and_a_single_response_its_score() {
        let told = |responses: Responses, scores: &[f64]| Value::Object(responses.verdict(scores));
        assert_eq!(told(responses(2, &[1, 1], true), &[0.25, 1.5]), json!({ "scores": [0.25, 1.5], "best": 1 }));
        assert_eq!(told(responses(2, &[1], true), &[0.25]), json!({ "scores": [0.25], "best": 0 }));
        assert_eq!(told(responses(0, &[3], false), &[0.25]), json!({ "score": 0.25 }));
    }

    #[test]
    fn runs_stay_within_the_microbatch_with_their_prefix() {
        let responses = responses(4, &[2, 3, 1, 9, 1], true);
        assert_eq!(responses.runs(10), [0..3, 3..4, 4..5]);
        assert_eq!(responses.runs(3), [0..1, 1..2, 2..3, 3..4, 4..5]);
        assert_eq!(responses.runs(19), [0..4, 4..5]);
        assert_eq!(responses.branches(1..3).len(), 4 + 3 + 1);
        assert_eq!(responses.longest(), 13);
    }
}

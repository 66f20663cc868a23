//! Comparisons: chosen and rejected answers, and ranked lists.

use serde_json::Value;

use super::keys::ANSWER;
use super::shapes::{Row, answered, list};
use super::{Comparison, MAX_RANKED, Parsed, a_value};
use align_text::chatml::Dialogue;

impl Row<'_> {
    /// Dialogues of different quality.
    pub(super) fn comparison(&self) -> Parsed<Comparison> {
        self.refuse_row_reasoning()?;
        let comparison = self.compared()?;
        let is_left_out = |dialogue: &Dialogue| dialogue.messages.last().is_some_and(|message| !message.is_trained);
        if comparison.dialogues.iter().any(is_left_out) {
            return Err(
                "an answer that is compared is marked as not to be trained on, expected no such mark".to_owned()
            );
        }
        Ok(comparison)
    }

    fn compared(&self) -> Parsed<Comparison> {
        if let Some(rejected) = self.keys.get("rejected_response") {
            return self.with_rejected_response(rejected);
        }
        if let (Some(chosen), Some(rejected)) = (self.keys.get("chosen"), self.keys.get("rejected")) {
            let start = match self.question()? {
                None => self.turns()?.map(|(_, turns)| turns),
                start => start,
            };
            let side = |value: &Value, key: &str| match &start {
                Some(start) => self.continued(start, value, key),
                None => self.whole(value, key),
            };
            let dialogues =
                self.each_with_system_and_tools(vec![side(chosen, "chosen")?, side(rejected, "rejected")?])?;
            return Ok(Comparison { dialogues, scores: self.margin()? });
        }
        match (self.keys.get("responses"), self.keys.get("scores")) {
            (Some(responses), Some(scores)) => self.ranked(responses, scores),
            _ => Err(self.wrong_shape()),
        }
    }

    /// The shape of ms-swift: a dialogue whose last answer is the chosen one (or a question with its answer),
    /// and the rejected answer.
    fn with_rejected_response(&self, rejected: &Value) -> Parsed<Comparison> {
        let chosen = match self.turns()? {
            Some((key, turns)) => answered(turns, key)?,
            None => {
                let start = self.question()?.ok_or_else(|| self.wrong_shape())?;
                let (key, answer) = self.keys.one_of(ANSWER)?.ok_or_else(|| self.wrong_shape())?;
                self.continued(&start, answer, key)?
            }
        };
        let start = &chosen[..chosen.len() - 1];
        let rejected = self.continued(start, rejected, "rejected_response")?;
        Ok(Comparison { dialogues: self.each_with_system_and_tools(vec![chosen, rejected])?, scores: self.margin()? })
    }

    /// A pair's margin, as two scores that differ by it.
    fn margin(&self) -> Parsed<Option<Vec<f64>>> {
        let Some(margin) = self.keys.get("margin") else { return Ok(None) };
        match margin.as_f64() {
            Some(margin) if margin > 0.0 => Ok(Some(vec![margin, 0.0])),
            Some(margin) => Err(format!("`margin` is {margin}, expected above 0: the chosen answer is the better one")),
            None => Err(format!("`margin` is {}, expected a number", a_value(margin))),
        }
    }

    fn ranked(&self, responses: &Value, scores: &Value) -> Parsed<Comparison> {
        let start = self.question()?.ok_or_else(|| self.wrong_shape())?;
        let responses = list(responses, "responses", "answers")?;
        let scores = list(scores, "scores", "numbers")?;
        if !(2..=MAX_RANKED).contains(&responses.len()) {
            return Err(format!("`responses` has {} answers, expected 2 to {MAX_RANKED}", responses.len()));
        }
        if responses.len() != scores.len() {
            return Err(format!(
                "{} `responses` but {} `scores`, expected one score per answer",
                responses.len(),
                scores.len()
            ));
        }
        let scores = scores.iter().enumerate().map(|(index, score)| mean_score(score, &format!("scores[{index}]")));
        let scores = scores.collect::<Parsed<Vec<f64>>>()?;
        Ok(Comparison { dialogues: self.each_continued(&start, responses)?, scores: Some(scores) })
    }
}

/// The score of an answer: one number, or the mean of a list of ratings, in which null is a missing rating.
fn mean_score(score: &Value, location: &str) -> Parsed<f64> {
    let number = |value: &Value, location: &str, expected: &str| {
        value.as_f64().ok_or_else(|| format!("`{location}` is {}, expected {expected}", a_value(value)))
    };
    let Value::Array(votes) = score else { return number(score, location, "a number, or a list of them") };
    let given = votes.iter().enumerate().filter(|(_, vote)| !vote.is_null());
    let votes = given.map(|(index, vote)| number(vote, &format!("{location}[{index}]"), "a number"));
    let mut votes = votes.collect::<Parsed<Vec<f64>>>()?;
    if votes.is_empty() {
        return Err(format!("`{location}` has no number, expected at least one"));
    }
    // Sorted, so that the mean does not depend on the order of ratings, even in its last bit.
    votes.sort_by(f64::total_cmp);
    Ok(votes.iter().sum::<f64>() / votes.len() as f64)
}

//! An annotator's answer as the page gives it: by place, in the order in which responses are shown.

use serde::{Deserialize, Serialize};

use crate::item::Item;
use crate::judgment::{Ask, Judgment, Strength, dense};

/// The marks that a response can get.
pub const FLAGS: [&str; 4] = ["unsafe", "wrong language", "cut off", "no answer"];
/// The reasons for which an item can be skipped.
pub const SKIP_REASONS: [&str; 4] = ["unclear", "needs expertise", "offensive", "broken text"];
/// The longest comment, in characters.
pub const MAX_COMMENT: usize = 2000;

/// What an annotator said, one entry per shown response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// Ranks from 1; equal ranks tie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Vec<u32>>,
    /// Scores from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<u32>>,
    /// For a pair: how much better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<Strength>,
    /// For a pair: both are bad.
    pub both_bad: bool,
    /// The marks of each response; may be empty.
    pub flags: Vec<Vec<String>>,
    /// Why the item was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// A remark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Answer {
    /// What is wrong with an answer about `count` shown responses.
    pub(crate) fn check(&self, ask: Ask, count: usize, scale: u32) -> Result<(), String> {
        let given = (self.ranks.is_some(), self.scores.is_some());
        let expected = match (&self.skipped, ask) {
            (Some(_), _) => (false, false),
            (None, Ask::Rank | Ask::Pair) => (true, false),
            (None, Ask::Score) => (false, true),
        };
        if given != expected {
            let what = match expected {
                (true, _) => "`ranks`",
                (_, true) => "`scores`",
                _ => "neither `ranks` nor `scores` with `skipped`",
            };
            return Err(format!("the answer does not fit, expected {what}"));
        }
        let within = |values: &Option<Vec<u32>>, most: u32| {
            values
                .as_ref()
                .is_none_or(|values| values.len() == count && values.iter().all(|value| (1..=most).contains(value)))
        };
        if !within(&self.ranks, count as u32) {
            return Err(format!("`ranks` does not fit, expected {count} numbers from 1 to {count}"));
        }
        if !within(&self.scores, scale) {
            return Err(format!("`scores` does not fit, expected {count} numbers from 1 to {scale}"));
        }
        self.check_pair(ask)?;
        let known = |flags: &Vec<String>| flags.iter().all(|flag| FLAGS.contains(&flag.as_str()));
        if !(self.flags.is_empty() || self.flags.len() == count) || !self.flags.iter().all(known) {
            return Err(format!("`flags` does not fit, expected none or {count} lists of {}", FLAGS.join(", ")));
        }
        if self.skipped.as_deref().is_some_and(|reason| !SKIP_REASONS.contains(&reason)) {
            return Err(format!("`skipped` is not a known reason, expected one of {}", SKIP_REASONS.join(", ")));
        }
        if self.comment.as_deref().is_some_and(|comment| comment.chars().count() > MAX_COMMENT) {
            return Err(format!("`comment` is too long, expected at most {MAX_COMMENT} characters"));
        }
        if !(0.0..=1e6).contains(&self.seconds) {
            return Err("`seconds` is not a duration, expected 0 or more".to_owned());
        }
        Ok(())
    }

    fn check_pair(&self, ask: Ask) -> Result<(), String> {
        let ties = self.ranks.as_ref().is_some_and(|ranks| ranks.iter().all(|rank| *rank == ranks[0]));
        if self.both_bad && !(ask == Ask::Pair && ties) {
            return Err("`both_bad` does not fit, expected it for a pair with equal ranks".to_owned());
        }
        if self.strength.is_some() && (ask != Ask::Pair || ties || self.ranks.is_none()) {
            return Err("`strength` does not fit, expected it for a pair with different ranks".to_owned());
        }
        Ok(())
    }

    /// The judgment of an item whose responses were shown in `order`. Identical responses get what the shown
    /// one of them got.
    pub(crate) fn into_judgment(self, item: &Item, name: &str, ask: Ask, order: Vec<usize>) -> Judgment {
        let place_of = |first: usize| order.iter().position(|&shown| shown == first);
        let first = item.first_of_same_text();
        let places: Vec<usize> = first.iter().map(|&first| place_of(first).expect("it is shown")).collect();
        let is_flagged = self.flags.iter().any(|flags| !flags.is_empty());
        let flags =
            if is_flagged { places.iter().map(|&place| self.flags[place].clone()).collect() } else { Vec::new() };
        Judgment {
            ranks: self.ranks.map(|ranks| dense(&places.iter().map(|&place| ranks[place]).collect::<Vec<_>>())),
            scores: self.scores.map(|scores| places.iter().map(|&place| f64::from(scores[place])).collect()),
            strength: self.strength,
            both_bad: self.both_bad,
            flags,
            skipped: self.skipped,
            comment: self.comment.filter(|comment| !comment.trim().is_empty()),
            seconds: self.seconds,
            order,
            ..Judgment::empty(&item.id, name, ask)
        }
    }

    /// The answer of a judgment.
    pub(crate) fn of(judgment: &Judgment, order: &[usize]) -> Self {
        let ranks = |ranks: &Vec<u32>| order.iter().map(|&index| ranks[index]).collect::<Vec<_>>();
        let scores = |scores: &Vec<f64>| order.iter().map(|&index| scores[index] as u32).collect();
        let flags = |index: usize| judgment.flags.get(index).cloned().unwrap_or_default();
        Self {
            ranks: judgment.ranks.as_ref().map(|own| dense(&ranks(own))),
            scores: judgment.scores.as_ref().map(scores),
            strength: judgment.strength,
            both_bad: judgment.both_bad,
            flags: order.iter().map(|&index| flags(index)).collect(),
            skipped: judgment.skipped.clone(),
            comment: judgment.comment.clone(),
            seconds: judgment.seconds,
        }
    }
}

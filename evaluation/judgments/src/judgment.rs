//! Judgments: what an annotator said about an item's responses. They are appended to a file, one line each,
//! and the file of a labelling folder is read back here.

use std::collections::HashMap;
use std::path::Path;

use align_core::error::{Problem, Problems, Result};
use serde::{Deserialize, Serialize, Serializer};

use crate::item::{Item, read_items};
use crate::judges::{Judges, read_judges};
use crate::lines;

/// The file of items in a labelling folder.
pub const ITEMS: &str = "items.jsonl";
/// The file of judgments in a labelling folder.
pub const JUDGMENTS: &str = "judgments.jsonl";
/// The prefix of annotators that are programs.
pub const PROGRAM_PREFIX: &str = "judge:";

/// What an annotator is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// An order of all responses, with ties.
    Rank,
    /// A score per response.
    Score,
    /// The better of two responses, or a tie.
    Pair,
}

/// How much better the preferred one of two responses is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strength {
    /// Better.
    Better,
    /// Much better.
    Much,
}

/// What one annotator said about one item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgment {
    /// The id of the item.
    pub item: String,
    /// The annotator's name. Programs are called `judge:NAME`.
    pub annotator: String,
    /// What was asked for.
    pub ask: Ask,
    /// The indices of the responses in the order in which they were shown. Of identical responses only the
    /// first is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<usize>,
    /// For [`Ask::Rank`] and [`Ask::Pair`]: the rank of each response in the item's own order, 1 is best,
    /// without gaps (1, 2, 2, 3); equal ranks are ties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Vec<u32>>,
    /// For [`Ask::Score`]: the score of each response in the item's own order, higher is better.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "scores_as_written")]
    pub scores: Option<Vec<f64>>,
    /// For [`Ask::Pair`]: how much better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<Strength>,
    /// For [`Ask::Pair`]: the two tie because both are bad.
    #[serde(default, skip_serializing_if = "is_false")]
    pub both_bad: bool,
    /// Of a program, for two responses: the probability that the first of the item's own order is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<f64>,
    /// Of a reward model: the reward of each response in the item's own order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Vec<f64>>,
    /// Of a program that is asked about pairs in both orders: for each pair of the item's own order, (0, 1),
    /// (0, 2), …, (1, 2), …, the probability that its first response is better, when it is shown first and
    /// when it is shown second. Of a program that gives verdicts 1, ½ for a tie, or 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub both_orders: Vec<[f64; 2]>,
    /// Marks of each response, such as `unsafe`; empty if no response has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Vec<String>>,
    /// The reason for which the item was skipped. Such a judgment has no ranks and no scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// The annotator's remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// 0, or 1 and more when the same annotator was asked again, which measures consistency.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeat: u32,
    /// How long it took.
    #[serde(default)]
    pub seconds: f64,
    /// When it was made, as RFC 3339 in UTC.
    #[serde(default)]
    pub time: String,
    /// The seed of the order.
    #[serde(default)]
    pub seed: u64,
}

/// An annotator's judgment replaces an earlier one of the same key.
pub type Key<'a> = (&'a str, &'a str, u32);

impl Judgment {
    /// Item, annotator and repeat.
    pub fn key(&self) -> Key<'_> {
        (&self.item, &self.annotator, self.repeat)
    }

    /// One without an opinion yet.
    pub fn empty(item: &str, annotator: &str, ask: Ask) -> Self {
        Self {
            item: item.to_owned(),
            annotator: annotator.to_owned(),
            ask,
            order: Vec::new(),
            ranks: None,
            scores: None,
            strength: None,
            both_bad: false,
            preference: None,
            rewards: None,
            both_orders: Vec::new(),
            flags: Vec::new(),
            skipped: None,
            comment: None,
            repeat: 0,
            seconds: 0.0,
            time: String::new(),
            seed: 0,
        }
    }

    /// Whether the annotator is a program.
    pub fn is_of_program(&self) -> bool {
        self.annotator.starts_with(PROGRAM_PREFIX)
    }

    /// The rank of each response, 1 is best, without gaps; `None` if the item was skipped. Scores are
    /// converted.
    pub fn ranks(&self) -> Option<Vec<u32>> {
        match (&self.ranks, &self.scores) {
            (Some(ranks), _) => Some(dense(ranks)),
            (None, Some(scores)) => Some(ranks_of_scores(scores)),
            (None, None) => None,
        }
    }

    /// The probability that response `one` is better than `other`, of a program that gives any: by its
    /// rewards σ(r − r'), by its answers about the pair their mean over both orders.
    pub fn preference_between(&self, one: usize, other: usize) -> Option<f64> {
        if let Some(rewards) = &self.rewards {
            return Some(sigmoid(rewards.get(one)? - rewards.get(other)?));
        }
        if one > other {
            return self.preference_between(other, one).map(|preference| 1.0 - preference);
        }
        if let Some([shown_first, shown_second]) = self.in_both_orders(one, other) {
            return Some((shown_first + shown_second) / 2.0);
        }
        self.preference.filter(|_| (one, other) == (0, 1))
    }

    /// What [`Judgment::both_orders`] has about a pair, the lower index first.
    pub fn in_both_orders(&self, one: usize, other: usize) -> Option<[f64; 2]> {
        let count = self.ranks.as_ref().map(Vec::len).or(self.scores.as_ref().map(Vec::len))?;
        let pair = (0..one).map(|first| count - 1 - first).sum::<usize>() + (other - one - 1);
        self.both_orders.get(pair).copied()
    }

    /// What is wrong with the judgment of an item, one entry per cause.
    pub fn problems(&self, item: &Item) -> Vec<String> {
        let (count, mut problems) = (item.responses.len(), Vec::new());
        let mut expect = |holds: bool, what: String| {
            if !holds {
                problems.push(what);
            }
        };
        expect(!self.annotator.is_empty(), "`annotator` is empty, expected a name".to_owned());
        let answered = (self.ranks.is_some(), self.scores.is_some());
        let expected = match (&self.skipped, self.ask) {
            (Some(_), _) => (false, false),
            (None, Ask::Rank | Ask::Pair) => (true, false),
            (None, Ask::Score) => (false, true),
        };
        let what = "expected `ranks` for rank and pair, `scores` for score, and neither with `skipped`";
        expect(answered == expected, format!("has {answered:?} as (`ranks`, `scores`), {what}"));
        if let Some(ranks) = &self.ranks {
            let fits = ranks.len() == count && !ranks.contains(&0);
            expect(fits, format!("`ranks` is {ranks:?}, expected one rank from 1 per response, {count}"));
        }
        if let Some(scores) = &self.scores {
            let fits = scores.len() == count && scores.iter().all(|score| score.is_finite());
            expect(fits, format!("`scores` is {scores:?}, expected one number per response, {count}"));
        }
        let is_pair = self.ask == Ask::Pair;
        expect(!is_pair || count == 2, format!("`ask` is pair for {count} responses, expected two"));
        let shown = item.distinct();
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        let is_order = sorted.is_empty() || sorted == shown || sorted == (0..count).collect::<Vec<_>>();
        expect(is_order, format!("`order` is {:?}, expected the indices {shown:?} in some order", self.order));
        let fits = self.flags.is_empty() || self.flags.len() == count;
        expect(fits, format!("`flags` has {} lists, expected none or one per response, {count}", self.flags.len()));
        let is_share = self.preference.is_none_or(|share| count == 2 && (0.0..=1.0).contains(&share));
        expect(is_share, "`preference` is not a probability for two responses, expected 0 to 1".to_owned());
        let fits = self
            .rewards
            .as_ref()
            .is_none_or(|rewards| rewards.len() == count && rewards.iter().all(|reward| reward.is_finite()));
        expect(fits, format!("`rewards` is {:?}, expected one number per response, {count}", self.rewards));
        let pairs = count * (count - 1) / 2;
        let are_shares = self.both_orders.iter().flatten().all(|share| (0.0..=1.0).contains(share));
        let fits = self.both_orders.is_empty() || (self.both_orders.len() == pairs && are_shares);
        expect(fits, format!("`both_orders` does not fit, expected two probabilities for each of {pairs} pairs"));
        problems
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// 1 / (1 + e⁻ˣ).
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Writes whole scores without a decimal point.
fn scores_as_written<S: Serializer>(scores: &Option<Vec<f64>>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let is_whole = |score: &f64| score.fract() == 0.0 && score.abs() < 1e15;
    match scores {
        Some(scores) if scores.iter().all(is_whole) => serializer.collect_seq(scores.iter().map(|&score| score as i64)),
        scores => scores.serialize(serializer),
    }
}

/// Ranks without gaps: 1, 2, 2, 4 becomes 1, 2, 2, 3.
pub fn dense(ranks: &[u32]) -> Vec<u32> {
    let mut distinct = ranks.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    ranks.iter().map(|rank| distinct.partition_point(|other| other < rank) as u32 + 1).collect()
}

/// The ranks of scores, without gaps: the highest score has rank 1, equal scores tie.
pub fn ranks_of_scores(scores: &[f64]) -> Vec<u32> {
    let mut distinct = scores.to_vec();
    distinct.sort_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    scores.iter().map(|score| distinct.partition_point(|other| other > score) as u32 + 1).collect()
}

/// The judgments of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReadJudgments {
    /// The latest of each key, in the order of their first lines.
    pub judgments: Vec<Judgment>,
    /// The number of lines that a later line of the same key replaced.
    pub replaced: usize,
    /// The number of bytes up to the end of the last complete line. What is after them is a line that was
    /// being written when the program ended; before appending, the file is cut here.
    pub complete_bytes: u64,
    /// The number of bytes of that line.
    pub torn_bytes: u64,
    /// Whether the last complete line has no line break, which is added before appending.
    pub lacks_line_break: bool,
}

/// Reads judgments. A file that does not exist has none.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every bad line: not JSON (but for the last, if it has no line
/// break), of an unknown item, or not a judgment of that item.
pub fn read_judgments(path: &Path, items: &[Item]) -> Result<ReadJudgments> {
    let bytes = if path.exists() { lines::read(path)? } else { Vec::new() };
    let items: HashMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
    let mut read = ReadJudgments { complete_bytes: bytes.len() as u64, ..ReadJudgments::default() };
    let last_line = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut complete = &bytes[..];
    if last_line < bytes.len() {
        if serde_json::from_slice::<serde_json::Value>(&bytes[last_line..]).is_ok() {
            read.lacks_line_break = true;
        } else {
            complete = &bytes[..last_line];
            (read.complete_bytes, read.torn_bytes) = (last_line as u64, (bytes.len() - last_line) as u64);
        }
    }
    let (mut of_key, mut problems): (HashMap<(String, String, u32), usize>, _) = (HashMap::new(), Problems::new());
    for (number, line) in lines::numbered(complete) {
        let found = lines::parse::<Judgment>(line).map_err(|what| vec![what]).and_then(|judgment| {
            let unknown = || vec![format!("the item {} is not in {ITEMS}, expected one of its ids", judgment.item)];
            let item = items.get(judgment.item.as_str()).ok_or_else(unknown)?;
            let found = judgment.problems(item);
            if found.is_empty() { Ok(judgment) } else { Err(found) }
        });
        match found {
            Ok(judgment) => {
                let key = (judgment.item.clone(), judgment.annotator.clone(), judgment.repeat);
                let at = *of_key.entry(key).or_insert(read.judgments.len());
                if let Some(earlier) = read.judgments.get_mut(at) {
                    *earlier = judgment;
                    read.replaced += 1;
                } else {
                    read.judgments.push(judgment);
                }
            }
            Err(found) => {
                let location = format!("{}:{number}", path.display());
                found.into_iter().for_each(|what| problems.push_problem(Problem::of_row(&location, what)));
            }
        }
    }
    problems.into_result()?;
    Ok(read)
}

/// A labelling folder: its items and judgments.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// The items, in the order of their file.
    pub items: Vec<Item>,
    /// The judgments.
    pub read: ReadJudgments,
    /// The programs among the annotators, as far as `align judge` kept them.
    pub judges: Judges,
}

impl Labels {
    /// Reads a folder.
    ///
    /// # Errors
    /// Those of [`read_items`] and [`read_judgments`].
    pub fn read(folder: &Path) -> Result<Self> {
        let items = read_items(&folder.join(ITEMS))?;
        let read = read_judgments(&folder.join(JUDGMENTS), &items)?;
        Ok(Self { items, read, judges: read_judges(folder)? })
    }
}

#[cfg(test)]
mod tests;

//! Judgments as training data: lists of responses with everyone's scores, or pairs, as `align rm` reads them.

use std::collections::{BTreeMap, BTreeSet};

use align_core::error::{Problems, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::compare::{Annotators, alpha};
use crate::item::Item;
use crate::judgment::{Judgment, Labels};

/// The shape of the rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// A row per item: `prompt`, `responses`, and as `scores` a list per response with everyone's score.
    Lists,
    /// A row per pair of responses: `prompt`, `chosen`, `rejected`, and as `scores` the two mean scores.
    Pairs(PairLimits),
}

/// Which pairs are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLimits {
    /// The minimum number of annotators who prefer the chosen response.
    pub min_agree: usize,
    /// The minimum difference of the mean scores.
    pub min_gap: f64,
}

/// What a score is. Of a ranking of K responses it is K + 1 − rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreUnit {
    /// As given.
    AsGiven,
    /// Standardised per annotator: (score − mean) / standard deviation over all of the annotator's scores, so
    /// that strict and lenient people count alike.
    ZScore,
}

/// What to export.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// The shape of the rows.
    pub shape: Shape,
    /// What a score is.
    pub unit: ScoreUnit,
    /// Whose judgments count.
    pub annotators: Annotators,
}

/// What was exported, and what was left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ExportCounts {
    /// Rows written.
    pub rows: usize,
    /// Items in the folder.
    pub items: usize,
    /// Items with a judgment that counts.
    pub judged_items: usize,
    /// Annotators.
    pub annotators: usize,
    /// Judgments that count.
    pub judgments: usize,
    /// Judgments that skipped an item.
    pub skipped: usize,
    /// Responses dropped because an annotator flagged them.
    pub flagged_responses: usize,
    /// Responses dropped because they have no text, which no model is trained on.
    pub empty_responses: usize,
    /// Judged items with fewer than two different responses left.
    pub too_few_responses: usize,
    /// Lists or pairs whose mean scores are all equal: there is nothing to learn.
    pub ties: usize,
    /// Pairs of which at least as many annotators prefer the response with the lower mean score.
    pub disagreements: usize,
    /// Pairs with fewer agreeing annotators than asked for.
    pub below_min_agree: usize,
    /// Pairs with a smaller difference of mean scores than asked for.
    pub below_min_gap: usize,
    /// Krippendorff's α of the scores or ranks as given, ordinal; see [`crate::compare::Agreement`].
    pub alpha: Option<f64>,
}

/// Rows for training.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// One object per row.
    pub rows: Vec<Value>,
    /// The counts.
    pub counts: ExportCounts,
}

/// An item with the scores of its annotators.
struct Scored<'a> {
    item: &'a Item,
    /// The responses that are left, by index.
    responses: Vec<usize>,
    /// (A, K) Each annotator's score of each response, also of those that are not left.
    scores: Vec<Vec<f64>>,
}

/// Exports the judgments. Repeated judgments are left out.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] if no judgment counts.
pub fn export(labels: &Labels, options: &ExportOptions) -> Result<Exported> {
    let mut problems = Problems::new();
    options.annotators.check(labels, &mut problems);
    problems.into_result()?;
    let of_kind = || labels.read.judgments.iter().filter(|judgment| options.annotators.include(judgment));
    let counted: Vec<&Judgment> =
        of_kind().filter(|judgment| judgment.repeat == 0 && judgment.skipped.is_none()).collect();
    if counted.is_empty() {
        let what = format!("no judgments of {}, expected some to export", options.annotators.name());
        let mut problems = Problems::new();
        problems.push("judgments.jsonl", what);
        problems.into_result()?;
    }
    let as_given: Vec<Vec<f64>> = counted.iter().map(|judgment| scores(judgment)).collect();
    let in_unit = match options.unit {
        ScoreUnit::AsGiven => as_given.clone(),
        ScoreUnit::ZScore => standardised(&counted, &as_given),
    };
    let mut counts = ExportCounts {
        items: labels.items.len(),
        annotators: counted.iter().map(|judgment| &judgment.annotator).collect::<BTreeSet<_>>().len(),
        judgments: counted.len(),
        skipped: of_kind().filter(|judgment| judgment.skipped.is_some()).count(),
        alpha: alpha(labels, &options.annotators),
        ..ExportCounts::default()
    };
    let mut of_item: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    counted.iter().enumerate().for_each(|(at, judgment)| of_item.entry(&judgment.item).or_default().push(at));
    let mut rows = Vec::new();
    for item in &labels.items {
        let Some(judgments) = of_item.get(item.id.as_str()) else { continue };
        counts.judged_items += 1;
        let is_flagged = |index: &usize| judgments.iter().any(|&at| is_flagged(counted[at], *index));
        let (flagged, responses): (Vec<usize>, Vec<usize>) = item.distinct().into_iter().partition(is_flagged);
        counts.flagged_responses += flagged.len();
        let is_empty = |index: &usize| item.responses[*index].trim().is_empty();
        let (empty, responses): (Vec<usize>, Vec<usize>) = responses.into_iter().partition(is_empty);
        counts.empty_responses += empty.len();
        if responses.len() < 2 {
            counts.too_few_responses += 1;
            continue;
        }
        let scored = Scored { item, responses, scores: judgments.iter().map(|&at| in_unit[at].clone()).collect() };
        match options.shape {
            Shape::Lists => rows.extend(list(&scored, &mut counts)),
            Shape::Pairs(limits) => rows.extend(pairs(&scored, limits, &mut counts)),
        }
    }
    counts.rows = rows.len();
    Ok(Exported { rows, counts })
}

/// The scores of a judgment: as given, or K + 1 − rank.
fn scores(judgment: &Judgment) -> Vec<f64> {
    let of_ranks = || {
        let ranks = judgment.ranks().expect("a judgment that is not skipped has ranks or scores");
        ranks.iter().map(|&rank| ranks.len() as f64 + 1.0 - f64::from(rank)).collect()
    };
    judgment.scores.clone().unwrap_or_else(of_ranks)
}

fn is_flagged(judgment: &Judgment, response: usize) -> bool {
    judgment.flags.get(response).is_some_and(|flags| !flags.is_empty())
}

/// Each annotator's scores with mean 0 and standard deviation 1; 0 where all are equal.
fn standardised(counted: &[&Judgment], as_given: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut of_annotator: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (judgment, scores) in counted.iter().zip(as_given) {
        of_annotator.entry(&judgment.annotator).or_default().extend(scores);
    }
    let moments: BTreeMap<&str, (f64, f64)> = of_annotator
        .into_iter()
        .map(|(name, scores)| {
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
            (name, (mean, (squares / scores.len() as f64).sqrt()))
        })
        .collect();
    let standardised = |(judgment, scores): (&&Judgment, &Vec<f64>)| {
        let (mean, deviation) = moments[judgment.annotator.as_str()];
        let unit = |score: &f64| if deviation > 0.0 { (score - mean) / deviation } else { 0.0 };
        scores.iter().map(unit).collect()
    };
    counted.iter().zip(as_given).map(standardised).collect()
}

fn mean_score(scored: &Scored<'_>, response: usize) -> f64 {
    scored.scores.iter().map(|scores| scores[response]).sum::<f64>() / scored.scores.len() as f64
}

/// Whether two mean scores differ by more than rounding.
fn differ(one: f64, other: f64) -> bool {
    (one - other).abs() > 1e-9
}

fn list(scored: &Scored<'_>, counts: &mut ExportCounts) -> Option<Value> {
    let means: Vec<f64> = scored.responses.iter().map(|&response| mean_score(scored, response)).collect();
    if !means.iter().any(|&mean| differ(mean, means[0])) {
        counts.ties += 1;
        return None;
    }
    let responses: Vec<&str> = scored.responses.iter().map(|&index| scored.item.responses[index].as_str()).collect();
    let of_response = |&index: &usize| scored.scores.iter().map(|scores| number(scores[index])).collect::<Vec<_>>();
    let scores: Vec<Vec<Value>> = scored.responses.iter().map(of_response).collect();
    Some(json!({ "prompt": scored.item.prompt, "responses": responses, "scores": scores }))
}

fn pairs(scored: &Scored<'_>, limits: PairLimits, counts: &mut ExportCounts) -> Vec<Value> {
    let mut rows = Vec::new();
    for (place, &one) in scored.responses.iter().enumerate() {
        for &other in &scored.responses[place + 1..] {
            let means = [mean_score(scored, one), mean_score(scored, other)];
            if !differ(means[0], means[1]) {
                counts.ties += 1;
                continue;
            }
            let (chosen, rejected) = if means[0] > means[1] { (one, other) } else { (other, one) };
            let prefer = |better: usize, worse: usize| {
                scored.scores.iter().filter(|scores| scores[better] > scores[worse]).count()
            };
            let (agree, disagree) = (prefer(chosen, rejected), prefer(rejected, chosen));
            let gap = (means[0] - means[1]).abs();
            if agree <= disagree {
                counts.disagreements += 1;
            } else if agree < limits.min_agree {
                counts.below_min_agree += 1;
            } else if gap < limits.min_gap - 1e-9 {
                counts.below_min_gap += 1;
            } else {
                rows.push(json!({
                    "prompt": scored.item.prompt, "chosen": scored.item.responses[chosen],
                    "rejected": scored.item.responses[rejected],
                    "scores": [number(means[0].max(means[1])), number(means[0].min(means[1]))],
                }));
            }
        }
    }
    rows
}

/// Whole scores are written without a decimal point.
fn number(score: f64) -> Value {
    if score.fract() == 0.0 && score.abs() < 1e15 { json!(score as i64) } else { json!(score) }
}

#[cfg(test)]
mod tests;

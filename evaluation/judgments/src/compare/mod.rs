//! Comparison of models by judgments: each model's wins, ties and losses against a baseline, ratings of all
//! models at once, how far annotators agree, and how far to trust the result.
//!
//! A ranking of K responses is one verdict (win, tie or loss) for each pair of models. Intervals come from a
//! bootstrap over items, in which all judgments of an item stay together.

mod against_baseline;
mod agreement;
mod annotators;
mod findings;
mod ratings;
mod tables;
#[cfg(test)]
mod tests;
mod votes;

use std::collections::BTreeSet;

use align_core::error::{Problems, Result};
use align_statistics::bootstrap::Draws;
use align_statistics::comparison_models::OrderEffect;
use serde::Serialize;

pub use against_baseline::{CategoryOutcome, Length, ModelOutcome, Outcome, Soft, Test};
pub use agreement::{Agreement, GroupAgreement, Scale};
pub use annotators::AnnotatorQuality;
pub use ratings::{Rating, Ratings};
pub use tables::Table;

use crate::judgment::{Judgment, Labels};
pub use votes::pairs;
use votes::{Judged, Vote};

/// Whose judgments count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Annotators {
    /// Those of people.
    People,
    /// Those of programs (`judge:NAME`).
    Programs,
    /// Those of these annotators, people or programs.
    Named(BTreeSet<String>),
}

impl Annotators {
    /// Whether a judgment is of such an annotator.
    pub fn include(&self, judgment: &Judgment) -> bool {
        match self {
            Self::People => !judgment.is_of_program(),
            Self::Programs => judgment.is_of_program(),
            Self::Named(names) => names.contains(&judgment.annotator),
        }
    }

    /// Refuses names without a judgment.
    pub(crate) fn check(&self, labels: &Labels, problems: &mut Problems) {
        let Self::Named(names) = self else { return };
        let known: BTreeSet<&str> = labels.read.judgments.iter().map(|judgment| judgment.annotator.as_str()).collect();
        for name in names.iter().filter(|name| !known.contains(name.as_str())) {
            let all: Vec<&str> = known.iter().copied().collect();
            let what = format!("{name} has no judgment, expected one of: {}", all.join(", "));
            problems.push("--annotator", what);
        }
    }

    /// A word for messages.
    pub fn name(&self) -> String {
        match self {
            Self::People => "people".to_owned(),
            Self::Programs => "programs".to_owned(),
            Self::Named(names) => names.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        }
    }
}

/// What counts as one verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counting {
    /// Each judgment.
    Each,
    /// Each item: the order of the responses by the median of their ranks.
    Majority,
}

/// What to compare, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The model that the others are compared with.
    pub baseline: String,
    /// Whose judgments count.
    pub annotators: Annotators,
    /// What counts as one verdict.
    pub counting: Counting,
    /// Whether the ratings have a term for being shown first.
    pub order_effect: OrderEffect,
    /// The draws of the bootstrap and of permutations.
    pub draws: Draws,
}

/// The number of draws. Our choice: percentiles are then within about 1 % of the interval's width.
pub const DRAWS: u64 = 10_000;

/// A number with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measure {
    /// The number.
    pub value: f64,
    /// The interval, from a bootstrap over items; absent if it is undefined in most draws.
    pub ci95: Option<[f64; 2]>,
    /// How many things it is a mean of.
    pub count: u64,
}

/// The comparison of all models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The model that the others are compared with.
    pub baseline: String,
    /// Whose judgments count.
    pub annotators: Annotators,
    /// What counts as one verdict.
    pub counting: Counting,
    /// The number of items in the folder.
    pub items: usize,
    /// The number of items with a judgment that counts.
    pub judged_items: usize,
    /// The number of items left out because they do not name their models.
    pub items_without_models: usize,
    /// The number of judgments that count.
    pub judgments: usize,
    /// The number of judgments that skipped an item.
    pub skipped: usize,
    /// The number of draws of the bootstrap.
    pub draws: u64,
    /// Their seed.
    pub seed: u64,
    /// Each model against the baseline, by net win.
    pub models: Vec<ModelOutcome>,
    /// Ratings from all pairs of models at once; absent if the fit failed.
    pub ratings: Option<Ratings>,
    /// Agreement of the annotators; absent without two judgments of the same item.
    pub agreement: Option<Agreement>,
    /// How often people agree with each other, and each program with people; empty without both.
    pub groups: Vec<GroupAgreement>,
    /// How often the response shown earlier won, of verdicts that were no ties.
    pub first_shown: Option<Measure>,
    /// The annotators, by name.
    pub by_annotator: Vec<AnnotatorQuality>,
    /// What to be careful about, one sentence each.
    pub findings: Vec<String>,
}

/// Compares the models.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] if the baseline is not a model of the items, if no judgment counts,
/// and if an order effect is asked for that the judgments cannot show.
pub fn compare(labels: &Labels, options: &Options) -> Result<Comparison> {
    check(labels, options)?;
    let judged = votes::judged(labels, &options.annotators);
    let with_models: Vec<&Judged<'_>> = judged.iter().filter(|judged| judged.item.models.is_some()).collect();
    let counted = votes::counted(&with_models, options.counting);
    let everyone = |judgment: &&Judgment| options.annotators.include(judgment);
    let mut comparison = Comparison {
        baseline: options.baseline.clone(),
        annotators: options.annotators.clone(),
        counting: options.counting,
        items: labels.items.len(),
        judged_items: judged.len(),
        items_without_models: judged.len() - with_models.len(),
        judgments: judged.iter().map(|judged| judged.votes.len()).sum(),
        skipped: labels.read.judgments.iter().filter(everyone).filter(|judgment| judgment.skipped.is_some()).count(),
        draws: options.draws.count,
        seed: options.draws.seed,
        models: against_baseline::outcomes(&counted, &model_names(labels), options),
        ratings: ratings::rate(&counted, options),
        agreement: agreement::agreement(&judged, options.draws),
        groups: agreement::groups(labels, options.draws),
        first_shown: annotators::first_shown(&judged, options.draws, |_: &Vote<'_>| true),
        by_annotator: annotators::quality(labels, &judged, options),
        findings: Vec::new(),
    };
    comparison.findings = findings::findings(&comparison, &labels.judges);
    Ok(comparison)
}

/// Krippendorff's α, ordinal, as in [`Agreement::alpha_ordinal`].
pub(crate) fn alpha(labels: &Labels, annotators: &Annotators) -> Option<f64> {
    let found = agreement::agreement(&votes::judged(labels, annotators), Draws { count: 0, seed: 0 })?;
    found.alpha_ordinal.map(|alpha| alpha.value)
}

fn check(labels: &Labels, options: &Options) -> Result<()> {
    let mut problems = Problems::new();
    options.annotators.check(labels, &mut problems);
    let annotators_are_known = problems.is_empty();
    let names = model_names(labels);
    if names.is_empty() {
        problems.push("items.jsonl", "no item has `models`, expected the name of the model of each response");
    } else if !names.contains(options.baseline.as_str()) {
        let names: Vec<&str> = names.into_iter().collect();
        let what = format!("{} is not a model of the items, expected one of: {}", options.baseline, names.join(", "));
        problems.push("--baseline", what);
    }
    let given: Vec<&Judgment> = labels.read.judgments.iter().filter(|given| given.skipped.is_none()).collect();
    if annotators_are_known && !given.iter().any(|judgment| options.annotators.include(judgment)) {
        let (others, hint) = match &options.annotators {
            Annotators::People => ("programs", "; --judges compares by those"),
            Annotators::Programs => ("people", "; without --judges those count"),
            Annotators::Named(_) => ("others", ""),
        };
        let hint = if given.is_empty() { "" } else { hint };
        let what = format!(
            "no judgments of {}, expected some (there are {} of {others}{hint})",
            options.annotators.name(),
            given.len()
        );
        problems.push("judgments.jsonl", what);
    }
    if options.order_effect == OrderEffect::FirstShown {
        if options.counting == Counting::Majority {
            problems.push("--order-effect", "cannot be used with --majority, whose verdicts have no order of showing");
        }
        let has_order = |given: &&Judgment| options.annotators.include(given) && !given.order.is_empty();
        if !given.iter().any(has_order) {
            problems
                .push("--order-effect", "no judgment has an `order`, expected the order in which responses were shown");
        }
    }
    problems.into_result()
}

/// The names of all models.
fn model_names(labels: &Labels) -> BTreeSet<&str> {
    labels.items.iter().flat_map(|item| item.models.iter().flatten()).map(String::as_str).collect()
}

/// A share of sums over items with its interval; `None` without a denominator.
fn measure(sums: &[(f64, f64)], draws: Draws) -> Option<Measure> {
    let once = vec![1; sums.len()];
    let value = align_statistics::bootstrap::ratio(sums, &once)?;
    let count = sums.iter().map(|sum| sum.1).sum::<f64>().round() as u64;
    Some(Measure { value, ci95: align_statistics::bootstrap::ratio_interval(sums, draws), count })
}

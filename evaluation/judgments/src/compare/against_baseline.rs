//! Each model against the baseline: wins, ties and losses, net win, length.

use std::collections::{BTreeMap, BTreeSet};

use align_statistics::bootstrap::{self, Draws};
use align_statistics::logistic::{LengthObservation, length_controlled_win_rate};
use align_statistics::proportions::FEWEST_FOR_SPREAD;
use align_statistics::sign_tests::{exact_sign_test, sign_permutation_test};
use align_statistics::soft_preferences::soft_win_rate;
use serde::Serialize;

use super::votes::{Counted, verdict};
use super::{Counting, Measure, Options, measure};

/// With at most this many untied items, a p-value of majority verdicts is that of the exact sign test.
const FEW_UNTIED: usize = 25;

/// The test that a p-value is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Permutation of the signs of items.
    SignPermutation,
    /// The exact sign test.
    ExactSign,
}

/// How a model fared against the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// The number of items.
    pub items: usize,
    /// The number of verdicts.
    pub verdicts: usize,
    /// Share of verdicts in which the model won.
    pub win: f64,
    /// Share of ties.
    pub tie: f64,
    /// Share of losses.
    pub loss: f64,
    /// Win − loss.
    pub net_win: f64,
    /// Its 95 % interval, from a bootstrap over items; absent with fewer than five.
    pub ci95: Option<[f64; 2]>,
    /// The two-sided p-value of the hypothesis that neither model is better.
    pub p: f64,
    /// The test.
    pub test: Test,
}

/// The outcome on the items of a category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryOutcome {
    /// The category; absent for items without one.
    pub category: Option<String>,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The part that length has in the outcome. Lengths are in characters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Length {
    /// The mean length of the model's responses.
    pub mean: f64,
    /// The mean length of the baseline's.
    pub baseline_mean: f64,
    /// Of verdicts that are no ties, on responses of different length: how often the longer won.
    pub longer_wins: Option<Measure>,
    /// The win rate, a tie being half a win.
    pub win_rate: f64,
    /// The win rate predicted for responses as long as the baseline's; absent if it cannot be fitted.
    pub length_controlled: Option<Measure>,
}

/// The win rate by probabilities instead of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Soft {
    /// The mean probability that the model's response is better.
    pub win_rate: f64,
    /// Its standard error over items; absent for one item.
    pub standard_error: Option<f64>,
    /// The number of items.
    pub items: u64,
}

/// A model against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelOutcome {
    /// The model.
    pub model: String,
    /// The outcome on all items; absent if no judged item has both models.
    pub outcome: Option<Outcome>,
    /// By category; empty if no item has one.
    pub categories: Vec<CategoryOutcome>,
    /// The part that length has in it.
    pub length: Option<Length>,
    /// The win rate by probabilities, if all judgments have them.
    pub soft: Option<Soft>,
}

/// An item with both models.
pub(super) struct Met<'a> {
    category: Option<&'a str>,
    /// Lengths of the model's response and of the baseline's.
    chars: [f64; 2],
    /// 1 for a win of the model, 0 for a tie, −1 for a loss.
    verdicts: Vec<f64>,
    /// The mean probability that the model's is better, if all judgments have one.
    preference: Option<f64>,
}

/// The outcomes of all models but the baseline, the highest net win first.
pub(super) fn outcomes(counted: &[Counted<'_>], names: &BTreeSet<&str>, options: &Options) -> Vec<ModelOutcome> {
    let others = names.iter().filter(|&&name| name != options.baseline);
    let mut outcomes: Vec<ModelOutcome> = others.map(|name| model_outcome(counted, name, options)).collect();
    let net_win = |model: &ModelOutcome| model.outcome.map_or(f64::NEG_INFINITY, |outcome| outcome.net_win);
    outcomes.sort_by(|a, b| net_win(b).total_cmp(&net_win(a)));
    outcomes
}

fn model_outcome(counted: &[Counted<'_>], model: &str, options: &Options) -> ModelOutcome {
    let met: Vec<Met<'_>> = counted.iter().filter_map(|counted| met(counted, model, &options.baseline)).collect();
    let mut by_category: BTreeMap<Option<&str>, Vec<&Met<'_>>> = BTreeMap::new();
    met.iter().for_each(|item| by_category.entry(item.category).or_default().push(item));
    let has_categories = by_category.keys().any(Option::is_some);
    let of_category = |(category, met): (Option<&str>, Vec<&Met<'_>>)| {
        let outcome = outcome(&met, options.counting, options.draws)?;
        Some(CategoryOutcome { category: category.map(str::to_owned), outcome })
    };
    let categories =
        if has_categories { by_category.into_iter().filter_map(of_category).collect() } else { Vec::new() };
    ModelOutcome {
        model: model.to_owned(),
        outcome: outcome(&met.iter().collect::<Vec<_>>(), options.counting, options.draws),
        categories,
        length: length(&met, options.draws),
        soft: soft(&met),
    }
}

/// `None` unless the item has both models.
pub(super) fn met<'a>(counted: &Counted<'a>, model: &str, baseline: &str) -> Option<Met<'a>> {
    let (one, other) = (counted.item.index_of_model(model)?, counted.item.index_of_model(baseline)?);
    let preferences = counted.orderings.iter().map(|ordering| ordering.judgment?.preference_between(one, other));
    let preferences: Option<Vec<f64>> = preferences.collect();
    Some(Met {
        category: counted.item.category.as_deref(),
        chars: [counted.chars[one] as f64, counted.chars[other] as f64],
        verdicts: counted.orderings.iter().map(|ordering| verdict(&ordering.ranks, one, other)).collect(),
        preference: preferences.map(|given| given.iter().sum::<f64>() / given.len() as f64),
    })
}

pub(super) fn outcome(met: &[&Met<'_>], counting: Counting, draws: Draws) -> Option<Outcome> {
    let verdicts = || met.iter().flat_map(|item| &item.verdicts);
    let count = verdicts().count();
    if count == 0 {
        return None;
    }
    let number = |value: f64| verdicts().filter(|&&verdict| verdict == value).count();
    let share = |value: f64| number(value) as f64 / count as f64;
    let sums: Vec<(f64, f64)> =
        met.iter().map(|item| (item.verdicts.iter().sum(), item.verdicts.len() as f64)).collect();
    let net: Vec<f64> = sums.iter().map(|sum| sum.0).collect();
    let untied = net.iter().filter(|&&net| net != 0.0).count();
    let (p, test) = if counting == Counting::Majority && untied <= FEW_UNTIED {
        (exact_sign_test(number(1.0) as u64, number(-1.0) as u64), Test::ExactSign)
    } else {
        (sign_permutation_test(&net, draws), Test::SignPermutation)
    };
    Some(Outcome {
        items: met.len(),
        verdicts: count,
        win: share(1.0),
        tie: share(0.0),
        loss: share(-1.0),
        net_win: net.iter().sum::<f64>() / count as f64,
        ci95: bootstrap::ratio_interval(&sums, draws).filter(|_| met.len() >= FEWEST_FOR_SPREAD),
        p,
        test,
    })
}

fn length(met: &[Met<'_>], draws: Draws) -> Option<Length> {
    if met.is_empty() {
        return None;
    }
    let mean = |side: usize| met.iter().map(|item| item.chars[side]).sum::<f64>() / met.len() as f64;
    let longer_wins = |item: &Met<'_>| {
        let longer = (item.chars[0] - item.chars[1]).signum();
        let is_longer = item.chars[0] != item.chars[1];
        let untied = item.verdicts.iter().filter(|&&verdict| is_longer && verdict != 0.0);
        (untied.clone().filter(|&&verdict| verdict == longer).count() as f64, untied.count() as f64)
    };
    let longer_wins: Vec<(f64, f64)> = met.iter().map(longer_wins).collect();
    // The verdicts on an item share its lengths: one observation per item is enough.
    let half_wins = |item: &Met<'_>| item.verdicts.iter().map(|verdict| (verdict + 1.0) / 2.0).sum::<f64>();
    let observation = |(item, &times): (&Met<'_>, &u32)| LengthObservation {
        outcome: half_wins(item) / item.verdicts.len() as f64,
        difference: item.chars[0] - item.chars[1],
        weight: f64::from(times) * item.verdicts.len() as f64,
    };
    let controlled = |times: &[u32]| {
        let observations: Vec<LengthObservation> =
            met.iter().zip(times).filter(|(_, times)| **times > 0).map(observation).collect();
        length_controlled_win_rate(&observations)
    };
    let verdicts: usize = met.iter().map(|item| item.verdicts.len()).sum();
    let length_controlled = controlled(&vec![1; met.len()]).map(|value| Measure {
        value,
        ci95: bootstrap::interval(met.len(), draws, controlled),
        count: verdicts as u64,
    });
    Some(Length {
        mean: mean(0),
        baseline_mean: mean(1),
        longer_wins: measure(&longer_wins, draws),
        win_rate: met.iter().map(half_wins).sum::<f64>() / verdicts as f64,
        length_controlled,
    })
}

fn soft(met: &[Met<'_>]) -> Option<Soft> {
    let preferences: Option<Vec<f64>> = met.iter().map(|item| item.preference).collect();
    let found = soft_win_rate(&preferences?)?;
    let standard_error = Some(found.standard_error).filter(|error| error.is_finite());
    Some(Soft { win_rate: found.win_rate, standard_error, items: found.count })
}

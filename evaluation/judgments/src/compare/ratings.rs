//! Ratings of all models at once, by Davidson's model of all pairs.

use std::collections::BTreeSet;

use align_statistics::bootstrap;
use align_statistics::comparison_models::{PairOutcomes, Strengths, Ties, connected_parts, elo, fit};
use serde::Serialize;

use super::votes::{Counted, is_shown_first, pairs, verdict};
use super::{Measure, Options};

/// A model's rating.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rating {
    /// The model.
    pub model: String,
    /// 1000 + 400 / ln 10 · (θ − θ of the baseline); absent if no chain of comparisons leads to the baseline.
    pub elo: Option<f64>,
    /// Its 95 % interval, from a bootstrap over items.
    pub ci95: Option<[f64; 2]>,
    /// The log strength; the mean of all models is 0.
    pub theta: f64,
    /// The number of verdicts with this model.
    pub verdicts: u64,
    /// Whether it never lost and never tied, or never won and never tied: then its rating is finite only
    /// because of the small ridge.
    pub is_bounded_by_ridge: bool,
}

/// The ratings of all models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratings {
    /// The models, the highest rating first.
    pub models: Vec<Rating>,
    /// ln ν, by which ties are more or less frequent; absent without ties.
    pub ln_nu: Option<f64>,
    /// γ: how much the log strength grows by being shown first, if asked for.
    pub first_shown: Option<Measure>,
    /// Minus the log-likelihood.
    pub negative_log_likelihood: f64,
}

/// The verdicts of an item: indices of the models shown first and second, and counts of first wins, ties and
/// second wins. Where it is not known which was first, half counts each way.
type ItemOutcomes = Vec<(usize, usize, [f64; 3])>;

/// Fits the ratings; `None` if the maximum was not found.
pub(super) fn rate(counted: &[Counted<'_>], options: &Options) -> Option<Ratings> {
    let names: BTreeSet<&str> =
        counted.iter().flat_map(|counted| counted.item.models.iter().flatten()).map(String::as_str).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let items: Vec<ItemOutcomes> = counted.iter().map(|counted| outcomes(counted, &names)).collect();
    let all = sum(&items, &vec![1; items.len()], names.len());
    let fitted = fit(names.len(), &all, Ties::Outcome, options.order_effect, None)?;
    let baseline = names.iter().position(|&name| name == options.baseline)?;
    let part = connected_parts(names.len(), &all);
    let statistics = |times: &[u32]| -> Vec<Option<f64>> {
        let drawn = sum(&items, times, names.len());
        let part = connected_parts(names.len(), &drawn);
        let refitted = fit(names.len(), &drawn, Ties::Outcome, options.order_effect, Some(&fitted));
        let elo_of = |model: usize| {
            let is_connected = part[model] == part[baseline];
            refitted.as_ref().filter(|_| is_connected).map(|found| elo(found.theta[model], found.theta[baseline]))
        };
        let first_shown = refitted.as_ref().and_then(|found| found.first_shown);
        (0..names.len()).map(elo_of).chain([first_shown]).collect()
    };
    let intervals = bootstrap::intervals(items.len(), options.draws, names.len() + 1, statistics);
    let rating = |model: usize| {
        let is_connected = part[model] == part[baseline];
        let [won, tied, lost] = record(&all, model);
        Rating {
            model: names[model].to_owned(),
            elo: is_connected.then(|| elo(fitted.theta[model], fitted.theta[baseline])),
            ci95: intervals[model].filter(|_| is_connected),
            theta: fitted.theta[model],
            verdicts: (won + tied + lost).round() as u64,
            is_bounded_by_ridge: tied == 0.0 && (won == 0.0 || lost == 0.0),
        }
    };
    let mut models: Vec<Rating> = (0..names.len()).map(rating).collect();
    models.sort_by(|a, b| b.theta.total_cmp(&a.theta));
    let Strengths { ln_nu, first_shown, negative_log_likelihood, .. } = fitted;
    let count = all.iter().map(|pair| pair.first_wins + pair.ties + pair.second_wins).sum::<f64>().round() as u64;
    let first_shown = first_shown.map(|value| Measure { value, ci95: intervals[names.len()], count });
    Some(Ratings { models, ln_nu, first_shown, negative_log_likelihood })
}

fn outcomes(counted: &Counted<'_>, names: &[&str]) -> ItemOutcomes {
    let models = counted.item.models.as_deref().unwrap_or_default();
    let index = |response: usize| names.binary_search(&models[response].as_str()).expect("all names are there");
    let mut outcomes = Vec::new();
    for ordering in &counted.orderings {
        for (one, other) in pairs(models.len()) {
            let result = verdict(&ordering.ranks, one, other);
            let is = |value: f64| f64::from(u8::from(result == value));
            let (forward, backward) = ([is(1.0), is(0.0), is(-1.0)], [is(-1.0), is(0.0), is(1.0)]);
            let (one_index, other_index) = (index(one), index(other));
            match ordering.judgment.and_then(|judgment| is_shown_first(judgment, one, other)) {
                Some(true) => outcomes.push((one_index, other_index, forward)),
                Some(false) => outcomes.push((other_index, one_index, backward)),
                None => {
                    outcomes.push((one_index, other_index, forward.map(|count| count / 2.0)));
                    outcomes.push((other_index, one_index, backward.map(|count| count / 2.0)));
                }
            }
        }
    }
    outcomes
}

/// The outcomes of all items, each as often as it is in the draw.
fn sum(items: &[ItemOutcomes], times: &[u32], models: usize) -> Vec<PairOutcomes> {
    let mut counts = vec![[0.0; 3]; models * models];
    for (outcomes, &times) in items.iter().zip(times).filter(|(_, times)| **times > 0) {
        for &(first, second, outcome) in outcomes {
            let sums = &mut counts[first * models + second];
            (0..3).for_each(|index| sums[index] += f64::from(times) * outcome[index]);
        }
    }
    let some = counts.into_iter().enumerate().filter(|(_, counts)| counts.iter().any(|&count| count > 0.0));
    some.map(|(cell, [first_wins, ties, second_wins])| PairOutcomes {
        first: cell / models,
        second: cell % models,
        first_wins,
        ties,
        second_wins,
    })
    .collect()
}

/// How often a model won, tied and lost.
fn record(pairs: &[PairOutcomes], model: usize) -> [f64; 3] {
    pairs.iter().fold([0.0; 3], |[won, tied, lost], pair| {
        if pair.first == model {
            [won + pair.first_wins, tied + pair.ties, lost + pair.second_wins]
        } else if pair.second == model {
            [won + pair.second_wins, tied + pair.ties, lost + pair.first_wins]
        } else {
            [won, tied, lost]
        }
    })
}

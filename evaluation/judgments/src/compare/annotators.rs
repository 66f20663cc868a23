//! The quality of each annotator's judgments.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use align_statistics::bootstrap::Draws;
use serde::Serialize;

use super::votes::{Judged, Vote, is_shown_first, median, pairs, verdict, verdicts};
use super::{Measure, Options, measure};
use crate::item::Item;
use crate::judgment::{Judgment, Labels};

/// How an annotator judged. Shares are of verdicts on pairs of responses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnotatorQuality {
    /// The name.
    pub annotator: String,
    /// The number of judgments that count.
    pub judgments: usize,
    /// The number of items skipped.
    pub skipped: usize,
    /// How often another annotator of the same item has the same verdict.
    pub agreement: Option<Measure>,
    /// How often two other annotators of the same items agree, for comparison.
    pub agreement_of_others: Option<f64>,
    /// How often the verdict is that of the item's known answer.
    pub gold: Option<Measure>,
    /// How often the verdict is the same when asked again.
    pub consistency: Option<Measure>,
    /// How often the response shown earlier won, of verdicts that are no ties.
    pub first_shown: Option<Measure>,
    /// The median time for an item.
    pub median_seconds: Option<f64>,
}

/// Every annotator of the chosen kind, by name.
pub(super) fn quality(labels: &Labels, judged: &[Judged<'_>], options: &Options) -> Vec<AnnotatorQuality> {
    let items: HashMap<&str, &Item> = labels.items.iter().map(|item| (item.id.as_str(), item)).collect();
    let given = || labels.read.judgments.iter().filter(|judgment| options.annotators.include(judgment));
    let names: BTreeSet<&str> = given().map(|judgment| judgment.annotator.as_str()).collect();
    let of_annotator = |name: &str| {
        let own: Vec<&Judgment> = given().filter(|judgment| judgment.annotator == name).collect();
        let counted = || own.iter().filter(|judgment| judgment.repeat == 0 && judgment.skipped.is_none());
        let seconds: Vec<f64> = counted().map(|judgment| judgment.seconds).filter(|&seconds| seconds > 0.0).collect();
        let (with, among) = agreement(judged, name);
        AnnotatorQuality {
            annotator: name.to_owned(),
            judgments: counted().count(),
            skipped: own.iter().filter(|judgment| judgment.skipped.is_some()).count(),
            agreement: measure(&with, options.draws),
            agreement_of_others: (among.1 > 0.0).then(|| among.0 / among.1),
            gold: gold(&own, &items, options.draws),
            consistency: consistency(&own, options.draws),
            first_shown: first_shown(judged, options.draws, |vote| vote.judgment.annotator == name),
            median_seconds: (!seconds.is_empty()).then(|| median(seconds)),
        }
    };
    names.into_iter().map(of_annotator).collect()
}

/// How many verdicts are equal, and how many there are.
fn equal(one: &[f64], other: &[f64]) -> (f64, f64) {
    (one.iter().zip(other).filter(|(one, other)| one == other).count() as f64, one.len() as f64)
}

fn added(sum: (f64, f64), more: (f64, f64)) -> (f64, f64) {
    (sum.0 + more.0, sum.1 + more.1)
}

/// The agreement of one annotator with the others, by item, and that of the others on the same items.
fn agreement(judged: &[Judged<'_>], name: &str) -> (Vec<(f64, f64)>, (f64, f64)) {
    let (mut with, mut among) = (Vec::new(), (0.0, 0.0));
    for judged in judged {
        let is_own = |vote: &&Vote<'_>| vote.judgment.annotator == name;
        let Some(own) = judged.votes.iter().find(is_own) else { continue };
        let own = verdicts(&own.ranks);
        let others: Vec<Vec<f64>> =
            judged.votes.iter().filter(|vote| !is_own(vote)).map(|vote| verdicts(&vote.ranks)).collect();
        if others.is_empty() {
            continue;
        }
        with.push(others.iter().map(|other| equal(&own, other)).fold((0.0, 0.0), added));
        among = pairs(others.len()).map(|(one, other)| equal(&others[one], &others[other])).fold(among, added);
    }
    (with, among)
}

/// Agreement with known answers.
fn gold(own: &[&Judgment], items: &HashMap<&str, &Item>, draws: Draws) -> Option<Measure> {
    let of_judgment = |judgment: &&Judgment| {
        let gold = items.get(judgment.item.as_str())?.gold.as_ref()?;
        let known: Vec<f64> = gold.iter().copied().map(f64::from).collect();
        Some(equal(&verdicts(&ranks(judgment)?), &verdicts(&known)))
    };
    let first = own.iter().filter(|judgment| judgment.repeat == 0);
    measure(&first.filter_map(of_judgment).collect::<Vec<_>>(), draws)
}

/// Agreement of repeated judgments with the first ones.
fn consistency(own: &[&Judgment], draws: Draws) -> Option<Measure> {
    let mut of_item: BTreeMap<&str, Vec<&Judgment>> = BTreeMap::new();
    own.iter().for_each(|judgment| of_item.entry(&judgment.item).or_default().push(judgment));
    let of_repeats = |judgments: &Vec<&Judgment>| {
        let first = judgments.iter().find(|judgment| judgment.repeat == 0)?;
        let first = verdicts(&ranks(first)?);
        let repeats = judgments.iter().filter(|judgment| judgment.repeat > 0);
        let equal = repeats.filter_map(|repeat| Some(equal(&first, &verdicts(&ranks(repeat)?))));
        Some(equal.fold((0.0, 0.0), added))
    };
    measure(&of_item.values().filter_map(of_repeats).collect::<Vec<_>>(), draws)
}

fn ranks(judgment: &Judgment) -> Option<Vec<f64>> {
    judgment.ranks().map(|ranks| ranks.into_iter().map(f64::from).collect())
}

/// How often the response that was shown earlier won, over the chosen votes.
pub(super) fn first_shown(
    judged: &[Judged<'_>],
    draws: Draws,
    is_chosen: impl Fn(&Vote<'_>) -> bool,
) -> Option<Measure> {
    let of_vote = |vote: &Vote<'_>| {
        let mut sums = (0.0, 0.0);
        for (one, other) in pairs(vote.ranks.len()) {
            if let Some([first, second]) = vote.judgment.in_both_orders(one, other) {
                // The one shown first wins with a share above ½; in the other order that is the other one.
                let decided = [first, 1.0 - second].into_iter().filter(|share| *share != 0.5);
                sums = decided.map(|share| (f64::from(u8::from(share > 0.5)), 1.0)).fold(sums, added);
                continue;
            }
            let Some(one_is_first) = is_shown_first(vote.judgment, one, other) else { continue };
            let result = verdict(&vote.ranks, one, other);
            if result != 0.0 {
                sums = added(sums, (f64::from(u8::from((result > 0.0) == one_is_first)), 1.0));
            }
        }
        sums
    };
    let of_item =
        |judged: &Judged<'_>| judged.votes.iter().filter(|vote| is_chosen(vote)).map(of_vote).fold((0.0, 0.0), added);
    let sums: Vec<(f64, f64)> = judged.iter().map(of_item).filter(|sums| sums.1 > 0.0).collect();
    measure(&sums, draws)
}

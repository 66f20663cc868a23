//! Verdicts out of judgments.

use std::collections::HashMap;

use super::{Annotators, Counting};
use crate::item::Item;
use crate::judgment::{Judgment, Labels};

/// A judgment that ranks the responses.
pub(super) struct Vote<'a> {
    pub(super) judgment: &'a Judgment,
    /// (K) The rank of each response, without gaps.
    pub(super) ranks: Vec<f64>,
}

/// An item with the judgments that count.
pub(super) struct Judged<'a> {
    pub(super) item: &'a Item,
    /// At least one.
    pub(super) votes: Vec<Vote<'a>>,
}

/// An order of an item's responses that counts once.
pub(super) struct Ordering<'a> {
    /// (K) Ranks, 1 is best.
    pub(super) ranks: Vec<f64>,
    /// The judgment that it is from, unless it is from several.
    pub(super) judgment: Option<&'a Judgment>,
}

/// An item with the orders that count, at least one.
pub(super) struct Counted<'a> {
    pub(super) item: &'a Item,
    /// (K) The length of each response in characters.
    pub(super) chars: Vec<usize>,
    pub(super) orderings: Vec<Ordering<'a>>,
}

/// The items with judgments of these annotators, in the order of the items. Repeated and skipped judgments
/// are left out.
pub(super) fn judged<'a>(labels: &'a Labels, annotators: &Annotators) -> Vec<Judged<'a>> {
    let mut of_item: HashMap<&str, Vec<Vote<'_>>> = HashMap::new();
    let counts = |judgment: &&Judgment| judgment.repeat == 0 && annotators.include(judgment);
    for judgment in labels.read.judgments.iter().filter(counts) {
        let Some(ranks) = judgment.ranks() else { continue };
        let ranks = ranks.into_iter().map(f64::from).collect();
        of_item.entry(&judgment.item).or_default().push(Vote { judgment, ranks });
    }
    let items = labels.items.iter();
    items.filter_map(|item| of_item.remove(item.id.as_str()).map(|votes| Judged { item, votes })).collect()
}

/// The orders that count.
pub(super) fn counted<'a>(judged: &[&Judged<'a>], counting: Counting) -> Vec<Counted<'a>> {
    let orderings = |judged: &Judged<'a>| -> Vec<Ordering<'a>> {
        match counting {
            Counting::Each => {
                let of_vote = |vote: &Vote<'a>| Ordering { ranks: vote.ranks.clone(), judgment: Some(vote.judgment) };
                judged.votes.iter().map(of_vote).collect()
            }
            Counting::Majority => vec![Ordering { ranks: median_ranks(&judged.votes), judgment: None }],
        }
    };
    let of_item = |judged: &&Judged<'a>| Counted {
        item: judged.item,
        chars: judged.item.responses.iter().map(|text| text.chars().count()).collect(),
        orderings: orderings(judged),
    };
    judged.iter().map(of_item).collect()
}

/// The median rank of each response; between the two middle ones for an even number.
fn median_ranks(votes: &[Vote<'_>]) -> Vec<f64> {
    let of_response = |index: usize| median(votes.iter().map(|vote| vote.ranks[index]).collect());
    (0..votes[0].ranks.len()).map(of_response).collect()
}

/// The median of at least one number.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    (numbers[(numbers.len() - 1) / 2] + numbers[numbers.len() / 2]) / 2.0
}

/// 1 if `one` is better than `other`, 0 if they tie, −1 if it is worse.
pub(super) fn verdict(ranks: &[f64], one: usize, other: usize) -> f64 {
    let (one, other) = (ranks[one], ranks[other]);
    f64::from(i8::from(one < other) - i8::from(one > other))
}

/// All pairs of `count` responses, the lower index first.
pub fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |one| (one + 1..count).map(move |other| (one, other)))
}

/// The verdict on each pair of responses.
pub(super) fn verdicts(ranks: &[f64]) -> Vec<f64> {
    pairs(ranks.len()).map(|(one, other)| verdict(ranks, one, other)).collect()
}

/// Whether `one` was shown before `other`; `None` if either was not shown, or the order is not known.
pub(super) fn is_shown_first(judgment: &Judgment, one: usize, other: usize) -> Option<bool> {
    let place = |index: usize| judgment.order.iter().position(|&shown| shown == index);
    Some(place(one)? < place(other)?)
}

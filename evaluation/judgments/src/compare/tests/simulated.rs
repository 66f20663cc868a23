//! Simulated judgments: how often an interval holds what is true, and how often a difference is found.

use align_core::random::{Purpose, uniform};

use super::*;
use crate::compare::against_baseline::{met, outcome};

/// Judgments of `items` items by three people. On an item, the model wins with probability
/// (0.7 + net + effect) / 2 and loses with (0.7 − net − effect) / 2, where the item's effect is uniform
/// between −`spread` and `spread`: people who look at the same item agree more than by chance.
fn simulate(seed: u64, items: usize, net: f64, spread: f64) -> Labels {
    let draw = |index: usize, place: u64| uniform(seed, Purpose::Generate, index as u64, 0, place);
    let (mut all, mut judgments) = (Vec::new(), Vec::new());
    for index in 0..items {
        let id = format!("{index}");
        all.push(item(&id, &["base", "new"], &["one", "two"]));
        let shift = net + spread * (2.0 * draw(index, 0) - 1.0);
        for (place, annotator) in [(1, "ann"), (2, "bob"), (3, "cyd")] {
            let ranks = match draw(index, place) {
                share if share < (0.7 + shift) / 2.0 => [2, 1],
                share if share < 0.7 => [1, 2],
                _ => [1, 1],
            };
            judgments.push(ranked(&id, annotator, &ranks));
        }
    }
    labels(all, judgments)
}

/// The interval of the net win, with the p-value.
fn net_win(labels: &Labels, seed: u64) -> ([f64; 2], f64) {
    let judged = votes::judged(labels, &Annotators::People);
    let counted = votes::counted(&judged.iter().collect::<Vec<_>>(), Counting::Each);
    let items: Vec<_> = counted.iter().filter_map(|counted| met(counted, "new", "base")).collect();
    let found = outcome(&items.iter().collect::<Vec<_>>(), Counting::Each, Draws { count: 300, seed }).unwrap();
    (found.ci95.unwrap(), found.p)
}

#[test]
fn two_copies_of_a_model_do_not_differ() {
    let (mut holds, mut rejected) = (0, 0);
    for seed in 0..100 {
        let ([low, high], p) = net_win(&simulate(seed, 200, 0.0, 0.6), seed);
        holds += u32::from(low <= 0.0 && 0.0 <= high);
        rejected += u32::from(p < 0.05);
    }
    assert!(holds >= 93, "the interval holds 0 in {holds} of 100");
    assert!(rejected <= 9, "p < 0.05 in {rejected} of 100");
}

#[test]
fn a_difference_of_ten_points_is_found() {
    let found = (0..100).filter(|&seed| net_win(&simulate(seed, 300, 0.1, 0.3), seed).0[0] > 0.0).count();
    assert!(found >= 80, "found in {found} of 100");
}

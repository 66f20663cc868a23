//! The cluster bootstrap: whole clusters (items with all their judgments) are drawn with replacement, so that
//! dependence within a cluster widens the interval as it should.
//!
//! Source: B. Efron, R. Tibshirani, "An introduction to the bootstrap" (1993), chapters 8 and 13.

use align_core::random::{Purpose, stream};
use rand::Rng;
use rayon::prelude::*;

/// The number of draws and their seed. Draw b is a function of (seed, b) alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// How many.
    pub count: u64,
    /// The seed.
    pub seed: u64,
}

/// How often each of `clusters` clusters is in a draw with replacement; the sum is `clusters`.
pub fn resample(clusters: usize, seed: u64, draw: u64) -> Vec<u32> {
    let mut random = stream(seed, Purpose::Bootstrap, draw, 0);
    let mut times = vec![0; clusters];
    (0..clusters).for_each(|_| times[random.random_range(0..clusters as u64) as usize] += 1);
    times
}

/// The 95 % percentile intervals of several statistics over the same draws. A statistic is given how often
/// each cluster is in the draw. A draw in which a statistic is undefined is left out of its interval; `None`
/// if that is so for more than half of the draws, or without clusters.
pub fn intervals<F>(clusters: usize, draws: Draws, count: usize, statistics: F) -> Vec<Option<[f64; 2]>>
where
    F: Fn(&[u32]) -> Vec<Option<f64>> + Sync,
{
    if clusters == 0 || draws.count == 0 {
        return vec![None; count];
    }
    let drawn = (0..draws.count).into_par_iter().map(|draw| statistics(&resample(clusters, draws.seed, draw)));
    let drawn: Vec<Vec<Option<f64>>> = drawn.collect();
    let interval = |index: usize| {
        let mut values: Vec<f64> = drawn.iter().filter_map(|values| values[index]).collect();
        if 2 * (values.len() as u64) < draws.count {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some([0.025, 0.975].map(|share| percentile(&values, share)))
    };
    (0..count).map(interval).collect()
}

/// As [`intervals`], for one statistic.
pub fn interval<F>(clusters: usize, draws: Draws, statistic: F) -> Option<[f64; 2]>
where
    F: Fn(&[u32]) -> Option<f64> + Sync,
{
    intervals(clusters, draws, 1, |times| vec![statistic(times)])[0]
}

/// The interval of a ratio of sums over clusters, Σ numerator / Σ denominator: a mean over everything in the
/// clusters.
pub fn ratio_interval(sums: &[(f64, f64)], draws: Draws) -> Option<[f64; 2]> {
    interval(sums.len(), draws, |times| ratio(sums, times))
}

/// Σ numerator / Σ denominator, each cluster as often as it was drawn; `None` without a denominator.
pub fn ratio(sums: &[(f64, f64)], times: &[u32]) -> Option<f64> {
    let weighted = sums.iter().zip(times).fold((0.0, 0.0), |(above, below), (sum, &times)| {
        (above + f64::from(times) * sum.0, below + f64::from(times) * sum.1)
    });
    (weighted.1 > 0.0).then(|| weighted.0 / weighted.1)
}

/// A quantile of ascending values, interpolated linearly between them.
///
/// # Panics
/// Without values.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

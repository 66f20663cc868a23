//! Tests of paired differences by their signs.

use align_core::random::{Purpose, stream};
use rand::RngCore;
use statrs::function::factorial::ln_binomial;

use crate::bootstrap::Draws;

/// Up to this many differences other than 0, all assignments of signs are enumerated.
const ENUMERATED: usize = 16;

/// The two-sided p-value of the exact sign test of `wins` against `losses`, ties left out: twice the smaller
/// tail of the binomial distribution with ½, at most 1.
pub fn exact_sign_test(wins: u64, losses: u64) -> f64 {
    let (few, all) = (wins.min(losses), wins + losses);
    let tail: f64 = (0..=few).map(|count| (ln_binomial(all, count) - all as f64 * std::f64::consts::LN_2).exp()).sum();
    (2.0 * tail).min(1.0)
}

/// The two-sided p-value of the hypothesis that differences are symmetric around 0: the share of assignments
/// of signs whose |sum| is at least that of the differences. All assignments are enumerated when there are
/// few; otherwise they are drawn, and the one observed counts as one more: p = (1 + k) / (1 + draws).
///
/// Source: R. A. Fisher, "The design of experiments" (1935), section 21; B. Phipson, G. Smyth, "Permutation
/// p-values should never be zero" (2010).
pub fn sign_permutation_test(differences: &[f64], draws: Draws) -> f64 {
    let differences: Vec<f64> = differences.iter().copied().filter(|&difference| difference != 0.0).collect();
    if differences.is_empty() {
        return 1.0;
    }
    // A sum that equals the observed one but for rounding counts as equal.
    let scale: f64 = differences.iter().map(|difference| difference.abs()).sum();
    let observed = differences.iter().sum::<f64>().abs() - 1e-12 * scale;
    if differences.len() <= ENUMERATED {
        let all = 1u64 << differences.len();
        let extreme = (0..all).filter(|&signs| signed_sum(&differences, [signs].into_iter()).abs() >= observed);
        return extreme.count() as f64 / all as f64;
    }
    let extreme = (0..draws.count).filter(|&draw| {
        let mut random = stream(draws.seed, Purpose::Permutation, draw, 0);
        signed_sum(&differences, std::iter::from_fn(|| Some(random.next_u64()))).abs() >= observed
    });
    (1 + extreme.count()) as f64 / (1 + draws.count) as f64
}

/// The sum with the sign of each difference reversed where its bit is set.
fn signed_sum(differences: &[f64], words: impl Iterator<Item = u64>) -> f64 {
    let of_word = |(chunk, word): (&[f64], u64)| -> f64 {
        let signed = chunk.iter().enumerate();
        signed.map(|(bit, difference)| if word >> bit & 1 == 1 { -difference } else { *difference }).sum()
    };
    differences.chunks(64).zip(words).map(of_word).sum()
}

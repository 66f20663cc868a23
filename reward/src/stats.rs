//! The accuracy of a reward model on pairs, and its confidence interval.

use serde::Serialize;

/// The 97.5 % point of the normal distribution, for two-sided 95 % intervals.
const Z_95: f64 = 1.959_963_984_540_054;

/// Accuracy over pairs of scores. All pairs have the same weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairAccuracy {
    /// Number of pairs.
    pub pairs: u64,
    /// Share of pairs whose chosen score is higher; a tie counts one half; 0 without pairs.
    pub accuracy: f64,
    /// Number of pairs with equal scores.
    pub ties: u64,
    /// Wilson's 95 % interval of the accuracy.
    pub ci95: [f64; 2],
}

/// The accuracy over (chosen score, rejected score) pairs. A pair with a NaN score counts as wrong.
pub fn pair_accuracy(scores: impl IntoIterator<Item = (f64, f64)>) -> PairAccuracy {
    let (mut pairs, mut ties, mut correct) = (0, 0, 0.0);
    for (chosen, rejected) in scores {
        pairs += 1;
        ties += u64::from(chosen == rejected);
        correct += agreement(chosen, rejected);
    }
    let accuracy = correct / pairs.max(1) as f64;
    PairAccuracy { pairs, accuracy, ties, ci95: wilson(accuracy, pairs) }
}

/// 1 if the chosen score is higher, ½ if the scores are equal, 0 otherwise.
pub fn agreement(chosen: f64, rejected: f64) -> f64 {
    if chosen > rejected {
        1.0
    } else if chosen == rejected {
        0.5
    } else {
        0.0
    }
}

/// The index of the highest score, the first of equal ones; 0 without scores.
pub fn best(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, k| if scores[k] > scores[best] { k } else { best })
}

/// Wilson's 95 % score interval of a proportion observed in `count` trials; [0, 1] without trials.
///
/// Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
/// (1927).
pub fn wilson(proportion: f64, count: u64) -> [f64; 2] {
    if count == 0 {
        return [0.0, 1.0];
    }
    let (count, z2) = (count as f64, Z_95 * Z_95);
    let center = proportion + z2 / (2.0 * count);
    let half_width = Z_95 * (proportion * (1.0 - proportion) / count + z2 / (4.0 * count * count)).sqrt();
    let scale = 1.0 + z2 / count;
    [((center - half_width) / scale).max(0.0), ((center + half_width) / scale).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_first_of_the_highest() {
        assert_eq!(best(&[0.5]), 0);
        assert_eq!(best(&[-1.0, 2.0, 0.0, 2.0]), 1);
        assert_eq!(best(&[3.0, 3.0]), 0);
    }

    #[test]
    fn a_tie_is_half_right() {
        let found = pair_accuracy([(1.0, 0.0), (2.0, 2.0), (0.0, 3.0), (0.5, 0.25)]);
        assert_eq!((found.pairs, found.ties, found.accuracy), (4, 1, 0.625));
        assert_eq!(pair_accuracy([(f64::NAN, 0.0)]).accuracy, 0.0);
        assert_eq!(pair_accuracy([]), PairAccuracy { pairs: 0, accuracy: 0.0, ties: 0, ci95: [0.0, 1.0] });
    }

    /// Expected values: the roots of `(p − s)² = z²·p·(1 − p)/n` for 8 and 0 successes of 10, found by
    /// bisection.
    #[test]
    fn wilson_of_known_proportions() {
        for (proportion, [low, high]) in [(0.8, [0.490_162_5, 0.943_317_8]), (0.0, [0.0, 0.277_532_8])] {
            let found = wilson(proportion, 10);
            assert!((found[0] - low).abs() < 1e-7 && (found[1] - high).abs() < 1e-7, "{found:?}");
        }
    }

    /// The observed proportion is 1.96 standard errors away from either end of the interval.
    #[test]
    fn wilson_bounds_solve_their_equation() {
        for (proportion, count) in [(0.5, 1), (0.5, 7), (0.625, 4), (0.7, 10_000)] {
            for bound in wilson(proportion, count) {
                let error = (bound * (1.0 - bound) / count as f64).sqrt();
                assert!(((proportion - bound).abs() / error - Z_95).abs() < 1e-9);
            }
        }
    }
}

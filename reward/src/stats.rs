//! The accuracy of a reward model on pairs, and its confidence interval.

use align_statistics::proportions::wilson;
use serde::Serialize;

/// Accuracy over pairs of scores. All pairs have the same weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairAccuracy {
    /// Number of pairs.
    pub pairs: u64,
    /// Fraction of pairs whose chosen score is higher; a tie counts one half; 0 without pairs.
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
}

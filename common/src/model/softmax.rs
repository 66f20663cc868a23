//! The softmax of the language-model head on the CPU: what is wanted of a row of logits, and the gradient, each in one pass over
//! memory, where libtorch's operations take ten. Rows do not depend on each other, so results do not depend on the number of
//! threads.

use crate::arithmetic::{by_processor, exp, multiply_add};
use crate::parallel;

/// What is known of one row of logits (V).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row {
    /// log p(target).
    pub(super) logprob: f32,
    /// The entropy of the distribution.
    pub(super) entropy: f32,
    /// Whether the target's logit is the highest.
    pub(super) correct: bool,
    /// Σ exp(logit − highest).
    sum: f32,
}

/// Reads rows of logits (n, V). With `keep`, leaves exp(logit − highest) in their place, for [`gradient`].
pub(super) fn read(logits: &mut [f32], targets: &[i64], keep: bool) -> Vec<Row> {
    let mut rows = vec![Row::default(); targets.len()];
    each(logits, targets, &mut rows, |logits, target, row| *row = read_row(logits, target, keep));
    rows
}

/// Turns what [`read`] left into ∂L/∂logits, given ∂L/∂logprob of every row: (onehot − softmax) · ∂L/∂logprob.
pub(super) fn gradient(kept: &mut [f32], targets: &[i64], rows: &[Row], grads: &[f32]) {
    let mut given: Vec<(Row, f32)> = rows.iter().copied().zip(grads.iter().copied()).collect();
    each(kept, targets, &mut given, |kept, target, (row, grad)| {
        let scale = -*grad / row.sum;
        kept.iter_mut().for_each(|entry| *entry *= scale);
        kept[target] += *grad;
    });
}

/// Leaves exp(logit − highest) in place of each logit and returns their sum, which is not finite when the logits are no numbers.
pub(crate) fn exponentials(logits: &mut [f32]) -> f64 {
    sums(logits, true).1
}

/// Calls `work` with every row, on all threads.
fn each<T: Send>(
    matrix: &mut [f32],
    targets: &[i64],
    beside: &mut [T],
    work: impl Fn(&mut [f32], usize, &mut T) + Sync,
) {
    if targets.is_empty() {
        return;
    }
    let (elements, width) = (matrix.len(), matrix.len() / targets.len());
    let rows = matrix.chunks_exact_mut(width).zip(targets).zip(beside).collect();
    parallel::each(rows, elements, |((row, target), beside)| work(row, *target as usize, beside));
}

fn read_row(logits: &mut [f32], target: usize, keep: bool) -> Row {
    let chosen = logits[target];
    let (highest, sum, weighted) = sums(logits, keep);
    let log_sum = sum.ln();
    Row {
        logprob: (f64::from(chosen - highest) - log_sum) as f32,
        entropy: (log_sum - weighted / sum) as f32,
        correct: chosen == highest,
        sum: sum as f32,
    }
}

by_processor! {
    /// The highest logit, Σ exp(x) and Σ x·exp(x) over x = logit − highest.
    fn sums(logits: &mut [f32], keep: bool) -> (f32, f64, f64) = sums_by;
}

/// Numbers that one instruction works on, at most.
const LANES: usize = 16;
/// Entries whose sums stay in fp32 before they are added in f64.
const BLOCK: usize = 1024;

#[inline(always)]
fn sums_by<const FUSED: bool>(logits: &mut [f32], keep: bool) -> (f32, f64, f64) {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for lanes in whole {
        for (highest, logit) in highest.iter_mut().zip(lanes) {
            *highest = if *logit > *highest { *logit } else { *highest };
        }
    }
    let highest = highest.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max);

    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    for block in logits.chunks_mut(BLOCK) {
        let (mut sums, mut weights) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (whole, rest) = block.as_chunks_mut::<LANES>();
        for lanes in whole {
            for ((logit, sum), weighted) in lanes.iter_mut().zip(&mut sums).zip(&mut weights) {
                let x = *logit - highest;
                let e = exp::<FUSED>(x);
                *sum += e;
                *weighted = multiply_add::<FUSED>(x, e, *weighted);
                if keep {
                    *logit = e;
                }
            }
        }
        for ((logit, sum), weighted) in rest.iter_mut().zip(&mut sums).zip(&mut weights) {
            let x = *logit - highest;
            let e = exp::<FUSED>(x);
            *sum += e;
            *weighted = multiply_add::<FUSED>(x, e, *weighted);
            if keep {
                *logit = e;
            }
        }
        sum += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
        weighted += weights.iter().map(|sum| f64::from(*sum)).sum::<f64>();
    }
    (highest, sum, weighted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In f64, by the definitions.
    fn expected(logits: &[f32], target: usize) -> (f64, f64) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f64> = logits.iter().map(|logit| f64::from(logit - highest).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let entropy = exps.iter().filter(|e| **e > 0.0).map(|e| -(e / sum) * (e / sum).ln()).sum();
        ((exps[target] / sum).ln(), entropy)
    }

    #[test]
    fn what_is_not_a_number_stays_none() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = vec![0.5; 40];
            logits[17] = bad;
            assert!(read(&mut logits, &[3], true)[0].logprob.is_nan());
        }
    }

    #[test]
    fn every_kind_of_arithmetic_agrees() {
        let logits: Vec<f32> = (0..5000).map(|at| ((at * 7919 % 1000) as f32 - 500.0) / 40.0).collect();
        let (widest, plain) = (sums(&mut logits.clone(), false), sums_by::<false>(&mut logits.clone(), false));
        assert_eq!(widest.0, plain.0);
        assert!(
            (widest.1 / plain.1 - 1.0).abs() < 1e-6 && (widest.2 / plain.2 - 1.0).abs() < 1e-6,
            "{widest:?} {plain:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn rows_and_gradients_follow_their_definitions(
            rows in prop::collection::vec(prop::collection::vec(-30.0..30.0f32, 37), 1..5),
            grad in -2.0..2.0f32,
        ) {
            let targets: Vec<i64> = (0..rows.len() as i64).map(|row| row * 11 % 37).collect();
            let mut matrix = rows.concat();
            let found = read(&mut matrix, &targets, true);
            gradient(&mut matrix, &targets, &found, &vec![grad; rows.len()]);
            for (index, (row, target)) in rows.iter().zip(&targets).enumerate() {
                let target = *target as usize;
                let (logprob, entropy) = expected(row, target);
                prop_assert!((f64::from(found[index].logprob) - logprob).abs() < 1e-5 * logprob.abs().max(1.0));
                prop_assert!((f64::from(found[index].entropy) - entropy).abs() < 1e-5 * entropy.max(1.0));
                for (id, entry) in matrix[index * 37..][..37].iter().enumerate() {
                    let onehot = f64::from(u8::from(id == target));
                    let slope = f64::from(grad) * (onehot - expected(row, id).0.exp());
                    prop_assert!((f64::from(*entry) - slope).abs() < 1e-6, "{} {}", entry, slope);
                }
            }
        }
    }
}

//! The softmax of the language-model head on the CPU, for blocks of the vocabulary that stay in cache:
//! the statistics of each row and the gradient, in one pass each. libtorch's operations need about ten.
//! Rows do not depend on each other, so results do not depend on the number of threads.

use std::ops::Range;

use crate::cpu::simd::{exp, multiply_add, simd_dispatch};
use crate::cpu::threads;
use crate::logprobs::MASKED_LOGIT;

/// Whether the exponentials of a pass over logits replace these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exponentials {
    Discard,
    Store,
}

/// Statistics of a row (V) within a block of the vocabulary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// The target's logit, where it is in this block.
    chosen: f32,
    highest: f32,
    /// Σ exp(x) and Σ x·exp(x) over x = logit − highest.
    sum: f64,
    weighted: f64,
}

/// Statistics of one row of logits (V).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// log p(target).
    pub logprob: f32,
    /// The entropy of the distribution.
    pub entropy: f32,
    /// Whether the target's logit is the highest.
    pub correct: bool,
    highest: f32,
    /// Σ exp(logit − highest).
    sum: f64,
}

/// Which rows (n) a block of logits belongs to, and which part of the vocabulary it is.
#[derive(Debug, Clone)]
pub(crate) struct Block<'a> {
    /// The part of the vocabulary.
    pub ids: Range<usize>,
    /// Ids (n).
    pub targets: &'a [i64],
    /// The ids kept in each row, ascending; all unless given.
    pub nucleus: Option<&'a [Vec<i64>]>,
}

impl Block<'_> {
    /// The sums over logits (n, ids), in place of which exp(logit − highest) may be stored, for
    /// [`Block::gradient`].
    pub(crate) fn read(&self, logits: &mut [f32], exponentials: Exponentials) -> Vec<Part> {
        let mut parts = vec![
            Part { chosen: MASKED_LOGIT, highest: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 };
            self.targets.len()
        ];
        self.each(logits, parts.iter_mut(), |row, logits, part| {
            part.chosen = logits.get(self.place_of_target(row)).copied().unwrap_or(MASKED_LOGIT);
            (part.highest, part.sum, part.weighted) = match self.nucleus {
                None => sums(logits, exponentials),
                Some(nucleus) => self.sums_of(logits, &nucleus[row], exponentials),
            };
        });
        parts
    }

    /// As `sums`, over the kept ids; where exponentials are stored, those of the other ids are 0.
    fn sums_of(&self, logits: &mut [f32], nucleus: &[i64], exponentials: Exponentials) -> (f32, f64, f64) {
        let from = |id: usize| nucleus.partition_point(|kept| (*kept as usize) < id);
        let places =
            || nucleus[from(self.ids.start)..from(self.ids.end)].iter().map(|id| *id as usize - self.ids.start);
        let mut kept: Vec<f32> = places().map(|place| logits[place]).collect();
        let found = if kept.is_empty() { (f32::NEG_INFINITY, 0.0, 0.0) } else { sums(&mut kept, exponentials) };
        if exponentials == Exponentials::Store {
            logits.fill(0.0);
            places().zip(kept).for_each(|(place, entry)| logits[place] = entry);
        }
        found
    }

    /// Turns what [`Block::read`] left into ∂L/∂logits, given g = ∂L/∂logprob / temperature of every row:
    /// (onehot − softmax) · g.
    pub(crate) fn gradient(&self, kept: &mut [f32], parts: &[Part], rows: &[Row], grads: &[f32]) {
        let given = parts.iter().zip(rows).zip(grads);
        self.each(kept, given, |row, kept, ((part, whole), grad)| {
            let scale = f64::from(-*grad) / whole.sum * f64::from(part.highest - whole.highest).exp();
            multiply(kept, scale as f32);
            if let Some(target) = kept.get_mut(self.place_of_target(row)) {
                *target += *grad;
            }
        });
    }

    /// Where a row's target is among the ids; beyond them where it is in another block.
    fn place_of_target(&self, row: usize) -> usize {
        (self.targets[row] as usize).wrapping_sub(self.ids.start)
    }

    /// Calls `work` with the place of every row, its entries and what is beside it, on all threads.
    fn each<T: Send>(
        &self,
        matrix: &mut [f32],
        beside: impl Iterator<Item = T>,
        work: impl Fn(usize, &mut [f32], T) + Sync,
    ) {
        let elements = matrix.len();
        let rows = matrix.chunks_exact_mut(self.ids.len()).zip(beside).enumerate().collect();
        threads::parallel_for(rows, elements, |(row, (entries, beside))| work(row, entries, beside));
    }
}

impl Row {
    /// From its parts, one a block.
    pub(crate) fn of<'a>(parts: impl Iterator<Item = &'a Part> + Clone) -> Self {
        let highest = parts.clone().map(|part| part.highest).fold(f32::NEG_INFINITY, f32::max);
        let chosen = parts.clone().map(|part| part.chosen).fold(MASKED_LOGIT, f32::max);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for part in parts.filter(|part| part.sum != 0.0) {
            let lower = f64::from(part.highest - highest);
            sum += part.sum * lower.exp();
            weighted += (part.weighted + lower * part.sum) * lower.exp();
        }
        let log_sum = sum.ln();
        Self {
            logprob: (f64::from(chosen - highest) - log_sum) as f32,
            entropy: (log_sum - weighted / sum) as f32,
            correct: chosen == highest,
            highest,
            sum,
        }
    }
}

/// Leaves exp(logit − highest) in place of each logit and returns their sum, which is non-finite when a logit
/// is.
pub(crate) fn exponentials(logits: &mut [f32]) -> f64 {
    sums(logits, Exponentials::Store).1
}

simd_dispatch! {
    /// Each entry times `factor`.
    pub(crate) fn multiply(entries: &mut [f32], factor: f32) = multiply_by;
}

#[inline(always)]
fn multiply_by<const FMA: bool>(entries: &mut [f32], factor: f32) {
    for entry in entries {
        *entry *= factor;
    }
}

simd_dispatch! {
    /// The highest logit, Σ exp(x) and Σ x·exp(x) over x = logit − highest.
    fn sums(logits: &mut [f32], exponentials: Exponentials) -> (f32, f64, f64) = sums_by;
}

/// Elements that one instruction works on, at most.
const LANES: usize = 16;
/// Entries whose sums stay in fp32 before they are added in f64.
const BLOCK: usize = 1024;

#[inline(always)]
fn sums_by<const FMA: bool>(logits: &mut [f32], exponentials: Exponentials) -> (f32, f64, f64) {
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
                let e = exp::<FMA>(x);
                *sum += e;
                *weighted = multiply_add::<FMA>(x, e, *weighted);
                if exponentials == Exponentials::Store {
                    *logit = e;
                }
            }
        }
        for ((logit, sum), weighted) in rest.iter_mut().zip(&mut sums).zip(&mut weights) {
            let x = *logit - highest;
            let e = exp::<FMA>(x);
            *sum += e;
            *weighted = multiply_add::<FMA>(x, e, *weighted);
            if exponentials == Exponentials::Store {
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

    /// Reads rows of 37 logits in two blocks: the statistics of each row, and the gradient of its logits.
    fn both(rows: &[Vec<f32>], targets: &[i64], nucleus: Option<&[Vec<i64>]>, grad: f32) -> (Vec<Row>, Vec<Vec<f32>>) {
        let blocks = [0..20, 20..37].map(|ids| Block { ids, targets, nucleus });
        let mut entries =
            blocks.clone().map(|block| rows.iter().flat_map(|row| row[block.ids.clone()].to_vec()).collect::<Vec<_>>());
        let mut parts = Vec::new();
        for (block, entries) in blocks.iter().zip(&mut entries) {
            parts.push(block.read(entries, Exponentials::Store));
        }
        let found: Vec<Row> = (0..rows.len()).map(|row| Row::of(parts.iter().map(|parts| &parts[row]))).collect();
        for ((block, entries), parts) in blocks.iter().zip(&mut entries).zip(&parts) {
            block.gradient(entries, parts, &found, &vec![grad; rows.len()]);
        }
        let logit_grads = |row: usize| [&entries[0][row * 20..][..20], &entries[1][row * 17..][..17]].concat();
        (found, (0..rows.len()).map(logit_grads).collect())
    }

    #[test]
    fn non_finite_logits_give_non_finite_logprobs() {
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [3, 17, 30] {
                let mut logits = vec![0.5; 37];
                logits[place] = bad;
                assert!(both(&[logits], &[3], None, 1.0).0[0].logprob.is_nan());
            }
        }
    }

    #[test]
    fn tokens_outside_the_nucleus_have_no_gradient() {
        let logits: Vec<f32> = (0..37).map(|id| (id * 7 % 11) as f32 - 5.0).collect();
        for kept in [vec![2i64, 5, 19], vec![21, 36], vec![0, 20, 30]] {
            let target = kept.len() / 2;
            let (rows, logit_grads) =
                both(std::slice::from_ref(&logits), &[kept[target]], Some(std::slice::from_ref(&kept)), 0.5);
            let inside: Vec<f32> = kept.iter().map(|id| logits[*id as usize]).collect();
            let (logprob, entropy) = expected(&inside, target);
            assert!(
                (f64::from(rows[0].logprob) - logprob).abs() < 1e-5
                    && (f64::from(rows[0].entropy) - entropy).abs() < 1e-5
            );
            for (id, logit_grad) in logit_grads[0].iter().enumerate() {
                let probability =
                    kept.iter().position(|kept| *kept == id as i64).map_or(0.0, |at| expected(&inside, at).0.exp());
                let onehot = f64::from(u8::from(id as i64 == kept[target]));
                assert!((f64::from(*logit_grad) - 0.5 * (onehot - probability)).abs() < 1e-6, "{id}: {logit_grad}");
            }
        }
    }

    #[test]
    fn every_kind_of_arithmetic_agrees() {
        let logits: Vec<f32> = (0..5000).map(|at| ((at * 7919 % 1000) as f32 - 500.0) / 40.0).collect();
        let (widest, plain) = (
            sums(&mut logits.clone(), Exponentials::Discard),
            sums_by::<false>(&mut logits.clone(), Exponentials::Discard),
        );
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
            let (found, logit_grads) = both(&rows, &targets, None, grad);
            for (index, (row, target)) in rows.iter().zip(&targets).enumerate() {
                let target = *target as usize;
                let (logprob, entropy) = expected(row, target);
                prop_assert!((f64::from(found[index].logprob) - logprob).abs() < 1e-5 * logprob.abs().max(1.0));
                prop_assert!((f64::from(found[index].entropy) - entropy).abs() < 1e-5 * entropy.max(1.0));
                for (id, entry) in logit_grads[index].iter().enumerate() {
                    let onehot = f64::from(u8::from(id == target));
                    let logit_grad = f64::from(grad) * (onehot - expected(row, id).0.exp());
                    prop_assert!((f64::from(*entry) - logit_grad).abs() < 1e-6, "{} {}", entry, logit_grad);
                }
            }
        }
    }
}

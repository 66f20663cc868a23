//! Draws from rows of logits. The nucleus of top-p is found without sorting the vocabulary, which would cost
//! more than the model: the leading bits of its edge by bisection over the mass above them, and only what
//! shares them is sorted.

use tch::{Kind, Tensor};

use crate::cpu::simd::simd_dispatch;
use crate::cpu::slices::as_f32_slice_mut;
use crate::cpu::softmax::exponentials;
use crate::cpu::threads;
use align_core::error::Result;

use crate::reference::non_finite;
use crate::sampling::{Sample, Sampling};

/// As [`crate::ops::Ops::sample`], at a temperature above 0.
pub(super) fn sample(logits: Tensor, sampling: &Sampling, uniform: &dyn Fn(usize) -> f64) -> Result<Vec<Sample>> {
    let _guard = tch::no_grad_guard();
    let (_, all) = logits.size2().expect("logits are (B, V)");
    let width = sampling.vocab.min(all);
    let mut logits = logits.to_kind(Kind::Float).contiguous();
    if sampling.temperature != 1.0 {
        let _ = logits.g_div_scalar_(sampling.temperature);
    }
    let numel = logits.numel();
    let rows = as_f32_slice_mut(&mut logits).chunks_exact_mut(all as usize).map(|row| &mut row[..width as usize]);
    let mut samples: Vec<(f64, Option<Sample>)> = (0..rows.len()).map(|row| (uniform(row), None)).collect();
    threads::parallel_for(rows.zip(&mut samples).collect(), numel, |(row, (uniform, sample))| {
        *sample = sample_row(row, sampling, *uniform);
    });
    samples.into_iter().map(|(_, sample)| sample.ok_or_else(non_finite)).collect()
}

/// Draws from one row of logits, which it overwrites; nothing when they are not numbers.
fn sample_row(logits: &mut [f32], sampling: &Sampling, uniform: f64) -> Option<Sample> {
    let total = exponentials(logits);
    let weights = &*logits;
    if !total.is_finite() {
        return None;
    }
    let kept = if sampling.top_p >= 1.0 { Nucleus::all() } else { Nucleus::of(weights, total, sampling.top_p * total) };
    let nucleus = sampling.record_nucleus.then(|| kept.ids(weights));
    Some(Sample { token: kept.draw(weights, uniform), nucleus })
}

/// The tokens that top-p keeps, given weights in proportion to probabilities: those with more than the weight
/// of the cutoff, and those equal to it up to the id of the cutoff.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Nucleus {
    weight: f32,
    id: usize,
}

/// Leading bits of an fp32 number: its exponent and seven bits of its mantissa.
const LEADING: u32 = 16;

impl Nucleus {
    /// Everything.
    fn all() -> Self {
        Self { weight: 0.0, id: usize::MAX }
    }

    /// Of `weights` in 0..=1 with the sum `total`, token i is kept iff the mass of those before it is below
    /// `mass`, in descending order and of equal ones by id; at least one.
    pub(crate) fn of(weights: &[f32], total: f64, mass: f64) -> Self {
        let threshold = |leading: u32| f32::from_bits(leading << LEADING);
        // Even if all tokens had this weight, they would sum to less than the excluded mass; halved to absorb
        // rounding.
        let surely_kept = ((total - mass) / weights.len() as f64 / 2.0).clamp(0.0, 1.0) as f32;
        // Bisection over leading bits: from `low` on there is at least `mass`, from `high` on there is less.
        let (mut low, mut high) = (surely_kept.to_bits() >> LEADING, (1.0f32.to_bits() >> LEADING) + 1);
        let mut above = 0.0;
        while high - low > 1 {
            let middle = low.midpoint(high);
            let from_there = mass_from(weights, threshold(middle));
            if from_there < mass {
                (high, above) = (middle, from_there);
            } else {
                low = middle;
            }
        }
        let mut members = Vec::new();
        for (start, block) in (0..).step_by(MEMBERS).zip(weights.chunks(MEMBERS)) {
            if any_leads(block, low) {
                let those = (start..).zip(block).filter(|(_, weight)| weight.to_bits() >> LEADING == low);
                members.extend(those.map(|(id, weight)| (*weight, id)));
            }
        }
        members.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        for (weight, id) in members {
            above += f64::from(weight);
            if above >= mass {
                return Self { weight, id };
            }
        }
        Self::all() // rounding left the whole mass below
    }

    fn keeps(self, id: usize, weight: f32) -> bool {
        weight > self.weight || (weight == self.weight && id <= self.id)
    }

    /// The kept ids, ascending.
    pub(crate) fn ids(self, weights: &[f32]) -> Vec<i64> {
        let kept = weights.iter().enumerate().filter(|(id, weight)| self.keeps(*id, **weight));
        kept.map(|(id, _)| id as i64).collect()
    }

    /// The first kept id, ascending, up to which the kept mass exceeds the drawn part of all of it.
    pub(crate) fn draw(self, weights: &[f32], draw: f64) -> i64 {
        const BLOCK: usize = 1024;
        let blocks = || (0..).step_by(BLOCK).zip(weights.chunks(BLOCK));
        let masses: Vec<f64> = blocks().map(|(start, block)| self.mass(start, block)).collect();
        let mut left = draw * masses.iter().sum::<f64>();
        let mut last = 0;
        for ((start, block), mass) in blocks().zip(&masses) {
            if *mass == 0.0 {
                continue;
            }
            if left >= *mass {
                left -= mass;
                last = start + block.len();
                continue;
            }
            for (id, weight) in (start..).zip(block) {
                if *weight > 0.0 && self.keeps(id, *weight) {
                    last = id + 1;
                    left -= f64::from(*weight);
                    if left < 0.0 {
                        return id as i64;
                    }
                }
            }
        }
        // Only rounding leads here: the last kept token.
        let before = weights[..last].iter().enumerate().rev();
        before
            .into_iter()
            .find(|(id, weight)| **weight > 0.0 && self.keeps(*id, **weight))
            .map_or(0, |(id, _)| id as i64)
    }

    /// The kept mass of a block of ids: up to the id of the cutoff its weight is kept, after it only larger
    /// weights.
    fn mass(self, start: usize, block: &[f32]) -> f64 {
        let (before, after) = block.split_at(self.id.saturating_add(1).saturating_sub(start).min(block.len()));
        mass_from(before, self.weight) + mass_from(after, self.weight.next_up())
    }
}

simd_dispatch! {
    /// The sum of the weights that are at least `threshold`.
    fn mass_from(weights: &[f32], threshold: f32) -> f64 = mass_from_by;
}

/// The number of weights that are searched together for one with certain leading bits, which few have.
const MEMBERS: usize = 64;

simd_dispatch! {
    /// Whether one of the weights has these leading bits.
    fn any_leads(weights: &[f32], leading: u32) -> bool = any_leads_by;
}

#[inline(always)]
fn any_leads_by<const FMA: bool>(weights: &[f32], leading: u32) -> bool {
    let mut any = false;
    for weight in weights {
        any |= weight.to_bits() >> LEADING == leading;
    }
    any
}

/// Many running sums, so that additions need not wait for each other.
#[inline(always)]
fn mass_from_by<const FMA: bool>(weights: &[f32], threshold: f32) -> f64 {
    const LANES: usize = 32;
    let mut sums = [0.0f64; LANES];
    let (whole, rest) = weights.as_chunks::<LANES>();
    for weights in whole {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += f64::from(if *weight >= threshold { *weight } else { 0.0 });
        }
    }
    for (sum, weight) in sums.iter_mut().zip(rest) {
        *sum += f64::from(if *weight >= threshold { *weight } else { 0.0 });
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Nucleus;

    fn kept(probabilities: &[f32], top_p: f64) -> Nucleus {
        let total = probabilities.iter().map(|probability| f64::from(*probability)).sum();
        Nucleus::of(probabilities, total, top_p)
    }

    /// The kept ids.
    fn nucleus(probabilities: &[f32], top_p: f64) -> Vec<i64> {
        kept(probabilities, top_p).ids(probabilities)
    }

    #[test]
    fn top_p_keeps_tokens_with_less_than_p_above_them() {
        assert_eq!(nucleus(&[0.15, 0.5, 0.05, 0.3], 0.9), [0, 1, 3]);
        assert_eq!(nucleus(&[0.15, 0.5, 0.05, 0.3], 1e-6), [1]);
        assert_eq!(nucleus(&[0.25; 4], 0.3), [0, 1], "of ties, the lower ids");
        let mut many = vec![0.5 / 1024.0; 1025];
        many[7] = 0.5;
        assert_eq!(nucleus(&many, 0.75).len(), 1 + 512, "a flat tail is cut where the mass is reached");
    }

    #[test]
    fn a_draw_is_the_inverse_of_the_cumulated_kept_mass() {
        let probabilities = [0.45, 0.0, 0.25, 0.1, 0.2];
        let all = |draw| kept(&probabilities, 2.0).draw(&probabilities, draw);
        assert_eq!([0.0, 0.44, 0.46, 0.69, 0.71, 0.81, 1.0 - 1e-12].map(all), [0, 0, 2, 2, 3, 4, 4]);
        let most = |draw| kept(&probabilities, 0.8).draw(&probabilities, draw);
        assert_eq!([0.0, 0.49, 0.51, 0.77, 0.79, 1.0].map(most), [0, 0, 2, 2, 4, 4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against sorting everything and walking down.
        #[test]
        fn a_nucleus_found_by_bisection_is_the_sorted_one(
            weights in prop::collection::vec(prop_oneof![0.0..1.0f64, Just(0.5), 1e-9..1e-6f64, Just(0.0)], 1..3000),
            top_p in 0.01..1.0f64,
            draw in 0.0..1.0f64,
        ) {
            let total = weights.iter().sum::<f64>();
            prop_assume!(total > 0.0);
            let probabilities: Vec<f32> = weights.iter().map(|weight| (weight / total) as f32).collect();
            let mut order: Vec<usize> = (0..probabilities.len()).collect();
            order.sort_by(|&one, &other| probabilities[other].total_cmp(&probabilities[one]));
            let mut above = 0.0;
            let (mut expected, mut close) = (Vec::new(), false);
            for id in order {
                close |= (above - top_p).abs() < 1e-12;
                if above < top_p {
                    expected.push(id as i64);
                }
                above += f64::from(probabilities[id]);
            }
            prop_assume!(!close); // the order of a sum may decide
            expected.sort_unstable();
            prop_assert_eq!(&nucleus(&probabilities, top_p), &expected);

            let mass: f64 = expected.iter().map(|&id| f64::from(probabilities[id as usize])).sum();
            let token = kept(&probabilities, top_p).draw(&probabilities, draw);
            prop_assert!(expected.contains(&token));
            let below: f64 = expected.iter().filter(|&&id| id < token).map(|&id| f64::from(probabilities[id as usize])).sum();
            let own = f64::from(probabilities[token as usize]);
            prop_assert!(below - 1e-9 <= draw * mass && draw * mass <= below + own + 1e-9);
        }
    }
}

//! fp32 weights in 16 bits, rounded so that nothing is lost on average.
//!
//! A step at a usual learning rate moves a weight by less than half the distance to its neighbour in
//! bfloat16. Rounded to the nearest, nearly every weight of a trained model is written as the one it started
//! from. Here a weight between two neighbours goes up with the probability that keeps its mean, (weight −
//! below) / (above − below); one that the dtype holds stays as it is.
//!
//! The draws are a function of (seed, index of the parameter, index of the weight) alone. So a run writes the
//! same bytes each time, and between two of its checkpoints a weight differs only where it has moved.

use rand::RngCore;
use rayon::prelude::*;
use tch::Kind;

use align_core::random::{self, Purpose};

/// Weights that a thread rounds at a time; an even number, so that draws of two bytes begin at a whole word
/// of the stream.
const PART: usize = 1 << 16;

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
/// 3.39e38 and 65504, the largest finite numbers of the two dtypes.
const LARGEST_BF16: u32 = 0x7f7f_0000;
const LARGEST_F16: u32 = 0x477f_e000;
/// 2⁻¹⁴, below which float16 has fewer than 11 bits.
const NORMAL_F16: u32 = 0x3880_0000;

/// What decides about the draws of a parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws {
    /// The run's seed.
    pub(super) seed: u64,
    /// Which parameter of its model it is.
    pub(super) index: u64,
}

/// `weights` in bfloat16 or float16, as the bytes of a file. Infinities and NaN stay what they are.
///
/// # Errors
/// The first finite weight that is larger than every finite number of the dtype.
pub(super) fn rounded(weights: &[f32], to: Kind, draws: Draws) -> Result<Vec<u8>, f32> {
    let is_bf16 = to == Kind::BFloat16;
    debug_assert!(is_bf16 || to == Kind::Half, "{to:?} has not 16 bits");
    let largest = if is_bf16 { LARGEST_BF16 } else { LARGEST_F16 };
    let does_not_fit = |weight: &f32| (largest + 1..INFINITY).contains(&(weight.to_bits() & !SIGN));
    let misfit = weights.par_chunks(PART).find_map_first(|part| {
        let any = part.iter().fold(false, |any, weight| any | does_not_fit(weight));
        any.then(|| part.iter().copied().find(does_not_fit)).flatten()
    });
    if let Some(weight) = misfit {
        return Err(weight);
    }
    let mut bytes = vec![0; 2 * weights.len()];
    let parts = weights.par_chunks(PART).zip(bytes.par_chunks_mut(2 * PART)).enumerate();
    parts.for_each(|(part, (weights, bytes))| match is_bf16 {
        true => part_in_bf16(weights, part * PART, draws, bytes),
        false => part_in_f16(weights, part * PART, draws, bytes),
    });
    Ok(bytes)
}

/// Weights from index `start` on, with 16 bits of the stream each.
fn part_in_bf16(weights: &[f32], start: usize, draws: Draws, bytes: &mut [u8]) {
    let drawn = draw(draws, start / 2, 2 * weights.len());
    for ((weight, draw), bytes) in weights.iter().zip(drawn.as_chunks().0).zip(bytes.as_chunks_mut().0) {
        *bytes = in_bf16(weight.to_bits(), u16::from_le_bytes(*draw)).to_le_bytes();
    }
}

/// Weights from index `start` on, with 32 bits of the stream each.
fn part_in_f16(weights: &[f32], start: usize, draws: Draws, bytes: &mut [u8]) {
    let drawn = draw(draws, start, 4 * weights.len());
    for ((weight, draw), bytes) in weights.iter().zip(drawn.as_chunks().0).zip(bytes.as_chunks_mut().0) {
        *bytes = in_f16(weight.to_bits(), u32::from_le_bytes(*draw)).to_le_bytes();
    }
}

fn draw(draws: Draws, word: usize, count: usize) -> Vec<u8> {
    let mut stream = random::stream(draws.seed, Purpose::Rounding, 0, draws.index);
    stream.set_word_pos(word as u128);
    let mut drawn = vec![0; count];
    stream.fill_bytes(&mut drawn);
    drawn
}

/// bfloat16 is the upper half of fp32: what is above a draw of 16 bits in the lower half carries over.
fn in_bf16(bits: u32, draw: u16) -> u16 {
    let carried = (bits.wrapping_add(u32::from(draw)) >> 16) as u16;
    // A NaN must not carry into the sign, nor lose all its bits and become an infinity.
    let nan = (bits >> 16) as u16 | 0x40;
    if bits & !SIGN > INFINITY { nan } else { carried }
}

/// Of 32 bits, a normal number needs 13; a subnormal one, whose lost part may be longer, is rounded by all of
/// them.
fn in_f16(bits: u32, draw: u32) -> u16 {
    const EXPONENTS: u32 = (127 - 15) << 23;
    let (sign, magnitude) = (((bits & SIGN) >> 16) as u16, bits & !SIGN);
    let rounded = if magnitude > INFINITY {
        0x7e00 | (magnitude >> 13) as u16 & 0x3ff
    } else if magnitude == INFINITY {
        0x7c00
    } else if magnitude >= NORMAL_F16 {
        ((magnitude - EXPONENTS + (draw >> 19)) >> 13) as u16
    } else {
        let steps = f64::from(f32::from_bits(magnitude)) * 2f64.powi(24);
        let up = f64::from(draw) < steps.fract() * 2f64.powi(32);
        steps as u16 + u16::from(up)
    };
    sign | rounded
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: Draws = Draws { seed: 7, index: 3 };

    fn words(weights: &[f32], to: Kind) -> Vec<u16> {
        let bytes = rounded(weights, to, DRAWS).unwrap();
        bytes.as_chunks().0.iter().map(|two| u16::from_le_bytes(*two)).collect()
    }

    /// As IEEE 754 and bfloat16 define them.
    fn value(word: u16, of: Kind) -> f64 {
        let sign = if word >> 15 == 1 { -1.0 } else { 1.0 };
        let (fraction_bits, bias) = if of == Kind::Half { (10, 15) } else { (7, 127) };
        let (exponent, fraction) = ((word & 0x7fff) >> fraction_bits, word & ((1 << fraction_bits) - 1));
        let fraction = f64::from(fraction) / f64::from(1 << fraction_bits);
        match i32::from(exponent) {
            0 => sign * fraction * 2f64.powi(1 - bias),
            largest if largest == 2 * bias + 1 && fraction == 0.0 => sign * f64::INFINITY,
            largest if largest == 2 * bias + 1 => f64::NAN,
            exponent => sign * (1.0 + fraction) * 2f64.powi(exponent - bias),
        }
    }

    #[test]
    fn every_number_of_a_dtype_stays_itself() {
        for of in [Kind::BFloat16, Kind::Half] {
            let all: Vec<u16> = (0..=u16::MAX).filter(|word| !value(*word, of).is_nan()).collect();
            let weights: Vec<f32> = all.iter().map(|word| value(*word, of) as f32).collect();
            assert!(words(&weights, of) == all, "{of:?}");
            let nans = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)];
            assert!(words(&nans, of).iter().all(|word| value(*word, of).is_nan()), "{of:?}");
        }
    }

    /// The mean of many roundings is the weight, to four standard errors; each of them is one of its two
    /// neighbours.
    #[test]
    fn a_weight_keeps_its_mean() {
        const COUNT: usize = 200_000;
        let pi = std::f32::consts::PI;
        let weights = [pi, -pi, 1.0 + 2f32.powi(-20), 1.0 - 2f32.powi(-20), 0.013, -1e-3, 3e-5, -7e-8, 1e-9, 65_503.0];
        for of in [Kind::BFloat16, Kind::Half] {
            let mut neighbours: Vec<f64> =
                (0..=u16::MAX).map(|word| value(word, of)).filter(|value| value.is_finite()).collect();
            neighbours.sort_by(f64::total_cmp);
            for weight in weights {
                let exact = f64::from(weight);
                let above = neighbours.partition_point(|value| *value < exact);
                let (below, above) = (neighbours[above - 1], neighbours[above]);
                let found: Vec<f64> = words(&[weight; COUNT], of).into_iter().map(|word| value(word, of)).collect();
                assert!(found.iter().all(|value| *value == below || *value == above), "{weight} in {of:?}");
                let up = (exact - below) / (above - below);
                let error = (above - below) * (up * (1.0 - up) / COUNT as f64).sqrt();
                let mean = found.iter().sum::<f64>() / COUNT as f64;
                assert!((mean - exact).abs() <= 4.0 * error, "{weight} in {of:?}: {mean}, ± {error}");
            }
        }
    }

    #[test]
    fn the_draws_of_a_place_are_its_own() {
        let weights: Vec<f32> = (0..3 * PART + 5).map(|index| (index as f32).sin()).collect();
        for to in [Kind::BFloat16, Kind::Half] {
            let whole = rounded(&weights, to, DRAWS).unwrap();
            assert!(whole == rounded(&weights, to, DRAWS).unwrap());
            assert!(whole[..2 * PART + 10] == rounded(&weights[..PART + 5], to, DRAWS).unwrap());
            for other in [Draws { seed: 8, ..DRAWS }, Draws { index: 4, ..DRAWS }] {
                assert!(whole != rounded(&weights, to, other).unwrap());
            }
            // Neighbouring parts, and neighbours, do not share their draws.
            let same = rounded(&vec![0.1; 2 * PART], to, DRAWS).unwrap();
            assert!(same[..2 * PART] != same[2 * PART..]);
            let alike = same.as_chunks::<4>().0.iter().filter(|four| four[..2] == four[2..]).count();
            assert!((PART / 3..PART).contains(&alike), "{alike} of {PART}");
        }
    }

    #[test]
    fn a_weight_that_the_dtype_cannot_hold_is_refused() {
        let refused = |weight, to| rounded(&[1.0, f32::NAN, weight, 2.0 * weight], to, DRAWS).unwrap_err();
        assert_eq!(refused(65_505.0, Kind::Half), 65_505.0);
        assert_eq!(refused(-1e5, Kind::Half), -1e5);
        assert_eq!(refused(f32::MAX / 1.999, Kind::Half), f32::MAX / 1.999);
        assert_eq!(rounded(&[1.0, f32::MAX], Kind::BFloat16, DRAWS).unwrap_err(), f32::MAX);
        assert_eq!(words(&[65_504.0, f32::INFINITY, f32::NEG_INFINITY], Kind::Half), [0x7bff, 0x7c00, 0xfc00]);
    }
}

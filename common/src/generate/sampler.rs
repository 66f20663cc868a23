//! Draws from rows of logits. The nucleus of top-p is found without sorting the vocabulary, which would cost more than the model:
//! probabilities are counted by their leading bits, and only those about the edge are sorted.

use tch::{Device, Kind, Tensor};

use super::Sampling;
use crate::error::{Error, Result};
use crate::memory::elements;
use crate::parallel;

/// One draw.
pub(super) struct Pick {
    pub(super) token: i64,
    /// The kept ids in ascending order, when they were asked for.
    pub(super) nucleus: Option<Vec<i64>>,
}

/// Draws a token from each row of logits (B, V); `draw(row)` is uniform in [0, 1).
pub(super) fn pick(logits: &Tensor, sampling: &Sampling, draw: impl Fn(usize) -> f64) -> Result<Vec<Pick>> {
    let _guard = tch::no_grad_guard();
    let width = sampling.vocab.min(logits.size()[1]);
    let logits = logits.narrow(1, 0, width);
    let not_numbers =
        || Error::Failed("the model's logits are not numbers: its weights are broken or diverged".to_owned());
    if sampling.temperature == 0.0 {
        let (best, tokens) = logits.max_dim(-1, false);
        if best.isfinite().all().int64_value(&[]) == 0 {
            return Err(not_numbers());
        }
        let tokens = Vec::<i64>::try_from(tokens).expect("one id a row");
        let nucleus = |token| sampling.record_nucleus.then(|| vec![token]);
        return Ok(tokens.into_iter().map(|token| Pick { token, nucleus: nucleus(token) }).collect());
    }
    let scaled = if sampling.temperature == 1.0 { logits } else { logits / sampling.temperature };
    let probabilities = scaled.softmax(-1, Kind::Float).to_device(Device::Cpu).contiguous();
    let rows = elements(&probabilities).chunks_exact(width as usize);
    let mut picks: Vec<(f64, Option<Pick>)> = (0..rows.len()).map(|row| (draw(row), None)).collect();
    parallel::each(rows.zip(&mut picks).collect(), probabilities.numel(), |(row, (draw, pick))| {
        *pick = pick_from(row, sampling, *draw);
    });
    picks.into_iter().map(|(_, pick)| pick.ok_or_else(not_numbers)).collect()
}

/// Draws from one row of probabilities; nothing when they are not numbers: one NaN or infinity among the logits makes all of them
/// NaN.
fn pick_from(probabilities: &[f32], sampling: &Sampling, draw: f64) -> Option<Pick> {
    if probabilities[0].is_nan() {
        return None;
    }
    let kept = if sampling.top_p >= 1.0 { Kept::all() } else { Kept::nucleus(probabilities, sampling.top_p) };
    let nucleus = sampling.record_nucleus.then(|| kept.ids(probabilities));
    Some(Pick { token: kept.draw(probabilities, draw), nucleus })
}

/// What top-p keeps: the tokens more probable than the edge, and those as probable up to the edge's id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kept {
    probability: f32,
    id: usize,
}

/// Leading bits of an fp32 number: its exponent and seven bits of its mantissa.
const LEADING: u32 = 16;
/// Bins of the probabilities' leading bits.
const BINS: usize = (1.0f32.to_bits() >> LEADING) as usize + 2;

impl Kept {
    /// Everything.
    fn all() -> Self {
        Self { probability: 0.0, id: usize::MAX }
    }

    /// Token i is kept iff the mass of those before it is below `top_p`, most probable first and of equal ones the lowest id; at
    /// least one.
    pub(super) fn nucleus(probabilities: &[f32], top_p: f64) -> Self {
        let bin = |probability: f32| ((probability.to_bits() >> LEADING) as usize).min(BINS - 1);
        let mut masses = vec![0.0f64; BINS];
        for probability in probabilities {
            masses[bin(*probability)] += f64::from(*probability);
        }
        let mut above = 0.0;
        for at in (0..BINS).rev() {
            if above + masses[at] < top_p {
                above += masses[at];
                continue;
            }
            let members = probabilities.iter().enumerate().filter(|(_, probability)| bin(**probability) == at);
            let mut members: Vec<(f32, usize)> = members.map(|(id, probability)| (*probability, id)).collect();
            members.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
            let mut edge = None;
            for (probability, id) in members {
                if above >= top_p {
                    break;
                }
                edge = Some(Self { probability, id });
                above += f64::from(probability);
            }
            if let Some(edge) = edge {
                return edge;
            }
        }
        Self::all() // rounding left the whole mass below top-p
    }

    fn keeps(self, id: usize, probability: f32) -> bool {
        probability > self.probability || (probability == self.probability && id <= self.id)
    }

    /// The kept ids, ascending.
    pub(super) fn ids(self, probabilities: &[f32]) -> Vec<i64> {
        let kept = probabilities.iter().enumerate().filter(|(id, probability)| self.keeps(*id, **probability));
        kept.map(|(id, _)| id as i64).collect()
    }

    /// The first kept id, ascending, up to which the kept mass exceeds the drawn part of all of it.
    pub(super) fn draw(self, probabilities: &[f32], draw: f64) -> i64 {
        const BLOCK: usize = 1024;
        let masses: Vec<f64> = (0..)
            .step_by(BLOCK)
            .zip(probabilities.chunks(BLOCK))
            .map(|(start, block)| self.mass(start, block))
            .collect();
        let mut left = draw * masses.iter().sum::<f64>();
        let mut last = 0;
        for (start, mass) in (0..).step_by(BLOCK).zip(&masses) {
            if *mass == 0.0 {
                continue;
            }
            let block = &probabilities[start..(start + BLOCK).min(probabilities.len())];
            if left >= *mass {
                left -= mass;
                last = start + block.len();
                continue;
            }
            for (id, probability) in (start..).zip(block) {
                if *probability > 0.0 && self.keeps(id, *probability) {
                    last = id + 1;
                    left -= f64::from(*probability);
                    if left < 0.0 {
                        return id as i64;
                    }
                }
            }
        }
        // Rounding left nothing: the last kept one.
        let before = probabilities[..last].iter().enumerate().rev();
        before
            .into_iter()
            .find(|(id, probability)| **probability > 0.0 && self.keeps(*id, **probability))
            .map_or(0, |(id, _)| id as i64)
    }

    /// The kept mass of a block of ids; eight running sums, so that additions need not wait for each other.
    fn mass(self, start: usize, block: &[f32]) -> f64 {
        let mut sums = [0.0f64; 8];
        for (at, eight) in (start..).step_by(8).zip(block.chunks(8)) {
            for (lane, probability) in eight.iter().enumerate() {
                sums[lane] += if self.keeps(at + lane, *probability) { f64::from(*probability) } else { 0.0 };
            }
        }
        sums.iter().sum()
    }
}

//! Counter-based randomness: every draw is a pure function of (seed, purpose, step, row, position). A
//! response does not depend on which rows share its batch, and a resumed run needs no generator state.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream is used for. Streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The order of training rows, of prompts and of the pretraining text that PPO mixes in.
    Order = 1,
    /// Dropout masks.
    Dropout = 2,
    /// The initial weights of a new reward head.
    HeadInit = 3,
    /// The initial weights of a randomly initialised model.
    WeightInit = 4,
    /// Sampling responses during PPO.
    Rollout = 5,
    /// Sampling responses anywhere else.
    Generate = 6,
    /// The assignment of responses to minibatches.
    Minibatch = 8,
    /// Stochastic rounding of weights that are written in 16 bits.
    Rounding = 9,
    /// Draws with replacement, for confidence intervals.
    Bootstrap = 10,
    /// Random signs, for permutation tests.
    Permutation = 11,
    /// The order in which an annotator gets items.
    ItemOrder = 20,
    /// The order in which an annotator sees an item's responses.
    ResponseOrder = 21,
    /// Which items an annotator gets a second time.
    Repeats = 22,
}

/// The stream of (seed, purpose, step, row). Its positions are read in order, or one at a time with
/// [`uniform`].
pub fn stream(seed: u64, purpose: Purpose, step: u64, row: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, step, row]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// One draw from [0, 1): the one at `position` of a stream.
pub fn uniform(seed: u64, purpose: Purpose, step: u64, row: u64, position: u64) -> f64 {
    let mut stream = stream(seed, purpose, step, row);
    stream.set_word_pos(u128::from(position) * 2);
    stream.random::<f64>()
}

/// A 64-bit number for (seed, purpose, step, row): a seed for other libraries' generators.
pub fn key(seed: u64, purpose: Purpose, step: u64, row: u64) -> u64 {
    stream(seed, purpose, step, row).next_u64()
}

/// A permutation of `0..len` whose entries are computed one at a time: a four-round Feistel network over the
/// smallest even number of bits that holds `len`, repeated until the result is below `len` (cycle walking).
#[derive(Debug, Clone)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    round_keys: [u64; 4],
}

impl Permutation {
    /// The permutation of (seed, purpose, epoch).
    pub fn new(len: u64, seed: u64, purpose: Purpose, epoch: u64) -> Self {
        let mut stream = stream(seed, purpose, epoch, u64::MAX);
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), round_keys: std::array::from_fn(|_| stream.next_u64()) }
    }

    /// The image of `index`.
    ///
    /// # Panics
    /// When `index` is not below the length.
    pub fn get(&self, index: u64) -> u64 {
        assert!(index < self.len, "index {index} of a permutation of {}", self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut at = index;
        loop {
            let (mut left, mut right) = (at >> self.half_bits, at & mask);
            for key in self.round_keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            at = left << self.half_bits | right;
            if at < self.len {
                return at;
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_its_own_coordinates_only() {
        let mut in_order = stream(7, Purpose::Rollout, 3, 5);
        let first: Vec<f64> = (0..4).map(|_| in_order.random::<f64>()).collect();
        let alone: Vec<f64> = (0..4).map(|position| uniform(7, Purpose::Rollout, 3, 5, position)).collect();
        assert_eq!(first, alone);
        assert_ne!(first[0], uniform(7, Purpose::Rollout, 3, 6, 0));
        assert_ne!(first[0], uniform(7, Purpose::Generate, 3, 5, 0));
    }

    #[test]
    fn a_permutation_visits_every_row_once() {
        for len in [1, 2, 3, 7, 64, 1000] {
            let permutation = Permutation::new(len, 1, Purpose::Order, 0);
            let mut seen: Vec<u64> = (0..len).map(|index| permutation.get(index)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let order = |seed, epoch| -> Vec<u64> {
            let permutation = Permutation::new(100, seed, Purpose::Order, epoch);
            (0..100).map(|index| permutation.get(index)).collect()
        };
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }
}

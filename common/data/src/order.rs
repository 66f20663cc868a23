//! The order of rows, as a pure function of (seed, global index). A resumed run, or one with another number
//! of processes, sees the same rows.

use align_core::random::{Permutation, Purpose};

/// The resolution of weights: a file's share is a whole number of slots out of this many.
const SLOTS: usize = 1000;

/// The order in which the rows of one or several files are used.
///
/// Without weights, the files are one long list that is repeated; if shuffled, every pass is another
/// permutation. With weights, rows are taken from the files in turn, evenly spread in proportion to the
/// weights (to a precision of 0.1 %). Each file is then repeated and shuffled separately.
#[derive(Debug, Clone)]
pub struct Order {
    pools: Vec<Pool>,
    /// One round of turns: (pool, number of its earlier turns in the round). Empty with a single pool.
    turns: Vec<(usize, u64)>,
    /// The number of turns of each pool in one round.
    shares: Vec<u64>,
    /// The seed of the shuffle; rows stay in file order without one.
    shuffle: Option<u64>,
    num_rows: usize,
}

/// Rows that are repeated as one list.
#[derive(Debug, Clone)]
struct Pool {
    first: usize,
    len: u64,
}

impl Order {
    /// The order over files of these `lengths`, shuffled with a seed, if one is given. Rows are indices into
    /// the concatenation of the files.
    ///
    /// # Panics
    /// When there are no rows, when the weights are not one positive, finite number per file, or when a
    /// weighted file has no rows. Config validation rules this out.
    pub fn new(lengths: &[usize], weights: Option<&[f64]>, shuffle: Option<u64>) -> Self {
        let num_rows = lengths.iter().sum();
        assert!(num_rows > 0, "an order over no rows");
        let Some(weights) = weights else {
            let pools = vec![Pool { first: 0, len: num_rows as u64 }];
            return Self { pools, turns: Vec::new(), shares: Vec::new(), shuffle, num_rows };
        };
        assert_eq!(weights.len(), lengths.len(), "one weight per file");
        assert!(weights.iter().all(|weight| weight.is_finite() && *weight > 0.0), "weights above 0");
        assert!(lengths.iter().all(|len| *len > 0), "a weighted file without rows");
        let mut first = 0;
        let pools = lengths.iter().map(|&len| {
            first += len;
            Pool { first: first - len, len: len as u64 }
        });
        let pools: Vec<Pool> = pools.collect();
        let (turns, shares) = turns(weights);
        Self { pools, turns, shares, shuffle, num_rows }
    }

    /// The row at global index `global` of the run, as an index into the concatenation of the files.
    pub fn row(&self, global: u64) -> usize {
        let (pool_index, count) = match self.turns.len() as u64 {
            0 => (0, global),
            round_len => {
                let (round, turn) = (global / round_len, (global % round_len) as usize);
                let (pool, before) = self.turns[turn];
                (pool, round * self.shares[pool] + before)
            }
        };
        let pool = &self.pools[pool_index];
        let (epoch, position) = (count / pool.len, count % pool.len);
        let position = if let Some(seed) = self.shuffle {
            // Files of equal length must be shuffled differently: the stream includes the file's index.
            let stream = epoch | (pool_index as u64) << 48;
            Permutation::new(pool.len, seed, Purpose::Order, stream).get(position)
        } else {
            position
        };
        pool.first + position as usize
    }

    /// For every separately repeated list: how many of the first `globals` rows of the run come from it, and
    /// its length.
    pub fn taken(&self, globals: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let round_len = self.turns.len() as u64;
        self.pools.iter().enumerate().map(move |(index, pool)| {
            let taken = match globals.checked_div(round_len) {
                None => globals,
                Some(rounds) => {
                    let begun = self.turns.iter().take((globals % round_len) as usize);
                    rounds * self.shares[index] + begun.filter(|(pool, _)| *pool == index).count() as u64
                }
            };
            (taken, pool.len)
        })
    }

    /// The number of rows in one epoch: the total of all files.
    pub fn epoch_len(&self) -> usize {
        self.num_rows
    }
}

/// One round: every pool's share of [`SLOTS`] turns (at least one). Each turn goes to the pool with the
/// largest deficit.
fn turns(weights: &[f64]) -> (Vec<(usize, u64)>, Vec<u64>) {
    let total: f64 = weights.iter().sum();
    let shares: Vec<u64> =
        weights.iter().map(|weight| ((weight / total * SLOTS as f64).round() as u64).max(1)).collect();
    let round_len: u64 = shares.iter().sum();
    let mut taken = vec![0u64; shares.len()];
    let mut turns = Vec::with_capacity(round_len as usize);
    for turn in 1..=round_len {
        let deficit = |pool: usize| (shares[pool] * turn) as i128 - (taken[pool] * round_len) as i128;
        let next = (0..shares.len()).max_by_key(|&pool| (deficit(pool), std::cmp::Reverse(pool)));
        let next = next.expect("there is at least one file");
        turns.push((next, taken[next]));
        taken[next] += 1;
    }
    // Deficits sum to zero, so no pool has had more than its share at the end of the round.
    debug_assert_eq!(taken, shares);
    (turns, shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unshuffled_rows_repeat_in_file_order() {
        let order = Order::new(&[2, 3], None, None);
        let rows: Vec<usize> = (0..12).map(|global| order.row(global)).collect();
        assert_eq!(rows, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]);
        assert_eq!(order.epoch_len(), 5);
    }

    #[test]
    fn every_shuffled_epoch_visits_every_row_once_in_another_order() {
        let order = Order::new(&[40, 60], None, Some(7));
        let epoch = |number: u64| -> Vec<usize> { (0..100).map(|at| order.row(number * 100 + at)).collect() };
        for number in 0..3 {
            let mut rows = epoch(number);
            rows.sort_unstable();
            assert_eq!(rows, (0..100).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        let other_seed = Order::new(&[100], None, Some(8));
        assert_ne!(epoch(0), (0..100).map(|at| other_seed.row(at)).collect::<Vec<_>>());
    }

    #[test]
    fn weights_share_the_turns_evenly_and_files_keep_their_own_order() {
        let order = Order::new(&[4, 2], Some(&[3.0, 1.0]), None);
        let rows: Vec<usize> = (0..8).map(|global| order.row(global)).collect();
        assert_eq!(rows.iter().filter(|&&row| row < 4).count(), 6);
        assert_eq!(rows.iter().copied().filter(|&row| row < 4).collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1]);
        assert_eq!(rows.iter().copied().filter(|&row| row >= 4).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(order.epoch_len(), 6);
    }

    #[test]
    fn weights_hold_over_many_rounds_and_rows_repeat_only_after_a_pass() {
        let order = Order::new(&[700, 300], Some(&[0.2, 0.8]), Some(3));
        let rows: Vec<usize> = (0..5000).map(|global| order.row(global)).collect();
        assert_eq!(rows.iter().filter(|&&row| row < 700).count(), 1000);
        let mut first_pass: Vec<usize> = rows.iter().copied().filter(|&row| row >= 700).take(300).collect();
        first_pass.sort_unstable();
        assert_eq!(first_pass, (700..1000).collect::<Vec<_>>());
    }

    #[test]
    fn taken_counts_the_rows_of_each_file() {
        let order = Order::new(&[7, 3, 5], Some(&[0.2, 0.5, 0.3]), Some(3));
        for globals in [0, 1, 13, 1000, 2345] {
            let count = |rows: std::ops::Range<usize>| {
                (0..globals).filter(|global| rows.contains(&order.row(*global))).count() as u64
            };
            let expected = [(count(0..7), 7), (count(7..10), 3), (count(10..15), 5)];
            assert_eq!(order.taken(globals).collect::<Vec<_>>(), expected, "{globals}");
        }
        assert_eq!(Order::new(&[4, 2], None, Some(0)).taken(9).collect::<Vec<_>>(), [(9, 6)]);
    }

    #[test]
    fn a_tiny_weight_still_gets_a_turn() {
        let order = Order::new(&[5, 5], Some(&[1e-9, 1.0]), None);
        assert!((0..1100).any(|global| order.row(global) < 5));
    }
}

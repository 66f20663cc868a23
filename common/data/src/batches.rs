//! The rows of each step of a run, for training, replay, plan and doctor.

use std::ops::Range;

use super::Order;

/// How long a run is: `train.steps` or `train.epochs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// This many steps of full batches. A batch may span two passes over the data.
    Steps(u64),
    /// This many passes over the data. Each visits every row once, so the last batch of an epoch may be
    /// smaller.
    Epochs(u64),
}

impl Length {
    /// The length from a config, which sets one of the two.
    pub fn new(steps: Option<u64>, epochs: Option<u64>) -> Self {
        steps.map_or(Self::Epochs(epochs.unwrap_or(1)), Self::Steps)
    }
}

/// The batches of a run.
#[derive(Debug, Clone)]
pub struct Batches {
    order: Order,
    size: u64,
    length: Length,
}

impl Batches {
    /// Batches of `size` rows.
    ///
    /// # Panics
    /// When `size` is 0; config validation rules it out.
    pub fn new(order: Order, size: usize, length: Length) -> Self {
        assert!(size > 0, "a batch size of 0");
        Self { order, size: size as u64, length }
    }

    /// The number of steps of the run.
    pub fn steps(&self) -> u64 {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => epochs.saturating_mul(self.steps_per_epoch()),
        }
    }

    /// The rows of a step, in order, as indices into the concatenation of the files.
    pub fn rows(&self, step: u64) -> impl Iterator<Item = usize> + '_ {
        self.globals(step).map(|global| self.order.row(global))
    }

    /// The rows of the first pass over the data, in order.
    pub fn first_epoch(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.order.epoch_len() as u64).map(|global| self.order.row(global))
    }

    /// The number of passes over the data: the rows of all steps divided by the rows of one epoch.
    pub fn passes(&self) -> f64 {
        self.num_rows() as f64 / self.order.epoch_len() as f64
    }

    /// The number of passes over each source of a mix, or a single number without weights.
    pub fn passes_by_source(&self) -> Vec<f64> {
        self.order.taken(self.num_rows()).map(|(taken, len)| taken as f64 / len as f64).collect()
    }

    /// The number of rows in the last batch of every epoch, if that is smaller than the others.
    pub fn short_batch(&self) -> Option<u64> {
        let left = self.epoch_len() % self.size;
        (matches!(self.length, Length::Epochs(_)) && left > 0).then_some(left)
    }

    /// How often a row occurs in one step; above 1 if a batch is larger than the data.
    pub fn passes_per_step(&self) -> f64 {
        let rows = self.globals(0);
        (rows.end - rows.start) as f64 / self.order.epoch_len() as f64
    }

    /// The number of rows of all steps.
    fn num_rows(&self) -> u64 {
        match self.length {
            Length::Steps(steps) => steps.saturating_mul(self.size),
            Length::Epochs(epochs) => epochs.saturating_mul(self.epoch_len()),
        }
    }

    /// The global indices of a step's rows.
    fn globals(&self, step: u64) -> Range<u64> {
        match self.length {
            Length::Steps(_) => step * self.size..(step + 1) * self.size,
            Length::Epochs(_) => {
                let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
                let (start, end) = (epoch * self.epoch_len(), (epoch + 1) * self.epoch_len());
                start + within * self.size..(start + (within + 1) * self.size).min(end)
            }
        }
    }

    fn steps_per_epoch(&self) -> u64 {
        self.epoch_len().div_ceil(self.size)
    }

    fn epoch_len(&self) -> u64 {
        self.order.epoch_len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (rows, batch size, epochs), including batches larger than the data.
    const CASES: [(usize, usize, u64); 7] =
        [(20, 8, 2), (20, 20, 3), (20, 128, 2), (1, 4, 3), (7, 1, 2), (101, 10, 3), (16, 8, 2)];

    #[test]
    fn an_epoch_visits_every_row_once_and_its_last_batch_has_the_remainder() {
        for (rows, size, epochs) in CASES {
            for shuffle in [false, true] {
                let batches = Batches::new(
                    Order::new(&[rows], None, shuffle.then_some(3)),
                    size,
                    Length::new(None, Some(epochs)),
                );
                let per_epoch = rows.div_ceil(size) as u64;
                assert_eq!(batches.steps(), epochs * per_epoch, "{rows} rows, batches of {size}");
                for epoch in 0..epochs {
                    let steps = epoch * per_epoch..(epoch + 1) * per_epoch;
                    let sizes: Vec<usize> = steps.clone().map(|step| batches.rows(step).count()).collect();
                    let (last, others) = sizes.split_last().unwrap();
                    assert!(others.iter().all(|other| *other == size), "{sizes:?}");
                    assert_eq!(*last, rows - others.len() * size, "{sizes:?}");
                    let mut visited: Vec<usize> = steps.flat_map(|step| batches.rows(step)).collect();
                    visited.sort_unstable();
                    assert_eq!(visited, (0..rows).collect::<Vec<_>>());
                }
                assert_eq!(batches.passes(), epochs as f64);
                let left = (rows % size) as u64;
                assert_eq!(batches.short_batch(), (left > 0).then_some(left));
            }
        }
    }

    #[test]
    fn epochs_differ_in_order_and_begin_at_pass_boundaries() {
        let order = Order::new(&[20], None, Some(3));
        let batches = Batches::new(order.clone(), 8, Length::Epochs(2));
        let second: Vec<usize> = (3..6).flat_map(|step| batches.rows(step)).collect();
        assert_eq!(second, (20..40).map(|global| order.row(global)).collect::<Vec<_>>());
        assert_ne!(second, (0..3).flat_map(|step| batches.rows(step)).collect::<Vec<_>>());
    }

    /// 20 rows in batches of 8: rows 16 to 23 of the run are the last four of one pass and the first four of
    /// the next.
    #[test]
    fn steps_are_full_batches_that_may_span_two_passes() {
        let batches = Batches::new(Order::new(&[20], None, None), 8, Length::new(Some(4), None));
        assert_eq!(batches.rows(2).collect::<Vec<_>>(), [16, 17, 18, 19, 0, 1, 2, 3]);
        assert_eq!((batches.steps(), batches.passes(), batches.short_batch()), (4, 1.6, None));
        assert_eq!(batches.passes_per_step(), 0.4);
        let large = Batches::new(Order::new(&[20], None, None), 128, Length::Steps(1));
        assert_eq!((large.passes(), large.passes_per_step()), (6.4, 6.4));
        let by_epochs = Batches::new(Order::new(&[20], None, None), 128, Length::Epochs(1));
        assert_eq!((by_epochs.passes(), by_epochs.passes_per_step()), (1.0, 1.0));
    }

    /// An epoch of a mix has as many rows as its files together; three in four come from the first.
    #[test]
    fn an_epoch_of_a_mix_is_as_long_as_its_files() {
        let order = Order::new(&[10, 30], Some(&[3.0, 1.0]), Some(0));
        let batches = Batches::new(order, 16, Length::Epochs(2));
        assert_eq!(batches.steps(), 6);
        let rows: Vec<usize> = (0..6).flat_map(|step| batches.rows(step)).collect();
        assert_eq!((rows.len(), rows.iter().filter(|row| **row < 10).count()), (80, 60));
        // 60 rows of ten, 20 of thirty.
        assert_eq!(batches.passes_by_source(), [6.0, 2.0 / 3.0]);
        assert_eq!(batches.passes(), 2.0);
    }

    #[test]
    fn a_run_of_more_epochs_than_fit_does_not_wrap_around() {
        let batches = Batches::new(Order::new(&[20], None, None), 8, Length::Epochs(u64::MAX));
        assert_eq!(batches.steps(), u64::MAX);
    }
}

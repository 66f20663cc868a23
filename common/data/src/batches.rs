//! Which rows each step of a run uses. Training, replay, plan and doctor all ask here.

use std::ops::Range;

use super::Order;

/// How long a run is: `train.steps` or `train.epochs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many steps of whole batches; rows flow from one pass over the data into the next.
    Steps(u64),
    /// So many passes over the data. Each visits every row once, so the last batch of an epoch holds what is left.
    Epochs(u64),
}

impl Length {
    /// Of a config, which has one of the two.
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
    /// When `size` is 0: the configuration is checked before.
    pub fn new(order: Order, size: usize, length: Length) -> Self {
        assert!(size > 0, "batches of no rows");
        Self { order, size: size as u64, length }
    }

    /// Steps of the whole run.
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

    /// How often the run passes over the data: all rows of all steps over the rows of one epoch.
    pub fn passes(&self) -> f64 {
        self.num_rows() as f64 / self.order.epoch_len() as f64
    }

    /// The same for every source of a mix, which are passed over on their own. One number without weights.
    pub fn passes_by_source(&self) -> Vec<f64> {
        self.order.taken(self.num_rows()).map(|(taken, len)| taken as f64 / len as f64).collect()
    }

    /// Rows in the last batch of every epoch, where that is shorter than the others.
    pub fn short_batch(&self) -> Option<u64> {
        let left = self.epoch_len() % self.size;
        (matches!(self.length, Length::Epochs(_)) && left > 0).then_some(left)
    }

    /// How often the same row comes in one step; above 1 where a batch is larger than the data.
    pub fn passes_per_step(&self) -> f64 {
        let rows = self.globals(0);
        (rows.end - rows.start) as f64 / self.order.epoch_len() as f64
    }

    /// Rows of all steps.
    fn num_rows(&self) -> u64 {
        match self.length {
            Length::Steps(steps) => steps.saturating_mul(self.size),
            Length::Epochs(epochs) => epochs.saturating_mul(self.epoch_len()),
        }
    }

    /// The numbers of a step's rows in the run.
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

    /// (rows, batch size, epochs), batches larger than the data among them.
    const CASES: [(usize, usize, u64); 7] =
        [(20, 8, 2), (20, 20, 3), (20, 128, 2), (1, 4, 3), (7, 1, 2), (101, 10, 3), (16, 8, 2)];

    #[test]
    fn an_epoch_visits_every_row_once_and_its_last_batch_holds_what_is_left() {
        for (rows, size, epochs) in CASES {
            for shuffle in [false, true] {
                let batches =
                    Batches::new(Order::new(&[rows], None, 3, shuffle), size, Length::new(None, Some(epochs)));
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
    fn epochs_differ_in_order_and_begin_where_the_order_does() {
        let order = Order::new(&[20], None, 3, true);
        let batches = Batches::new(order.clone(), 8, Length::Epochs(2));
        let second: Vec<usize> = (3..6).flat_map(|step| batches.rows(step)).collect();
        assert_eq!(second, (20..40).map(|global| order.row(global)).collect::<Vec<_>>());
        assert_ne!(second, (0..3).flat_map(|step| batches.rows(step)).collect::<Vec<_>>());
    }

    /// 20 rows in batches of 8: rows 16 to 23 of the run are the last four of one pass and the first four of the next.
    #[test]
    fn steps_are_whole_batches_that_flow_from_pass_to_pass() {
        let batches = Batches::new(Order::new(&[20], None, 0, false), 8, Length::new(Some(4), None));
        assert_eq!(batches.rows(2).collect::<Vec<_>>(), [16, 17, 18, 19, 0, 1, 2, 3]);
        assert_eq!((batches.steps(), batches.passes(), batches.short_batch()), (4, 1.6, None));
        assert_eq!(batches.passes_per_step(), 0.4);
        let large = Batches::new(Order::new(&[20], None, 0, false), 128, Length::Steps(1));
        assert_eq!((large.passes(), large.passes_per_step()), (6.4, 6.4));
        let by_epochs = Batches::new(Order::new(&[20], None, 0, false), 128, Length::Epochs(1));
        assert_eq!((by_epochs.passes(), by_epochs.passes_per_step()), (1.0, 1.0));
    }

    /// An epoch of a mix has as many rows as its files together; three in four come from the first.
    #[test]
    fn an_epoch_of_a_mix_is_as_long_as_its_files() {
        let order = Order::new(&[10, 30], Some(&[3.0, 1.0]), 0, true);
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
        let batches = Batches::new(Order::new(&[20], None, 0, false), 8, Length::Epochs(u64::MAX));
        assert_eq!(batches.steps(), u64::MAX);
    }
}

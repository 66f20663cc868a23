//! Samples a balanced subset of rows: complex rows first, with diverse tags.

use std::cmp::Reverse;
use std::collections::HashMap;

use align_core::error::{Error, Result};
use align_core::progress::Progress;
use align_data::{Parsed, RawRow, Stream};
use serde::Serialize;
use serde_json::Value;

use crate::{CountingSink, FileCounts, Inputs, Reason, Sink};

/// Statistics of the rows and the sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SampleCounts {
    /// Rows without a tag, which are never chosen.
    pub untagged: u64,
    /// Distinct tags.
    pub tags: u64,
    /// Distinct tags of the chosen rows.
    pub covered: u64,
    /// The number of rounds, including an incomplete last one.
    pub rounds: u64,
    /// The mean number of tags per row.
    pub tags_a_row: f64,
    /// The mean number of tags per chosen row.
    pub tags_a_chosen_row: f64,
}

/// Keeps `num` rows, or all rows with a tag if there are fewer, in the order of the files. A row's tags are
/// the list of strings under `tags`. Rows are chosen in rounds. Each round visits the remaining rows, those
/// with most tags first and ties in the order of the files, and chooses a row if it has a tag that no row of
/// the round has. Source: InsTag, arXiv 2308.07074, algorithm 1.
///
/// # Errors
/// [`Error::Invalid`] for bad files and rows, and errors of the sink.
pub fn sample(
    inputs: Inputs<'_>,
    num: usize,
    sink: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<(Vec<FileCounts>, SampleCounts)> {
    let stream = Stream { files: inputs.files, kind: None, bad_rows: inputs.bad_rows };
    let mut tagged = Tagged::default();
    stream.each("tags", progress, tags, |_, tags| {
        tagged.push(&tags.unwrap_or_default());
        Ok(())
    })?;
    let (chosen, rounds) = tagged.choose(num);

    let mut counting = CountingSink::new(sink);
    let mut rows = chosen.iter();
    stream.each("sample", progress, tags, |row, tags| match (rows.next(), tags) {
        (None, _) => Err(Error::Failed(format!("{} grew while it was read", row.location.file.display()))),
        (_, Err(what)) => counting.remove(&row.location, Reason::Bad { what }),
        (Some(true), _) => counting.keep(&row),
        (Some(false), _) => {
            counting.file(&row.location);
            Ok(())
        }
    })?;
    Ok((counting.files, tagged.counts(&chosen, rounds)))
}

fn tags(row: &RawRow) -> Parsed<Vec<String>> {
    const EXPECTED: &str = "expected `tags`, a list of strings";
    match row.value()?.get_mut("tags").map(Value::take) {
        None => Err(format!("a row without tags, {EXPECTED}")),
        Some(Value::Array(tags)) => {
            let text = |tag| match tag {
                Value::String(tag) => Ok(tag),
                other => Err(format!("the tag {other}, {EXPECTED}")),
            };
            tags.into_iter().map(text).collect()
        }
        Some(_) => Err(format!("`tags` is not a list, {EXPECTED}")),
    }
}

/// The numbered tags of all rows.
#[derive(Default)]
struct Tagged {
    numbers: HashMap<String, u32>,
    /// The tags of all rows, concatenated, without duplicates within a row.
    tags: Vec<u32>,
    /// The end of each row's tags.
    ends: Vec<usize>,
}

impl Tagged {
    fn push(&mut self, tags: &[String]) {
        let start = self.tags.len();
        for tag in tags {
            let number = match self.numbers.get(tag) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(self.numbers.len()).expect("4 billion tags do not fit into memory");
                    self.numbers.insert(tag.clone(), number);
                    number
                }
            };
            if !self.tags[start..].contains(&number) {
                self.tags.push(number);
            }
        }
        self.ends.push(self.tags.len());
    }

    fn of(&self, row: usize) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.tags[start..self.ends[row]]
    }

    /// Whether each row is chosen, and the number of rounds.
    fn choose(&self, num: usize) -> (Vec<bool>, u64) {
        let mut order: Vec<usize> = (0..self.ends.len()).collect();
        order.sort_by_key(|row| Reverse(self.of(*row).len()));
        // By tag: the remaining ranks in the order, the first one last. In a round, only the first remaining
        // row with a tag can be chosen for it: earlier rows lack the tag, and for later rows it is covered
        // already.
        let mut left: Vec<Vec<usize>> = vec![Vec::new(); self.numbers.len()];
        for (rank, row) in order.iter().enumerate().rev() {
            self.of(*row).iter().for_each(|tag| left[*tag as usize].push(rank));
        }
        let (mut chosen, mut num_chosen, mut rounds) = (vec![false; order.len()], 0, 0);
        let mut covered_in = vec![0; self.numbers.len()];
        while num_chosen < num {
            for ranks in &mut left {
                while ranks.pop_if(|rank| chosen[order[*rank]]).is_some() {}
            }
            let mut first: Vec<usize> = left.iter().filter_map(|ranks| ranks.last().copied()).collect();
            if first.is_empty() {
                break;
            }
            first.sort_unstable();
            first.dedup();
            rounds += 1;
            for row in first.into_iter().map(|rank| order[rank]) {
                let new = self.of(row).iter().any(|tag| covered_in[*tag as usize] != rounds);
                if new && num_chosen < num {
                    self.of(row).iter().for_each(|tag| covered_in[*tag as usize] = rounds);
                    chosen[row] = true;
                    num_chosen += 1;
                }
            }
        }
        (chosen, rounds)
    }

    fn counts(&self, chosen: &[bool], rounds: u64) -> SampleCounts {
        let num_tags = |row: &usize| self.of(*row).len() as u64;
        let rows = 0..self.ends.len();
        let taken: Vec<usize> = rows.clone().filter(|row| chosen[*row]).collect();
        let mut covered: Vec<u32> = taken.iter().flat_map(|row| self.of(*row)).copied().collect();
        covered.sort_unstable();
        covered.dedup();
        let mean = |sum: u64, count: usize| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        SampleCounts {
            untagged: rows.clone().filter(|row| num_tags(row) == 0).count() as u64,
            tags: self.numbers.len() as u64,
            covered: covered.len() as u64,
            rounds,
            tags_a_row: mean(self.tags.len() as u64, rows.len()),
            tags_a_chosen_row: mean(taken.iter().map(num_tags).sum(), taken.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use align_core::random::{Purpose, stream};
    use rand::Rng;

    use super::*;

    /// A direct implementation of the paper's algorithm.
    fn as_written(rows: &[BTreeSet<u32>], num: usize) -> Vec<bool> {
        let mut left: Vec<usize> = (0..rows.len()).collect();
        left.sort_by_key(|row| Reverse(rows[*row].len()));
        let mut chosen = vec![false; rows.len()];
        let mut num_chosen = 0;
        while num_chosen < num {
            let before = num_chosen;
            let mut covered = BTreeSet::new();
            left.retain(|&row| {
                let new = !rows[row].is_subset(&covered) && num_chosen < num;
                if new {
                    covered.extend(&rows[row]);
                    chosen[row] = true;
                    num_chosen += 1;
                }
                !new
            });
            if num_chosen == before {
                break;
            }
        }
        chosen
    }

    fn tagged(rows: &[BTreeSet<u32>]) -> Tagged {
        let mut tagged = Tagged::default();
        rows.iter().for_each(|tags| tagged.push(&tags.iter().map(u32::to_string).collect::<Vec<_>>()));
        tagged
    }

    #[test]
    fn complex_rows_come_first_and_every_round_covers_the_tags_again() {
        let rows = [vec![1], vec![1, 2, 3], vec![], vec![2, 4], vec![3, 1], vec![4], vec![5]].map(BTreeSet::from_iter);
        // Round one: 1 has the most tags, 3 adds tag 4, 6 adds tag 5. Round two: 4, then 5 for tag 4. Round
        // three: 0.
        let after = |num| {
            let chosen = tagged(&rows).choose(num).0;
            (0..rows.len()).filter(|row| chosen[*row]).collect::<Vec<_>>()
        };
        assert_eq!(after(1), [1]);
        assert_eq!(after(3), [1, 3, 6]);
        assert_eq!(after(4), [1, 3, 4, 6]);
        assert_eq!(after(5), [1, 3, 4, 5, 6]);
        assert_eq!(after(6), [0, 1, 3, 4, 5, 6]);
        assert_eq!(after(7), after(6), "a row without tags adds nothing");
        let (chosen, rounds) = tagged(&rows).choose(4);
        let expected = SampleCounts {
            untagged: 1,
            tags: 5,
            covered: 5,
            rounds: 2,
            tags_a_row: 10.0 / 7.0,
            tags_a_chosen_row: 2.0,
        };
        assert_eq!(tagged(&rows).counts(&chosen, rounds), expected);
    }

    #[test]
    fn the_choice_equals_that_of_the_papers_algorithm() {
        for seed in 0..200 {
            let mut random = stream(seed, Purpose::Order, 0, 0);
            let num_tags = random.random_range(1..12);
            let mut row = || (0..random.random_range(0..5)).map(|_| random.random_range(0..num_tags)).collect();
            let rows: Vec<BTreeSet<u32>> = (0..40).map(|_| row()).collect();
            for num in [0, 1, 5, 20, 39, 40, 100] {
                assert_eq!(tagged(&rows).choose(num).0, as_written(&rows, num), "seed {seed}, {num} rows");
            }
        }
    }
}

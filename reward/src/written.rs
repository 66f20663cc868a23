//! Compares the scores of the written model with those of the trained one on held-out comparisons.

use std::path::Path;

use align_core::error::Result;
use align_core::progress::Progress;
use align_model::{WrittenScalar, dtype_name};
use align_train::stage::{CompareWritten, Comparison, Trainer as _};
use serde_json::json;

use crate::data::Row;
use crate::eval::{score, score_pairs};
use crate::stats::pair_accuracy;
use crate::train::Trainer;

/// Without a held-out set: the number of tokens of the training comparisons to compare.
const COMPARED_TOKENS: usize = 8192;

impl CompareWritten for Trainer {
    /// On every held-out set, or the first training comparisons if there is none.
    fn compare_written(&mut self, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison> {
        compare(self, checkpoint, progress)
    }
}

fn compare(trainer: &Trainer, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison> {
    let written = WrittenScalar::open(&checkpoint.join("model"), trainer.model.device())?;
    let first = first_comparisons(trainer);
    let sets: Vec<(String, &[Row])> = match trainer.rows.eval.as_slice() {
        [] => vec![(format!("the first {} training comparisons", first.len()), &first)],
        sets => sets.iter().map(|set| (set.name.clone(), set.rows.as_slice())).collect(),
    };
    let mut found = Comparison::default();
    for (index, (name, rows)) in sets.into_iter().enumerate() {
        let known = trainer.held_out_scores(index);
        let passes = 1 + usize::from(known.is_none());
        progress.begin("comparing", (passes * rows.len()) as u64);
        let mut advance = |done: usize| progress.advance(done as u64, "");
        let microbatch_tokens = trainer.microbatch_tokens();
        let trained = known.cloned().unwrap_or_else(|| score(&trainer.model, rows, microbatch_tokens, &mut advance));
        let read = score(&written, rows, microbatch_tokens, &mut advance);
        progress.end();
        let Differences { rms, mean, pairs, reordered, accuracies } = Differences::of(rows, &trained, &read);
        let compute = dtype_name(trainer.compute());
        let [before, after] = accuracies.map(|accuracy| 100.0 * accuracy);
        found.lines.push(format!(
            "{name}: accuracy of the trained model ({compute}) {before:.2} %, of the result in `align eval` {after:.2} %; scores differ by {rms:.1e} rms (mean {mean:+.1e}), {reordered} of {pairs} pairs change their order"
        ));
        found.sets.push(json!({
            "set": name, "pairs": pairs, "accuracy_trained": accuracies[0], "accuracy_written": accuracies[1],
            "score_difference_rms": rms, "score_difference_mean": mean, "reordered": reordered,
        }));
    }
    Ok(found)
}

fn first_comparisons(trainer: &Trainer) -> Vec<Row> {
    let mut tokens = 0;
    let within = |row: &&Row| {
        let is_within = tokens < COMPARED_TOKENS;
        tokens += row.len();
        is_within
    };
    let rows = trainer.rows.batches.first_epoch().map(|row| &trainer.rows.train.rows[row]);
    rows.take_while(within).cloned().collect()
}

/// The differences of two models' scores of the same comparisons.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Differences {
    /// Of written − trained, over scores.
    rms: f64,
    mean: f64,
    pairs: usize,
    /// Pairs whose order changed.
    reordered: usize,
    /// Of the trained and of the written model.
    accuracies: [f64; 2],
}

impl Differences {
    fn of(rows: &[Row], trained: &[Vec<f64>], written: &[Vec<f64>]) -> Self {
        let differences: Vec<f64> = trained
            .iter()
            .flatten()
            .zip(written.iter().flatten())
            .map(|(trained, written)| written - trained)
            .collect();
        let mean = |numbers: &mut dyn Iterator<Item = f64>| numbers.sum::<f64>() / differences.len().max(1) as f64;
        let pairs = [trained, written].map(|scores| score_pairs(rows, scores));
        let order = |(chosen, rejected): &(f64, f64)| chosen.partial_cmp(rejected);
        let reordered = pairs[0].iter().zip(&pairs[1]).filter(|(one, other)| order(one) != order(other)).count();
        Self {
            rms: mean(&mut differences.iter().map(|difference| difference * difference)).sqrt(),
            mean: mean(&mut differences.iter().copied()),
            pairs: pairs[0].len(),
            reordered,
            accuracies: pairs.map(|pairs| pair_accuracy(pairs).accuracy),
        }
    }
}

#[cfg(test)]
mod tests {
    use align_data::RowLocation;

    use super::*;

    #[test]
    fn differences_by_hand() {
        let row = || Row {
            prefix: vec![1],
            tails: vec![vec![2], vec![3]],
            best: 0,
            answer_starts: vec![1, 1],
            scores: None,
            turns: 2,
            has_special_text: false,
            begins_with_newline: false,
            location: RowLocation { file: Path::new("rows.jsonl").into(), line: 1, index: 0 },
        };
        let rows = [row(), row(), row()];
        // Correct, tied, wrong; then wrong, correct, wrong.
        let trained = [vec![1.0, 0.0], vec![2.0, 2.0], vec![0.0, 1.0]];
        let written = [vec![1.0, 2.0], vec![3.0, 2.0], vec![0.0, 2.0]];
        let found = Differences::of(&rows, &trained, &written);
        assert_eq!((found.pairs, found.reordered, found.mean, found.accuracies), (3, 2, 4.0 / 6.0, [0.5, 1.0 / 3.0]));
        assert!((found.rms - 1.0).abs() < 1e-12, "{found:?}"); // (0 + 4 + 1 + 0 + 0 + 1) / 6
    }
}

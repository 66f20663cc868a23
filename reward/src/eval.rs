//! Scores without gradients.

use align_kernels::HOST;
use align_kernels::batch::microbatches;
use align_model::ScalarReader;

use crate::data::{Branches, Row, lay_out};
use crate::diagnostics::ScoredPair;
use crate::trained_pairs::TrainedPairs;

/// The raw scores of every comparison's dialogues, in order; calls `done` with the number of comparisons
/// finished since the last call.
pub fn score(
    model: &impl ScalarReader,
    rows: &[Row],
    microbatch_tokens: usize,
    done: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let lengths: Vec<usize> = rows.iter().map(Row::len).collect();
    let mut scores = Vec::with_capacity(rows.len());
    for range in microbatches(&lengths, microbatch_tokens) {
        let batch = &rows[range];
        let mut rest = score_batch(model, batch.iter().map(Row::branches)).into_iter();
        scores.extend(batch.iter().map(|row| rest.by_ref().take(row.tails.len()).collect::<Vec<f64>>()));
        done(batch.len());
    }
    scores
}

/// The raw scores of dialogues, computed as one flat batch, in order. Equal dialogues with a shared prefix
/// have the same score, to the bit.
pub fn score_batch<'a>(model: &impl ScalarReader, branches: impl Iterator<Item = Branches<'a>>) -> Vec<f64> {
    let branches: Vec<Branches<'a>> = branches.collect();
    let (flat, ends) = lay_out(branches.iter().copied(), model.longest_shared(), model.device());
    let scalars = model.scalars_at(&flat, &ends).to_device(HOST); // (S)
    let scalars = Vec::<f32>::try_from(&scalars).expect("scalars are flat fp32");
    let mut scores: Vec<f64> = scalars.into_iter().map(f64::from).collect();
    // Rounding depends on the position in the batch.
    let mut start = 0;
    for Branches { tails, .. } in &branches {
        for (index, tail) in tails.iter().enumerate() {
            let first = tails[..index].iter().position(|other| other == tail);
            scores[start + index] = scores[start + first.unwrap_or(index)];
        }
        start += tails.len();
    }
    scores
}

/// Every row's answers after the prompt of the next row with another prompt; `None` when all rows have the
/// same prompt.
pub fn with_other_prompts(rows: &[Row]) -> Option<Vec<Row>> {
    let prompts: Vec<Vec<i64>> = rows.iter().map(Row::prompt).collect();
    let count = rows.len();
    // From the back: the next row with another prompt is the neighbour, or that of the neighbour. The second
    // pass covers rows whose next such row is before them.
    let mut next: Vec<Option<usize>> = vec![None; count];
    for index in (0..2 * count).rev().map(|index| index % count) {
        let neighbour = (index + 1) % count;
        next[index] = if prompts[neighbour] == prompts[index] { next[neighbour] } else { Some(neighbour) };
    }
    let exchanged = |(row, other): (&Row, &Option<usize>)| other.map(|other| row.with_prompt(prompts[other].clone()));
    rows.iter().zip(&next).map(exchanged).collect()
}

/// The scored pairs of all comparisons.
pub fn scored_pairs(
    rows: &[Row],
    scores: &[Vec<f64>],
    blind_scores: Option<&[Vec<f64>]>,
    trained: Option<&TrainedPairs>,
) -> Vec<ScoredPair> {
    let mut pairs = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        for (better, worse) in row.pairs() {
            pairs.push(ScoredPair {
                scores: [scores[index][better], scores[index][worse]],
                blind_scores: blind_scores.map(|blind| [blind[index][better], blind[index][worse]]),
                lengths: [row.num_answer_tokens(better), row.num_answer_tokens(worse)],
                identical: row.tails[better] == row.tails[worse],
                trained_on: trained.map(|trained| trained.contains(row, better, worse)),
            });
        }
    }
    pairs
}

/// The (better, worse) score pairs of all comparisons.
pub fn score_pairs(rows: &[Row], scores: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let of_row = |(row, scores): (&Row, &Vec<f64>)| -> Vec<(f64, f64)> {
        row.pairs().into_iter().map(|(better, worse)| (scores[better], scores[worse])).collect()
    };
    rows.iter().zip(scores).flat_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use align_data::RowLocation;
    use align_model::{ModelOptions, ScalarModel};

    use super::*;

    /// A row with the answers 8 and 9 to a prompt of one token.
    fn row(prompt: i64) -> Row {
        Row {
            prefix: vec![prompt],
            tails: vec![vec![8, 1], vec![9, 1]],
            best: 0,
            answer_starts: vec![1, 1],
            scores: None,
            turns: 4,
            has_special_text: false,
            begins_with_newline: false,
            location: RowLocation { file: Path::new("rows.jsonl").into(), line: 1, index: 0 },
        }
    }

    #[test]
    fn every_row_gets_the_next_other_prompt() {
        let prompts = |rows: &[i64]| -> Option<Vec<i64>> {
            let rows: Vec<Row> = rows.iter().map(|prompt| row(*prompt)).collect();
            let blind = with_other_prompts(&rows)?;
            assert!(blind.iter().all(|blind| blind.dialogue(0)[1..] == [8, 1] && blind.dialogue(1)[1..] == [9, 1]));
            Some(blind.iter().map(|blind| blind.prefix[0]).collect())
        };
        assert_eq!(prompts(&[2, 2, 3, 4, 4, 2]), Some(vec![3, 3, 4, 2, 2, 3]));
        assert_eq!(prompts(&[2, 3]), Some(vec![3, 2]));
        assert_eq!(prompts(&[2, 2]), None);
        assert_eq!(prompts(&[2]), None);
    }

    #[test]
    fn the_same_answer_twice_has_one_score() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny_models/qwen2_tied_gqa");
        let options =
            ModelOptions { device: HOST, compute: tch::Kind::Float, trainable: false, recompute_layers: false };
        let model = ScalarModel::load(&folder, &options, 1).unwrap();
        let tails: Vec<Vec<i64>> =
            [7, 30, 7, 90, 30, 7].map(|first| (0..40).map(|at| (first + at) % 300).collect()).into();
        let prefix: Vec<i64> = (0..50).collect();
        let branches = [Branches { prefix: &prefix, tails: &tails }, Branches { prefix: &[], tails: &tails }];
        let scores = score_batch(&model, branches.into_iter());
        for own in scores.chunks(6) {
            assert_eq!([own[0], own[1], own[0], own[3], own[1], own[0]], own, "equal to the bit");
            assert!(own[0] != own[1] && own[1] != own[3]);
        }
        assert_ne!(scores[0], scores[6], "another prefix");
    }

    /// Beyond its trained length, a first-generation model rotates tokens depending on the length of their
    /// sequence. A long answer must not change the score of a short one.
    #[test]
    fn a_score_does_not_depend_on_how_long_the_other_answers_are() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny_models/qwen1_ntk_logn");
        let options =
            ModelOptions { device: HOST, compute: tch::Kind::Float, trainable: false, recompute_layers: false };
        let mut model = ScalarModel::load(&folder, &options, 1).unwrap();
        model.extrapolate();
        let trained = model.config().seq_length;
        let tokens = |from: i64, count: i64| (0..count).map(|at| (from + 7 * at) % 300).collect::<Vec<i64>>();
        let tails = vec![tokens(5, 3), tokens(90, 2 * trained), tokens(31, 1)];
        let prefix = tokens(200, trained - 4);
        let together = score_batch(&model, [Branches { prefix: &prefix, tails: &tails }].into_iter());
        for (tail, together) in tails.iter().zip(together) {
            let alone =
                score_batch(&model, [Branches { prefix: &prefix, tails: std::slice::from_ref(tail) }].into_iter());
            assert!((alone[0] - together).abs() < 1e-6, "{} and {together}", alone[0]);
        }
    }
}

//! Scores without gradient.

use align_common::lm::microbatches;
use align_common::model::ScalarModel;

use crate::data::{Branches, Row, lay_out};

/// The raw scores of every comparison's dialogues, in order; `done` is called with the number of comparisons finished.
pub fn score(
    model: &ScalarModel,
    rows: &[Row],
    microbatch_tokens: usize,
    done: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let lengths: Vec<usize> = rows.iter().map(Row::len).collect();
    let mut scores = Vec::with_capacity(rows.len());
    for range in microbatches(&lengths, microbatch_tokens) {
        let batch = &rows[range];
        let mut rest = score_at_once(model, batch.iter().map(Row::branches)).into_iter();
        scores.extend(batch.iter().map(|row| rest.by_ref().take(row.tails.len()).collect::<Vec<f64>>()));
        done(batch.len());
    }
    scores
}

/// The raw scores of dialogues, computed as one flat batch, in order.
pub fn score_at_once<'a>(model: &ScalarModel, branches: impl Iterator<Item = Branches<'a>>) -> Vec<f64> {
    let _no_grad = tch::no_grad_guard();
    let (flat, ends) = lay_out(branches, model.device());
    let hidden = model.hidden(&flat, None).index_select(0, &ends); // (S, D)
    let scalars = model.scalars(&hidden).to_device(tch::Device::Cpu);
    Vec::<f32>::try_from(&scalars).expect("scalars are flat fp32").into_iter().map(f64::from).collect()
}

/// The (better, worse) score pairs of all comparisons.
pub fn score_pairs(rows: &[Row], scores: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let of_row = |(row, scores): (&Row, &Vec<f64>)| -> Vec<(f64, f64)> {
        row.pairs().into_iter().map(|(better, worse)| (scores[better], scores[worse])).collect()
    };
    rows.iter().zip(scores).flat_map(of_row).collect()
}

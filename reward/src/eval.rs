//! Scores of comparisons, without gradient.

use align_common::lm::microbatches;
use align_common::model::ScalarModel;

use crate::data::{Row, flatten};

/// The raw scores of every comparison's dialogues, in order; `done` is called with the number of comparisons finished.
pub fn score(
    model: &ScalarModel,
    rows: &[Row],
    microbatch_tokens: usize,
    done: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let _no_grad = tch::no_grad_guard();
    let lengths: Vec<usize> = rows.iter().map(Row::len).collect();
    let mut scores = Vec::with_capacity(rows.len());
    for range in microbatches(&lengths, microbatch_tokens) {
        let batch: Vec<&Row> = rows[range].iter().collect();
        let flat = flatten(&batch, false, model.device());
        let hidden = model.hidden(&flat.flat, None).index_select(0, &flat.ends); // (S, D)
        let scalars =
            Vec::<f32>::try_from(&model.scalars(&hidden).to_device(tch::Device::Cpu)).expect("scalars are flat fp32");
        let mut rest = scalars.as_slice();
        for row in &batch {
            let (own, tail) = rest.split_at(row.tails.len());
            scores.push(own.iter().map(|score| f64::from(*score)).collect());
            rest = tail;
        }
        done(batch.len());
    }
    scores
}

/// The (better, worse) score pairs of all comparisons.
pub fn score_pairs(rows: &[Row], scores: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let of_row = |(row, scores): (&Row, &Vec<f64>)| -> Vec<(f64, f64)> {
        row.pairs().into_iter().map(|(better, worse)| (scores[better], scores[worse])).collect()
    };
    rows.iter().zip(scores).flat_map(of_row).collect()
}

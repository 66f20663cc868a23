//! Scores without gradient.

use align_common::lm::microbatches;
use align_common::model::ScalarModel;

use crate::data::{Branches, Row, lay_out};
use crate::seen::SeenPairs;
use crate::verdict::JudgedPair;

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

/// Every row's answers behind the prompt of the next row that has another one; `None` where all rows have the same.
pub fn behind_other_prompts(rows: &[Row]) -> Option<Vec<Row>> {
    let prompt = |row: &Row| row.dialogue(0)[..row.answer_starts[0]].to_vec();
    let prompts: Vec<Vec<i64>> = rows.iter().map(prompt).collect();
    let other = |index: usize| {
        let mut others = (index + 1..rows.len()).chain(0..index);
        others.find(|other| prompts[*other] != prompts[index]).map(|other| rows[index].behind_prompt_of(&rows[other]))
    };
    (0..rows.len()).map(other).collect()
}

/// The pairs of all comparisons, judged.
pub fn judged_pairs(
    rows: &[Row],
    scores: &[Vec<f64>],
    blind_scores: Option<&[Vec<f64>]>,
    seen: Option<&SeenPairs>,
) -> Vec<JudgedPair> {
    let mut judged = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        for (better, worse) in row.pairs() {
            judged.push(JudgedPair {
                scores: [scores[index][better], scores[index][worse]],
                blind_scores: blind_scores.map(|blind| [blind[index][better], blind[index][worse]]),
                lengths: [row.num_answer_tokens(better), row.num_answer_tokens(worse)],
                identical: row.tails[better] == row.tails[worse],
                seen: seen.map(|seen| seen.contains(row, better, worse)),
            });
        }
    }
    judged
}

/// The (better, worse) score pairs of all comparisons.
pub fn score_pairs(rows: &[Row], scores: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let of_row = |(row, scores): (&Row, &Vec<f64>)| -> Vec<(f64, f64)> {
        row.pairs().into_iter().map(|(better, worse)| (scores[better], scores[worse])).collect()
    };
    rows.iter().zip(scores).flat_map(of_row).collect()
}

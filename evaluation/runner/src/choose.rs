//! Log-probabilities of choices. What all prompts of a subject begin with, its worked examples, is computed
//! once for many questions.

use tch::{Kind, Tensor};

use align_kernels::batch::{FlatBatch, microbatches};
use align_kernels::to_host;
use align_model::CausalLm;
use align_tasks::task::Continuation;

use crate::encode::{Encoded, common_prefix};

/// Positions whose logits over the whole vocabulary are in memory at once.
const ROWS: usize = 64;

/// The questions of one forward pass, as a range of the given ones. It depends on the prompts alone.
pub fn batches(items: &[Encoded], tokens: usize) -> Vec<std::ops::Range<usize>> {
    let shared = shared_prefix(items);
    let lengths: Vec<usize> = items.iter().map(|item| own_tokens(item) - shared).collect();
    microbatches(&lengths, tokens.saturating_sub(shared).max(1))
}

/// The length of a prompt and its continuations.
fn own_tokens(item: &Encoded) -> usize {
    item.prompt.len() + item.continuations.iter().map(|choice| choice.tokens.len() - 1).sum::<usize>()
}

/// What all prompts begin with; at least one token of each is left.
fn shared_prefix(items: &[Encoded]) -> usize {
    let shortest = items.iter().map(|item| item.prompt.len()).min().unwrap_or(1);
    common_prefix(items.iter().map(|item| item.prompt.as_slice())).min(shortest - 1)
}

/// A position of the batch, and the tokens to be predicted there.
struct Position {
    index: i64,
    /// (item, continuation, token).
    targets: Vec<(usize, usize, i64)>,
}

/// The log-probability of every continuation of every item.
///
/// Sum over its tokens of ln softmax(logits) at the token, in fp32; the logits of the embedding's
/// unused rows count, as they do in other programs.
pub fn choose(model: &CausalLm, items: &[Encoded]) -> Vec<Vec<Continuation>> {
    let (batch, positions) = plan(items);
    let indices: Vec<i64> = positions.iter().map(|position| position.index).collect();
    let indices = Tensor::from_slice(&indices).to_device(model.device());
    let hidden = model.hidden_at(&batch, &indices, None); // (N, D)
    let unknown = Continuation { logprob: 0.0, is_greedy: true };
    let mut out: Vec<Vec<Continuation>> = items.iter().map(|item| vec![unknown; item.continuations.len()]).collect();
    for (chunk, positions) in positions.chunks(ROWS).enumerate() {
        let hidden = hidden.narrow(0, (chunk * ROWS) as i64, positions.len() as i64);
        for (row, targets) in logprobs(model, &hidden, positions).into_iter().zip(positions) {
            for ((item, choice, _), (logprob, is_greedy)) in targets.targets.iter().zip(row) {
                let continuation = &mut out[*item][*choice];
                continuation.logprob += logprob;
                continuation.is_greedy &= is_greedy;
            }
        }
    }
    out
}

/// Prefix → prompts → continuations, as one batch, and the positions that predict something.
fn plan(items: &[Encoded]) -> (FlatBatch, Vec<Position>) {
    let shared = shared_prefix(items);
    let (mut batch, mut positions) = (FlatBatch::new(), Vec::new());
    let root = (shared > 0 && items.len() > 1).then(|| batch.push(&items[0].prompt[..shared], None));
    for (at, item) in items.iter().enumerate() {
        let prompt = batch.push(&item.prompt[if root.is_some() { shared } else { 0 }..], root);
        let mut first = Position { index: batch.len() as i64 - 1, targets: Vec::new() };
        let mut rest = Vec::new();
        for (choice, continuation) in item.continuations.iter().enumerate() {
            let tokens = &continuation.tokens;
            let counted = |position: usize| position >= continuation.first_counted;
            if counted(0) {
                first.targets.push((at, choice, tokens[0]));
            }
            if tokens.len() > 1 {
                let start = batch.len() as i64;
                batch.push(&tokens[..tokens.len() - 1], Some(prompt));
                let after = (1..tokens.len()).filter(|&position| counted(position));
                rest.extend(after.map(|position| Position {
                    index: start + position as i64 - 1,
                    targets: vec![(at, choice, tokens[position])],
                }));
            }
        }
        positions.push(first);
        positions.extend(rest);
    }
    (batch, positions)
}

/// For each position, (ln p, whether it is the most probable token) of each target.
fn logprobs(model: &CausalLm, hidden: &Tensor, positions: &[Position]) -> Vec<Vec<(f64, bool)>> {
    let logits = model.head().logits(hidden); // (n, V)
    let (rows, tokens): (Vec<i64>, Vec<i64>) = positions
        .iter()
        .enumerate()
        .flat_map(|(row, position)| position.targets.iter().map(move |(_, _, token)| (row as i64, *token)))
        .unzip();
    let on_device = |indices: &[i64]| Tensor::from_slice(indices).to_device(logits.device());
    let (rows, tokens) = (on_device(&rows), on_device(&tokens));
    let normalizer = logits.logsumexp([-1], false).index_select(0, &rows);
    let best = logits.argmax(-1, false).index_select(0, &rows);
    let flat = logits.view([-1]).index_select(0, &(&rows * logits.size()[1] + &tokens));
    let values = flat.to_kind(Kind::Double) - normalizer.to_kind(Kind::Double);
    let is_best = best.eq_tensor(&tokens);
    let values = Vec::<f64>::try_from(to_host(&values)).expect("one dimension of float64");
    let is_best = Vec::<bool>::try_from(to_host(&is_best)).expect("one dimension of booleans");
    let mut found = values.into_iter().zip(is_best);
    positions.iter().map(|position| found.by_ref().take(position.targets.len()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use align_model::ModelOptions;

    use super::*;
    use crate::encode::EncodedContinuation;

    fn model() -> CausalLm {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny_models/qwen3_tied_gqa"));
        let options = ModelOptions {
            device: align_kernels::HOST,
            compute: Kind::Float,
            trainable: false,
            recompute_layers: false,
        };
        CausalLm::load(&dir, &options).unwrap()
    }

    fn item(prompt: &[i64], continuations: &[&[i64]]) -> Encoded {
        let continuation = |tokens: &&[i64]| EncodedContinuation { tokens: tokens.to_vec(), first_counted: 0 };
        Encoded {
            prompt: prompt.to_vec(),
            continuations: continuations.iter().map(continuation).collect(),
            cut_tokens: 0,
        }
    }

    /// Each whole text alone, without sharing: the sum of log-softmax over all its logits, in float64.
    fn expected(model: &CausalLm, item: &Encoded, choice: usize) -> (f64, bool) {
        let EncodedContinuation { tokens, first_counted } = &item.continuations[choice];
        let whole: Vec<i64> = item.prompt.iter().chain(tokens).copied().collect();
        let mut batch = FlatBatch::new();
        batch.push(&whole, None);
        let logits = model.head().logits(&model.hidden(&batch, None)).to_kind(Kind::Double);
        let logprobs = logits.log_softmax(-1, Kind::Double);
        (*first_counted..tokens.len()).fold((0.0, true), |(sum, is_greedy), at| {
            let row = logprobs.get((item.prompt.len() + at) as i64 - 1);
            (sum + row.double_value(&[tokens[at]]), is_greedy && row.argmax(0, false).int64_value(&[]) == tokens[at])
        })
    }

    #[test]
    fn shared_prompts_give_the_logprobs_of_every_text_alone() {
        let model = model();
        let mut merged = item(&[5, 6, 7], &[&[8, 9, 10], &[11, 12]]);
        merged.continuations[0].first_counted = 2;
        merged.continuations[1].first_counted = 1;
        let items = [
            item(&[5, 6, 7, 20, 21], &[&[30], &[31], &[32], &[30, 31, 32]]),
            item(&[5, 6, 7, 20, 22, 23], &[&[30, 40], &[31]]),
            merged,
            item(&[5, 6, 7, 20], &[&[21], &[22]]),
        ];
        let check = |items: &[Encoded]| {
            for (item, found) in items.iter().zip(choose(&model, items)) {
                assert_eq!(found.len(), item.continuations.len());
                for (choice, found) in found.iter().enumerate() {
                    let (logprob, is_greedy) = expected(&model, item, choice);
                    assert!((found.logprob - logprob).abs() < 1e-5, "{} {logprob}", found.logprob);
                    assert_eq!(found.is_greedy, is_greedy);
                }
            }
        };
        check(&items);
        items.iter().for_each(|item| check(std::slice::from_ref(item)));
        // Without a common beginning, and with equal prompts.
        check(&[items[0].clone(), item(&[9], &[&[8], &[5]]), items[0].clone()]);
        check(&[items[0].clone(), items[0].clone()]);
    }

    #[test]
    fn batches_count_what_prompts_share_once() {
        let long: Vec<i64> = (0..100).collect();
        let items: Vec<Encoded> = (0..10).map(|at| item(&[&long[..], &[at, at]].concat(), &[&[1], &[2]])).collect();
        // Room for 10 tokens besides the common 100: five questions of two tokens.
        assert_eq!(batches(&items, 110), [0..5, 5..10]);
        assert_eq!(batches(&items, 10_000).len(), 1);
        assert_eq!(batches(&items, 1).len(), 10);
    }
}

//! Log-probabilities of choices. What all prompts of a subject begin with, its worked examples, is computed
//! once for many questions.

use tch::{Kind, Tensor};

use align_kernels::batch::{FlatBatch, microbatches};
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
/// Sum over a continuation's tokens of ln softmax(logits)[token], in fp32; the logits of the embedding's unused
/// rows count, as they do in other programs.
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
    let values: Vec<f64> = vec_of(&(flat.to_kind(Kind::Double) - normalizer.to_kind(Kind::Double)));
    let is_best: Vec<bool> = vec_of(&best.eq_tensor(&tokens));
    let mut found = values.into_iter().zip(is_best);
    positions.iter().map(|position| found.by_ref().take(position.targets.len()).collect()).collect()
}

fn vec_of<T: tch::kind::Element>(tensor: &Tensor) -> Vec<T> {
    Vec::try_from(tensor.to_device(tch::Device::Cpu)).expect("one dimension of this kind")
}

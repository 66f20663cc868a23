//! The language-model head's softmax by blocks of the vocabulary.

use tch::Tensor;

use super::slices::as_f32_slice_mut;
use super::softmax::{Block, Row};
use crate::logprobs::{Chunk, Softmax, TokenStats, even_parts};

/// A block has at most this many ids.
pub(super) const BLOCK_IDS: usize = 8192;

/// As [`crate::ops::Ops::logprobs`], by blocks of the vocabulary, whose logits and gradients are in cache for all that is done with them.
pub(super) fn logprobs<'a>(chunk: &Chunk<'a>, keep: bool) -> (TokenStats, Softmax<'a>) {
    let targets = Vec::<i64>::try_from(&chunk.targets).expect("one id a row");
    let mut blocks = Vec::new();
    for ids in even_parts(chunk.vocab(), BLOCK_IDS) {
        let mut logits = chunk.logits(ids.clone());
        let block = Block { ids: ids.clone(), targets: &targets, nucleus: chunk.nucleus };
        let parts = block.read(as_f32_slice_mut(&mut logits), keep);
        blocks.push((ids, if keep { logits } else { Tensor::new() }, parts));
    }
    let rows: Vec<Row> =
        (0..targets.len()).map(|row| Row::of(blocks.iter().map(|(_, _, parts)| &parts[row]))).collect();
    let of = |part: fn(&Row) -> f32| Tensor::from_slice(&rows.iter().map(part).collect::<Vec<_>>());
    let stats = TokenStats {
        logprobs: of(|row| row.logprob),
        entropy: of(|row| row.entropy),
        correct: Tensor::from_slice(&rows.iter().map(|row| row.correct).collect::<Vec<_>>()),
    };
    let softmax = if keep { Softmax::Blocks { blocks, targets, nucleus: chunk.nucleus, rows } } else { Softmax::None };
    (stats, softmax)
}

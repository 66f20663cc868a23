//! The language-model head's softmax by blocks of the vocabulary.

use std::ops::Range;

use tch::Tensor;

use super::matmul::matmul_out;
use super::slices::as_f32_slice_mut;
use super::softmax::{Block, Exponentials, Part, Row};
use crate::logprobs::{Chunk, Softmax, TokenStats, even_parts};

/// A block has at most this many ids.
pub(super) const BLOCK_IDS: usize = 8192;

/// As [`crate::ops::Ops::logprobs`], by blocks of the vocabulary, whose logits stay in cache for all
/// operations on them.
pub(super) fn logprobs(chunk: &Chunk<'_>) -> TokenStats {
    let targets = targets_of(chunk);
    let read = |ids| read(chunk, &targets, ids, Exponentials::Discard).1;
    let blocks: Vec<Vec<Part>> = even_parts(chunk.vocab(), BLOCK_IDS).map(read).collect();
    stats(&rows(targets.len(), blocks.iter()))
}

/// As [`crate::ops::Ops::logprobs_train`].
pub(super) fn logprobs_train<'a>(chunk: &Chunk<'a>) -> (TokenStats, BlockSoftmax<'a>) {
    let targets = targets_of(chunk);
    let read = |ids: Range<usize>| {
        let (logits, parts) = read(chunk, &targets, ids.clone(), Exponentials::Store);
        (ids, logits, parts)
    };
    let blocks: Vec<_> = even_parts(chunk.vocab(), BLOCK_IDS).map(read).collect();
    let rows = rows(targets.len(), blocks.iter().map(|(_, _, parts)| parts));
    (stats(&rows), BlockSoftmax { blocks, targets, nucleus: chunk.nucleus, rows })
}

/// A chunk's distributions, by blocks of the vocabulary.
pub(super) struct BlockSoftmax<'a> {
    /// Of each block: its ids, exp(logit − highest) (n, ids), and the statistics of its rows.
    blocks: Vec<(Range<usize>, Tensor, Vec<Part>)>,
    /// Ids (n).
    targets: Vec<i64>,
    /// The ids kept in each row.
    nucleus: Option<&'a [Vec<i64>]>,
    /// Statistics of each row, over all blocks.
    rows: Vec<Row>,
}

impl Softmax for BlockSoftmax<'_> {
    fn gradients(self: Box<Self>, grad: &Tensor, take: &mut dyn FnMut(Range<usize>, Tensor)) {
        let Self { blocks, targets, nucleus, rows } = *self;
        let grads = Vec::<f32>::try_from(grad).expect("one gradient a row");
        for (ids, mut kept, parts) in blocks {
            let block = Block { ids: ids.clone(), targets: &targets, nucleus };
            block.gradient(as_f32_slice_mut(&mut kept), &parts, &rows, &grads);
            take(ids, kept);
        }
    }
}

fn targets_of(chunk: &Chunk<'_>) -> Vec<i64> {
    Vec::<i64>::try_from(&chunk.targets).expect("one id a row")
}

/// One block: its logits, or their exponentials where these are stored, and the sums of its rows.
fn read(chunk: &Chunk<'_>, targets: &[i64], ids: Range<usize>, exponentials: Exponentials) -> (Tensor, Vec<Part>) {
    let mut logits = chunk.logits(ids.clone(), matmul_out);
    let block = Block { ids, targets, nucleus: chunk.nucleus };
    let parts = block.read(as_f32_slice_mut(&mut logits), exponentials);
    (logits, parts)
}

fn rows<'a>(count: usize, blocks: impl Iterator<Item = &'a Vec<Part>> + Clone) -> Vec<Row> {
    (0..count).map(|row| Row::of(blocks.clone().map(move |parts| &parts[row]))).collect()
}

fn stats(rows: &[Row]) -> TokenStats {
    let of = |part: fn(&Row) -> f32| Tensor::from_slice(&rows.iter().map(part).collect::<Vec<_>>());
    TokenStats {
        logprobs: of(|row| row.logprob),
        entropy: of(|row| row.entropy),
        correct: Tensor::from_slice(&rows.iter().map(|row| row.correct).collect::<Vec<_>>()),
    }
}

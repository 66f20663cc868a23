//! Segments → attention. A plan is made once per batch and shared by its layers: which runs of tokens are
//! computed together, which keys they see, and the masks. Many short trees share a call, a long segment has
//! its own.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::batch::FlatBatch;
use crate::precision::Precision;
use crate::rotary::Rotation;

/// Short segments are merged into calls of up to this many tokens.
const BLOCK_TOKENS: usize = 256;

/// The sizes of a model's attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionDims {
    /// Query heads, H.
    pub heads: i64,
    /// Key and value heads, K, which divides H.
    pub kv_heads: i64,
    /// Head width, E.
    pub head_dim: i64,
    /// For each layer, how many tokens a query sees at most, itself included.
    pub windows: Vec<Option<i64>>,
}

impl AttentionDims {
    /// Query heads that share a key head.
    pub(crate) fn groups(&self) -> i64 {
        self.heads / self.kv_heads
    }

    /// What scores are multiplied with: 1/√E.
    pub(crate) fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// What attention works on, rotated.
pub struct Heads {
    /// (T, H, E)
    pub queries: Tensor,
    /// (T, K, E)
    pub keys: Tensor,
    /// (T, K, E)
    pub values: Tensor,
}

/// How the attention of one batch is computed.
pub struct Plan {
    /// Rotary positions of every token.
    pub rotation: Rotation,
    /// Token ids (T).
    pub tokens: Tensor,
    pub(crate) calls: Vec<Call>,
    /// Sizes of the runs of queries, one a call, in order.
    pub(crate) query_sizes: Vec<i64>,
    /// Sizes of the runs that keys and values are cut into.
    pub(crate) key_sizes: Vec<i64>,
    /// The distinct windows of the layers; masks are in this order.
    windows: Vec<Option<i64>>,
    /// Query heads that share a key head.
    pub(crate) groups: i64,
    /// What scores are multiplied with.
    pub(crate) scale: f64,
    /// What matmul inputs are rounded to.
    pub(crate) matmul: Kind,
}

/// One run of queries and what it sees.
pub(crate) struct Call {
    /// Which runs of keys, in order; the last ones are the queries' own.
    pub(crate) keys: Vec<usize>,
    /// For each distinct window: an additive mask (n, m), or none for plain causality.
    pub(crate) masks: Vec<Option<Tensor>>,
}

impl Plan {
    /// Which tokens of a batch see which, for a model with these sizes.
    pub fn new(
        dims: &AttentionDims,
        batch: &FlatBatch,
        rotation: Rotation,
        precision: Precision,
        device: Device,
    ) -> Self {
        let longest = batch.positions().iter().max().map_or(0, |last| last + 1);
        let mut windows: Vec<Option<i64>> = Vec::new();
        for window in &dims.windows {
            let window = window.filter(|&window| window < longest);
            if !windows.contains(&window) {
                windows.push(window);
            }
        }
        let blocks = blocks(batch);
        let cuts = cuts(batch, &blocks);
        let mut calls = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let seen: Vec<Range<usize>> = block
                .outside
                .iter()
                .map(|&at| batch.segments()[at].range.clone())
                .chain([block.tokens.clone()])
                .collect();
            let keys = seen.iter().flat_map(|range| runs(&cuts, range)).collect();
            let masks = windows
                .iter()
                .map(|&window| {
                    let single_chain = block.is_chain && block.outside.is_empty() && window.is_none();
                    (!single_chain)
                        .then(|| mask(batch, block, &seen, window).to_device(device).to_kind(precision.activations))
                })
                .collect();
            calls.push(Call { keys, masks });
        }
        Self {
            rotation,
            tokens: Tensor::from_slice(batch.tokens()).to_device(device),
            calls,
            query_sizes: blocks.iter().map(|block| block.tokens.len() as i64).collect(),
            key_sizes: cuts.windows(2).map(|pair| (pair[1] - pair[0]) as i64).collect(),
            windows,
            groups: dims.groups(),
            scale: dims.scale(),
            matmul: precision.matmul,
        }
    }

    /// The mask of a window: one that no sequence reaches was left out of the plan.
    pub(crate) fn mask_index(&self, window: Option<i64>) -> usize {
        let which =
            self.windows.iter().position(|&known| known == window).or(self.windows.iter().position(Option::is_none));
        which.expect("the plan was made for this model's windows")
    }
}

/// One call of attention, for planning.
pub struct Extent {
    /// Queries, n.
    pub queries: usize,
    /// Keys that they see, m.
    pub keys: usize,
    /// Whether it has a mask (n, m).
    pub is_masked: bool,
}

/// The calls that a batch's attention is made of; windows aside.
pub fn extent(batch: &FlatBatch) -> Vec<Extent> {
    let of = |block: Block| {
        let outside: usize = block.outside.iter().map(|&at| batch.segments()[at].range.len()).sum();
        let keys = outside + block.tokens.len();
        let is_masked = !(block.is_chain && block.outside.is_empty());
        Extent { queries: block.tokens.len(), keys, is_masked }
    };
    blocks(batch).into_iter().map(of).collect()
}

/// A run of tokens whose queries go in one call.
struct Block {
    tokens: Range<usize>,
    segments: Range<usize>,
    /// Ancestors that lie outside the block, oldest first.
    outside: Vec<usize>,
    /// Whether each segment continues the one before it: causality needs no mask then.
    is_chain: bool,
}

/// Greedy: neighbouring segments share a call while it stays short and they see the same tokens outside it; a
/// segment right after its parent always joins a chain.
fn blocks(batch: &FlatBatch) -> Vec<Block> {
    let segments = batch.segments();
    let tree_ends = tree_ends(batch);
    let mut blocks: Vec<Block> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        if segment.range.is_empty() {
            continue;
        }
        let outside_of = |first: usize| -> Vec<usize> {
            let mut outside: Vec<usize> =
                batch.ancestors(index).filter(|&at| at < first && !segments[at].range.is_empty()).collect();
            outside.reverse();
            outside
        };
        if let Some(block) = blocks.last_mut() {
            let length = segment.range.end - block.tokens.start;
            // A tree that does not fit whole starts its own block, so that its branches find their root
            // beside them.
            let tree_length = match segment.parent {
                None => tree_ends[index] - block.tokens.start,
                Some(_) => length,
            };
            let outside = outside_of(block.segments.start);
            let continues = block.is_chain
                && segment.parent.is_some_and(|parent| last_real(batch, parent) == Some(block.segments.end - 1));
            let fits = outside == block.outside && length.max(tree_length) <= BLOCK_TOKENS;
            if outside == block.outside && (continues || fits) {
                block.is_chain = continues;
                block.tokens.end = segment.range.end;
                block.segments.end = index + 1;
                continue;
            }
        }
        blocks.push(Block {
            tokens: segment.range.clone(),
            segments: index..index + 1,
            outside: outside_of(index),
            is_chain: true,
        });
    }
    blocks
}

/// The segment itself, or the nearest ancestor that has tokens.
fn last_real(batch: &FlatBatch, segment: usize) -> Option<usize> {
    std::iter::once(segment).chain(batch.ancestors(segment)).find(|&at| !batch.segments()[at].range.is_empty())
}

/// For each root: where the run of segments that continue it, right after it, ends.
fn tree_ends(batch: &FlatBatch) -> Vec<usize> {
    let mut ends = vec![0; batch.segments().len()];
    let mut root = 0;
    for (index, segment) in batch.segments().iter().enumerate() {
        if segment.parent.is_none() {
            root = index;
        }
        ends[root] = segment.range.end;
    }
    ends
}

/// Where keys and values are cut: at the ends of blocks, and around segments that other blocks see.
fn cuts(batch: &FlatBatch, blocks: &[Block]) -> Vec<usize> {
    let mut cuts: Vec<usize> = blocks
        .iter()
        .flat_map(|block| {
            block.outside.iter().map(|&at| batch.segments()[at].range.clone()).chain([block.tokens.clone()])
        })
        .flat_map(|range| [range.start, range.end])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// The runs between cuts that make up a range.
fn runs(cuts: &[usize], range: &Range<usize>) -> Range<usize> {
    let find = |at: usize| cuts.binary_search(&at).expect("every range begins and ends at a cut");
    find(range.start)..find(range.end)
}

/// 0 where a query sees a key, -∞ elsewhere (n, m).
fn mask(batch: &FlatBatch, block: &Block, seen: &[Range<usize>], window: Option<i64>) -> Tensor {
    let (n, m) = (block.tokens.len(), seen.iter().map(Range::len).sum());
    let column = |token: usize| {
        let mut before = 0;
        for range in seen {
            if range.contains(&token) {
                return before + token - range.start;
            }
            before += range.len();
        }
        unreachable!("a segment sees tokens of its block and of the block's ancestors only")
    };
    let mut values = vec![f32::NEG_INFINITY; n * m];
    for index in block.segments.clone() {
        let segment = &batch.segments()[index];
        let chain: Vec<Range<usize>> = batch
            .ancestors(index)
            .map(|at| batch.segments()[at].range.clone())
            .filter(|range| !range.is_empty())
            .collect();
        for token in segment.range.clone() {
            let row = &mut values[(token - block.tokens.start) * m..][..m];
            let first = window.map_or(0, |window| batch.positions()[token] + 1 - window);
            for range in chain.iter().cloned().chain(std::iter::once(segment.range.start..token + 1)) {
                let hidden = (first - batch.positions()[range.start]).clamp(0, range.len() as i64) as usize;
                let start = column(range.start);
                row[start + hidden..start + range.len()].fill(0.0);
            }
        }
    }
    Tensor::from_slice(&values).view([n as i64, m as i64])
}

/// Consecutive runs of these sizes.
pub(crate) fn ranges(sizes: &[i64]) -> Vec<Range<usize>> {
    let mut end = 0;
    let next = |size: &i64| {
        let start = end;
        end += *size as usize;
        start..end
    };
    sizes.iter().map(next).collect()
}

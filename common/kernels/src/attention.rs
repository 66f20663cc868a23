//! Segments → attention. A plan is made once per batch and shared by its layers: which runs of tokens are computed together,
//! which keys they see, and the masks. Many short trees share a call, a long segment has its own.

mod host;

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::batch::FlatBatch;
use crate::memory::elements;
use crate::rotary::Rotation;
use crate::{backward_with, product};

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
    calls: Vec<Call>,
    /// Sizes of the runs of queries, one a call, in order.
    query_sizes: Vec<i64>,
    /// Sizes of the runs that keys and values are cut into.
    key_sizes: Vec<i64>,
    /// The distinct windows of the layers; masks are in this order.
    windows: Vec<Option<i64>>,
    groups: i64,
    scale: f64,
    /// The dtype of factors.
    factors: Kind,
}

/// One run of queries and what it sees.
struct Call {
    /// Which runs of keys, in order; the last ones are the queries' own.
    keys: Vec<usize>,
    /// For each distinct window: an additive mask (n, m), or none for plain causality.
    masks: Vec<Option<Tensor>>,
}

impl Plan {
    /// `compute` is the dtype of activations, `factors` that of what products are made of.
    pub fn new(
        dims: &AttentionDims,
        batch: &FlatBatch,
        rotation: Rotation,
        factors: Kind,
        compute: Kind,
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
                    (!single_chain).then(|| mask(batch, block, &seen, window).to_device(device).to_kind(compute))
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
            factors,
        }
    }

    /// Attention of one layer over the whole batch → (T, H·E), without a gradient where it is ours, otherwise with its graph.
    pub fn attend(&self, heads: &Heads, window: Option<i64>, dropout: f64) -> Tensor {
        if let Some(ours) = self.ours(heads, window).filter(|_| dropout == 0.0) {
            return ours.forward(heads).flatten(1, -1);
        }
        let Heads { queries, keys, values } = heads;
        let which = self.which(window);
        let one = |call: &Call, q: &Tensor, k: &Tensor, v: &Tensor| {
            let mask = call.masks[which].as_ref();
            if dropout > 0.0 { self.plain(q, k, v, mask, dropout) } else { self.fused(q, k, v, mask) }
        };
        if let [call] = self.calls.as_slice() {
            return one(call, queries, keys, values).flatten(1, -1);
        }
        let queries = queries.split_with_sizes(&self.query_sizes[..], 0);
        let keys = keys.split_with_sizes(&self.key_sizes[..], 0);
        let values = values.split_with_sizes(&self.key_sizes[..], 0);
        let outputs: Vec<Tensor> = self
            .calls
            .iter()
            .zip(&queries)
            .map(|(call, q)| one(call, q, &joined(&keys, &call.keys), &joined(&values, &call.keys)))
            .collect();
        Tensor::cat(&outputs, 0).flatten(1, -1)
    }

    /// The gradients of the leaves that [`Plan::attend`] began with, given what it gave (T, H·E) and the gradient of that.
    pub fn attend_back(&self, heads: &Heads, window: Option<i64>, attended: &Tensor, grad: &Tensor) -> Heads {
        if attended.requires_grad() {
            tch::with_grad(|| backward_with(attended, grad));
            let [queries, keys, values] = [&heads.queries, &heads.keys, &heads.values].map(Tensor::grad);
            return Heads { queries, keys, values };
        }
        self.ours(heads, window).expect("what has no graph is ours").backward(heads, attended, grad)
    }

    /// The mask of a window: one that no sequence reaches was left out of the plan.
    fn which(&self, window: Option<i64>) -> usize {
        let which =
            self.windows.iter().position(|&known| known == window).or(self.windows.iter().position(Option::is_none));
        which.expect("the plan was made for this model's windows")
    }

    /// The same on the CPU, where products are ours.
    fn ours(&self, heads: &Heads, window: Option<i64>) -> Option<host::Attention<'_>> {
        let by = product::tiles_for(self.factors).filter(|_| heads.queries.device() == Device::Cpu)?;
        let (queries, keys) = (ranges(&self.query_sizes), ranges(&self.key_sizes));
        let which = self.which(window);
        let mut trees: Vec<Vec<host::Run<'_>>> = Vec::new();
        for (call, queries) in self.calls.iter().zip(queries) {
            let mut seen: Vec<Range<usize>> = Vec::new();
            for run in call.keys.iter().map(|&run| keys[run].clone()) {
                match seen.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => seen.push(run),
                }
            }
            let sees_others = seen != [queries.clone()];
            let run = host::Run { queries, keys: seen, mask: call.masks[which].as_ref().map(elements) };
            match trees.last_mut() {
                Some(tree) if sees_others => tree.push(run),
                _ => trees.push(vec![run]),
            }
        }
        let width = heads.queries.size()[2] as usize;
        Some(host::Attention { trees, scale: self.scale, width, by })
    }

    /// libtorch's fused attention: never a matrix of scores in memory. (n, H, E) × (m, K, E) → (n, H, E).
    fn fused(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let heads_first = |tensor: &Tensor| tensor.transpose(0, 1).unsqueeze(0);
        let output = Tensor::scaled_dot_product_attention(
            &heads_first(q),
            &heads_first(k),
            &heads_first(v),
            mask,
            0.0,
            mask.is_none(),
            self.scale,
            self.groups > 1,
        );
        output.squeeze_dim(0).transpose(0, 1)
    }

    /// Plain batched products, the heads that share keys stacked: for dropout.
    fn plain(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, dropout: f64) -> Tensor {
        let (n, heads, width) = q.size3().expect("queries are (n, H, E)");
        let (m, kv_heads, _) = k.size3().expect("keys are (m, K, E)");
        let causal;
        let mask = match mask {
            Some(mask) => mask,
            None => {
                causal = Tensor::full([n, m], f64::NEG_INFINITY, (q.kind(), q.device())).triu_(1);
                &causal
            }
        };
        let mask = if self.groups > 1 { mask.repeat([self.groups, 1]) } else { mask.shallow_clone() };
        let stacked =
            q.view([n, kv_heads, self.groups, width]).permute([1, 2, 0, 3]).reshape([kv_heads, self.groups * n, width]);
        let scores = mask.unsqueeze(0).baddbmm(&stacked, &k.permute([1, 2, 0]), 1.0, self.scale);
        let probabilities = scores.softmax(-1, scores.kind()).dropout(dropout, dropout > 0.0);
        let output = probabilities.bmm(&v.transpose(0, 1));
        output.view([kv_heads, self.groups, n, width]).permute([2, 0, 1, 3]).reshape([n, heads, width])
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

/// Greedy: neighbouring segments share a call while it stays short and they see the same tokens outside it; a segment right
/// behind its parent always joins a chain.
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
            // A tree that does not fit whole starts its own block, so that its branches find their root beside them.
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

/// For each root: where the run of segments that continue it, right behind it, ends.
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

/// Runs of these sizes, one behind the other.
fn ranges(sizes: &[i64]) -> Vec<Range<usize>> {
    let mut end = 0;
    let next = |size: &i64| {
        let start = end;
        end += *size as usize;
        start..end
    };
    sizes.iter().map(next).collect()
}

fn joined(parts: &[Tensor], which: &[usize]) -> Tensor {
    match which {
        [one] => parts[*one].shallow_clone(),
        many => Tensor::cat(&many.iter().map(|&at| &parts[at]).collect::<Vec<_>>(), 0),
    }
}

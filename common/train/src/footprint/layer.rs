//! The activations that one layer saves for its backward pass.

use align_core::process_memory;
use align_model::Family;

use super::{BatchCost, FP32, ModelMemory};

/// Widths of a layer.
pub(super) struct LayerWidths {
    pub(super) hidden: u64,
    pub(super) inner: u64,
    pub(super) query: u64,
    pub(super) key: u64,
    heads: u64,
}

impl LayerWidths {
    /// Elements of a layer's matrices.
    pub(super) fn matrices(&self) -> u64 {
        self.hidden * (2 * self.query + 2 * self.key + 3 * self.inner)
    }

    /// Elements of the matrices after attention.
    pub(super) fn after_attention(&self) -> u64 {
        self.hidden * (self.query + 3 * self.inner)
    }
}

impl ModelMemory {
    pub(super) fn widths(&self) -> LayerWidths {
        let config = &self.config;
        LayerWidths {
            hidden: config.hidden_size as u64,
            inner: config.intermediate_size as u64,
            query: config.query_width() as u64,
            key: config.key_width() as u64,
            heads: config.num_attention_heads as u64,
        }
    }

    /// The activations of one layer whose output has this many rows: all tokens, or in the last layer the
    /// targets.
    pub(super) fn layer_activations(&self, cost: &BatchCost, output_rows: u64) -> u64 {
        self.saved_tensors(cost, output_rows).iter().map(|(_, bytes)| bytes).sum()
    }

    /// The tensors that one layer saves, by kind: bytes of one tensor, and of all tensors of the kind.
    fn saved_tensors(&self, cost: &BatchCost, output_rows: u64) -> [(u64, u64); 4] {
        let LayerWidths { hidden, inner, query, key, heads } = self.widths();
        let (small, tokens) = (self.activation_size(), cost.tokens);
        // Residual stream before and after attention; dropout masks.
        let dropout_masks = if self.dropout { 2 * small * hidden } else { 0 };
        let streams = tokens * FP32 * hidden + output_rows * (FP32 * hidden + dropout_masks);
        // Gate and up.
        let feed_forward = 2 * small * inner;
        // Rotated keys, values, rotated queries and the attention output, which several calls save a second
        // time, concatenated. With head norms also queries and keys before the norms.
        let joins =
            cost.calls > 1 && !self.dropout && !self.options.ops().attention_reads_in_place(self.options.compute);
        let parts = if joins { 3 } else { 2 };
        let head_norms = if self.config.family == Family::Qwen3 { query + key } else { 0 };
        let attention = small * (2 * key + parts * query + head_norms);
        // With dropout: probabilities, dropout mask, and their product.
        let scores = if self.dropout { 3 * small * heads * cost.pairs } else { 0 };
        [
            (tokens * FP32 * hidden, streams),
            (output_rows * small * inner, output_rows * feed_forward),
            (tokens * small * query, tokens * attention),
            (scores / cost.calls.max(1), scores),
        ]
    }

    /// Allocator fragmentation. Small tensors are allocated on the heap, where tensors of other sizes leave
    /// gaps: up to a third as measured. Estimated here are an eighth, and a quarter where element-wise
    /// operations allocate their results. Large tensors are mapped separately, without gaps.
    pub(super) fn fragmentation(&self, cost: &BatchCost) -> u64 {
        let layers = if self.options.recompute_layers { 1 } else { self.config.num_hidden_layers as u64 };
        let from_heap =
            self.saved_tensors(cost, cost.tokens).into_iter().filter(|(one, _)| *one < process_memory::MMAP_THRESHOLD);
        let parts = if self.options.ops().writes_in_place() { 8 } else { 4 };
        from_heap.map(|(_, bytes)| layers * bytes).sum::<u64>() / parts
    }
}

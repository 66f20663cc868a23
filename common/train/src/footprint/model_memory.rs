//! A model in memory: its weights and training state, and what a pass over a batch adds.

use align_model::{Face, ModelConfig, ModelOptions, READ_BYTES, chunk_rows, num_parameters, num_parameters_without};
use tch::Kind;

use super::{BatchCost, FP32};

/// A model in memory.
#[derive(Debug, Clone)]
pub struct ModelMemory {
    /// Its architecture.
    pub config: ModelConfig,
    /// How it is loaded and computed.
    pub options: ModelOptions,
    /// Whether it has a language-model head, its own or the embedding's weight.
    pub has_lm_head: bool,
    /// Whether dropout is on.
    pub dropout: bool,
    /// The dtype in which its weights are written; the source's when absent.
    pub result_dtype: Option<Kind>,
}

/// Bytes of a mapped file that are read at a time.
const PART_BYTES: u64 = READ_BYTES as u64;

impl ModelMemory {
    /// The head that its parameters have.
    fn face(&self) -> Face {
        if self.has_lm_head { Face::CausalLm } else { Face::Scalar }
    }

    /// Number of parameters.
    pub fn num_parameters(&self) -> u64 {
        num_parameters(&self.config, self.face())
    }

    /// Weights: fp32 masters if trainable, otherwise in the compute dtype.
    pub fn weights(&self) -> u64 {
        self.num_parameters() * if self.options.trainable { FP32 } else { self.compute_size() }
    }

    /// Memory for writing a checkpoint and reading it back during the next steps.
    ///
    /// - 16-bit weights: the largest matrix, rounded.
    /// - fp32 weights, written without a copy: one layer of the mapped file and its largest matrix in the
    ///   compute dtype, or a part of the embedding.
    pub fn checkpoint(&self) -> u64 {
        if !self.options.trainable {
            return 0;
        }
        let widths = self.widths();
        let written = self.result_dtype.unwrap_or(self.config.dtype);
        let bytes = written.elt_size_in_bytes() as u64;
        let largest = widths.hidden * widths.inner.max(widths.query);
        let embedding = self.config.vocab_size as u64 * widths.hidden;
        if written != Kind::Float {
            return bytes * embedding.max(largest);
        }
        let cast = if written == self.options.compute { 0 } else { self.compute_size() * largest };
        (bytes * widths.matrices() + cast).max(PART_BYTES.min(bytes * embedding))
    }

    /// Gradients, in fp32; they stay allocated from step to step.
    pub fn gradients(&self) -> u64 {
        if self.options.trainable { self.num_parameters() * FP32 } else { 0 }
    }

    /// Gradients of the parameters without a counterpart of the same name and shape in `other`.
    pub fn gradients_without(&self, other: &Self) -> u64 {
        num_parameters_without(&self.config, self.face(), &other.config, other.face()) * FP32
    }

    /// Both moments of AdamW.
    pub fn moments(&self) -> u64 {
        2 * self.gradients()
    }

    /// Activations that a forward pass saves for the backward pass, and the gaps between them.
    pub fn activations(&self, cost: &BatchCost) -> u64 {
        self.saved_activations(cost) + self.fragmentation(cost)
    }

    /// [`ModelMemory::activations`] without the gaps, which the activations of a second model fill.
    pub fn saved_activations(&self, cost: &BatchCost) -> u64 {
        let widths = self.widths();
        let layers = self.config.num_hidden_layers as u64;
        let inside = if self.options.recompute_layers {
            // The input of each layer, and all activations of the layer that the backward pass is in.
            layers * cost.tokens * widths.hidden * FP32 + self.layer_activations(cost, cost.tokens)
        } else {
            // After the last attention only the rows of targets are computed.
            (layers - 1) * self.layer_activations(cost, cost.tokens) + self.layer_activations(cost, cost.targets)
        };
        // The embedding's output (fp32); for each target the final norm's input, its output, and the output's
        // gradient.
        let outside =
            cost.tokens * widths.hidden * FP32 + cost.targets * widths.hidden * (FP32 + 2 * self.activation_size());
        let embedding_mask = if self.dropout { cost.tokens * widths.hidden * FP32 } else { 0 };
        inside + outside + embedding_mask + self.shared_tables(cost)
    }

    /// The backward pass's maximum above [`ModelMemory::activations`], which is in the feed-forward layer:
    ///
    /// - the gated activations, their gradient, and the gradient of the residual stream; where gate and up do
    ///   not become their gradients in place, both gradients and a temporary instead of the gated
    ///   activations;
    /// - with 16-bit matmuls on the CPU, both inputs of a matmul, rounded;
    /// - with 16-bit matmuls elsewhere, the layer's largest weight, rounded, and its gradient before it is
    ///   accumulated.
    pub fn backward_workspace(&self, cost: &BatchCost) -> u64 {
        let widths = self.widths();
        let weight = widths.inner * widths.hidden;
        let rounded = if self.options.ops().rounds_by_block() {
            self.rounded_activations(cost.tokens * widths.inner)
                + self.rounded_weight(weight).max(self.rounded_activations(cost.tokens * widths.hidden))
        } else {
            2 * self.rounded_weight(weight)
        };
        let inner = if self.options.ops().writes_in_place() { 2 } else { 4 } * widths.inner;
        cost.tokens * (inner * self.activation_size() + widths.hidden * FP32) + rounded
    }

    /// A forward and a backward pass: the activations, and the larger of the head's and the backward pass's
    /// workspace.
    pub fn training(&self, cost: &BatchCost) -> [(&'static str, u64); 2] {
        let head = if self.has_lm_head { self.head_training(cost) } else { 0 };
        let backward = self.backward_workspace(cost);
        [
            ("activations", self.activations(cost)),
            if head > backward { ("logits", head) } else { ("way back", backward) },
        ]
    }

    /// Bytes that the optimizer reads and writes: for each parameter it reads four numbers and writes three.
    pub fn optimizer_traffic(&self) -> f64 {
        7.0 * self.weights() as f64
    }

    /// A forward pass without gradients, at its maximum in the feed-forward layer: three inner activations
    /// and the residual stream.
    pub fn inference(&self, cost: &BatchCost) -> u64 {
        let widths = self.widths();
        cost.tokens * (3 * widths.inner * self.activation_size() + widths.hidden * (2 * FP32 + self.activation_size()))
            + self.rounded_weight(widths.hidden * widths.inner)
            + self.rounded_activations(cost.tokens * widths.hidden)
            + self.shared_tables(cost)
    }

    /// The language-model head over the targets without gradients: the logits of a chunk of rows, block by
    /// block.
    pub fn head_inference(&self, cost: &BatchCost) -> u64 {
        let (rows, block) = (self.head_rows(cost), self.logits_block());
        let rounded = if self.options.ops().rounds_by_block() {
            self.rounded_head_block(rows)
        } else {
            self.rounded_head() + rows * block * self.activation_size()
        };
        rows * block * FP32 + rounded
    }

    /// The language-model head over the targets with gradients: the logits of a chunk of rows, and the
    /// targets' hidden states with their gradient.
    pub fn head_training(&self, cost: &BatchCost) -> u64 {
        let (hidden, rows, block) = (self.widths().hidden, self.head_rows(cost), self.logits_block());
        let rounded = if self.options.ops().rounds_by_block() {
            self.rounded_head_block(rows)
        } else {
            // A block's gradient is accumulated in fp32.
            self.rounded_head() + block * (rows * self.activation_size() + hidden * (self.activation_size() + FP32))
        };
        let read = cost.targets * hidden * (self.activation_size() + FP32);
        rows * self.config.vocab_size as u64 * FP32 + rounded + read
    }

    /// Rows whose logits are computed at once.
    fn head_rows(&self, cost: &BatchCost) -> u64 {
        cost.targets.min(chunk_rows(self.config.vocab_size) as u64)
    }

    /// Vocabulary entries whose logits are computed at once.
    fn logits_block(&self) -> u64 {
        self.options.ops().logits_block(self.config.vocab_size as usize) as u64
    }

    /// The head's weight, rounded for a matmul.
    fn rounded_head(&self) -> u64 {
        self.rounded_weight(self.config.vocab_size as u64 * self.widths().hidden)
    }

    /// A block of the head's weight, rounded on the CPU for a matmul, and the rounded logits or hidden
    /// states.
    fn rounded_head_block(&self, rows: u64) -> u64 {
        let (hidden, block) = (self.widths().hidden, self.logits_block());
        self.rounded_weight(block * hidden) + self.rounded_activations(block.max(hidden) * rows)
    }

    /// The KV cache of `rows` responses that grow from `prompt` to `longest` tokens, with the capacity it
    /// reaches.
    pub fn kv_cache(&self, rows: u64, prompt: u64, longest: u64) -> u64 {
        const BLOCK: u64 = 64;
        let mut capacity = (prompt + 1).next_multiple_of(BLOCK);
        while capacity < longest {
            capacity = (capacity + 1 + capacity / 2).next_multiple_of(BLOCK);
        }
        let width = self.widths().key * self.activation_size();
        (2 * self.config.num_hidden_layers as u64 + 1) * rows * capacity * width
    }

    /// Keys and values of prefilled prompts before they are copied into the KV cache.
    pub fn prefill_cache(&self, cost: &BatchCost) -> u64 {
        2 * self.config.num_hidden_layers as u64 * cost.tokens * self.widths().key * self.activation_size()
    }

    /// One decoding step of `rows` responses: the logits, which become probabilities in place.
    pub fn decoding_step(&self, rows: u64) -> u64 {
        let cast = if self.options.trainable { 0 } else { self.rounded_head() };
        rows * self.config.vocab_size as u64 * FP32 + cast
    }

    /// Floating-point operations of a forward pass; a multiply-add counts as two. A backward pass has twice
    /// as many.
    pub fn forward_flops(&self, cost: &BatchCost) -> f64 {
        let widths = self.widths();
        // After the last attention only the rows of targets are computed.
        let targets = cost.targets.min(cost.tokens);
        let layers = self.config.num_hidden_layers as u64;
        let body = layers * widths.matrices() * cost.tokens - widths.after_attention() * (cost.tokens - targets);
        let attention = self.config.num_hidden_layers as u64 * 2 * widths.query * cost.pairs;
        let head = if self.has_lm_head { self.config.vocab_size as u64 * widths.hidden * cost.targets } else { 0 };
        2.0 * (body as f64 + attention as f64 + head as f64)
    }

    /// Bytes that a forward and a backward pass read and write outside matmuls: the activations three times,
    /// each logit four times.
    pub fn traffic(&self, cost: &BatchCost) -> f64 {
        let logits = if self.has_lm_head { cost.targets * self.config.vocab_size as u64 } else { 0 };
        (3 * self.activations(cost) + 4 * FP32 * logits) as f64
    }

    /// Cosines, sines and masks, which all layers share.
    fn shared_tables(&self, cost: &BatchCost) -> u64 {
        let windows = 1 + u64::from(self.config.sliding_windows.iter().any(Option::is_some));
        (2 * cost.tokens * self.config.head_dim as u64 + windows * cost.masked_pairs) * self.activation_size()
    }

    /// Bytes of this many elements of the weights, rounded for a matmul.
    fn rounded_weight(&self, elements: u64) -> u64 {
        self.rounded(elements, if self.options.trainable { Kind::Float } else { self.options.compute })
    }

    /// Bytes of this many elements of the activations, rounded for a matmul.
    fn rounded_activations(&self, elements: u64) -> u64 {
        self.rounded(elements, self.options.precision().activations)
    }

    /// Bytes of a matmul input of dtype `stored`, rounded for the matmul.
    fn rounded(&self, elements: u64, stored: Kind) -> u64 {
        self.options.ops().rounded_input_bytes(elements, stored, self.options.compute)
    }

    /// Bytes of an element of the activations.
    pub(super) fn activation_size(&self) -> u64 {
        self.options.precision().activations.elt_size_in_bytes() as u64
    }

    /// Bytes of an element of the compute dtype.
    fn compute_size(&self) -> u64 {
        self.options.compute.elt_size_in_bytes() as u64
    }
}

/// The parts of models that stay in memory: weights, gradients, moments.
pub fn resident(models: &[&ModelMemory]) -> Vec<(&'static str, u64)> {
    let sum = |part: fn(&ModelMemory) -> u64| models.iter().map(|model| part(model)).sum();
    vec![
        ("weights", sum(ModelMemory::weights)),
        ("gradients", sum(ModelMemory::gradients)),
        ("moments", sum(ModelMemory::moments)),
    ]
}

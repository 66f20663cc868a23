//! What a model's work needs of memory and arithmetic, counted from what the code keeps: bytes of tensors, as numbers of
//! elements times their size. One number is measured instead: the gaps that the allocator leaves between small tensors.
//!
//! Letters as everywhere: D hidden, I inside the feed-forward layer, Q = H·E, K·E, T tokens.

use std::ops::Range;

use tch::Kind;

use crate::outset::Outset;
use align_core::process_memory;
use align_kernels::attention::extent;
use align_kernels::batch::FlatBatch;
use align_kernels::batch::microbatches;
use align_model::{Family, ModelConfig, ModelOptions, READ_BYTES, chunk_rows, num_parameters, num_parameters_without};

/// What is computed at once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Tokens of the flat batch (T).
    pub tokens: u64,
    /// Pairs of a query and a key over all calls of attention, in one layer and for one head.
    pub pairs: u64,
    /// Those of calls with a mask.
    pub masked_pairs: u64,
    /// Calls of attention in a layer.
    pub calls: u64,
    /// Tokens whose log-probability is asked for (N).
    pub targets: u64,
}

impl Work {
    /// The work that a flat batch is.
    pub fn of(batch: &FlatBatch, targets: usize) -> Self {
        let mut work = Self { tokens: batch.len() as u64, targets: targets as u64, ..Self::default() };
        for call in extent(batch) {
            let pairs = (call.queries * call.keys) as u64;
            work.calls += 1;
            work.pairs += pairs;
            work.masked_pairs += if call.is_masked { pairs } else { 0 };
        }
        work
    }
}

/// A model in memory.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its architecture.
    pub config: ModelConfig,
    /// How it is held and computed.
    pub options: ModelOptions,
    /// Whether it has a language-model head of its own or shares it with the embedding.
    pub has_lm_head: bool,
    /// Whether dropout acts.
    pub dropout: bool,
    /// The dtype of the weights that are written of it; the source's, where there is none.
    pub written: Option<Kind>,
}

const FP32: u64 = 4;
/// Of a mapped file, as much is read at a time.
const PART_BYTES: u64 = READ_BYTES as u64;

impl Held {
    /// Number of parameters.
    pub fn num_parameters(&self) -> u64 {
        num_parameters(&self.config, self.has_lm_head)
    }

    /// Weights: fp32 masters where trained, else in the compute dtype.
    pub fn weights(&self) -> u64 {
        self.num_parameters() * if self.options.trainable { FP32 } else { self.compute() }
    }

    /// What a checkpoint takes while it is written and read back beside the steps behind it. Written in 16 bits: its largest matrix, rounded.
    /// In fp32, which is written from where it lies: of the mapped file a layer, with its largest matrix in the dtype of computation, or
    /// a part of the embedding.
    pub fn saving(&self) -> u64 {
        if !self.options.trainable {
            return 0;
        }
        let shape = self.shape();
        let written = self.written.unwrap_or(self.config.dtype);
        let bytes = written.elt_size_in_bytes() as u64;
        let largest = shape.hidden * shape.inner.max(shape.query);
        let embedding = self.config.vocab_size as u64 * shape.hidden;
        if written != Kind::Float {
            return bytes * embedding.max(largest);
        }
        let cast = if written == self.options.compute { 0 } else { self.compute() * largest };
        (bytes * shape.matrices() + cast).max(PART_BYTES.min(bytes * embedding))
    }

    /// Gradients, in fp32; they stay from step to step.
    pub fn gradients(&self) -> u64 {
        if self.options.trainable { self.num_parameters() * FP32 } else { 0 }
    }

    /// Gradients of parameters that `other` has none of the same name and shape as.
    pub fn gradients_without(&self, other: &Self) -> u64 {
        num_parameters_without(&self.config, self.has_lm_head, &other.config, other.has_lm_head) * FP32
    }

    /// Both moments of AdamW.
    pub fn moments(&self) -> u64 {
        2 * self.gradients()
    }

    /// What a forward pass keeps for the way back.
    pub fn kept(&self, work: &Work) -> u64 {
        let shape = self.shape();
        let layers = self.config.num_hidden_layers as u64;
        let recomputes = self.options.recompute_layers;
        let inside = if recomputes {
            // Each layer's input, and one layer in full on the way back.
            layers * work.tokens * shape.hidden * FP32 + self.layer(work)
        } else {
            // Behind the last one's attention only what is read.
            (layers - 1) * self.layer(work)
                + self.blocks(work, work.targets).iter().map(|(_, bytes)| bytes).sum::<u64>()
        };
        // Embedded tokens (fp32); of what is read, what goes into the final norm, what comes out, and the gradient of that.
        let outside = work.tokens * shape.hidden * FP32 + work.targets * shape.hidden * (FP32 + 2 * self.between());
        let embedding_noise = if self.dropout { work.tokens * shape.hidden * FP32 } else { 0 };
        inside + outside + embedding_noise + self.plan(work) + self.gaps(work)
    }

    /// What the way back needs above [`Held::kept`] at its worst place, the feed-forward layer: its gated result and the gradient of that,
    /// and the gradient of the residual stream; in 16 bits also both factors of a product, rounded, or elsewhere than on the CPU its
    /// largest weight, rounded, and that weight's gradient before it is added.
    pub fn backward(&self, work: &Work) -> u64 {
        let shape = self.shape();
        let weight = shape.inner * shape.hidden;
        let rounded = if self.options.ops().rounds_by_block() {
            self.rounded_activations(work.tokens * shape.inner)
                + self.rounded_weight(weight).max(self.rounded_activations(work.tokens * shape.hidden))
        } else {
            2 * self.rounded_weight(weight)
        };
        work.tokens * (2 * shape.inner * self.between() + shape.hidden * FP32) + rounded
    }

    /// A pass forward and back: what is kept, and the larger of what the head and the way back need.
    pub fn learning(&self, work: &Work) -> [(&'static str, u64); 2] {
        let (head, back) = (if self.has_lm_head { self.head(work, true) } else { 0 }, self.backward(work));
        [("activations", self.kept(work)), if head > back { ("logits", head) } else { ("way back", back) }]
    }

    /// Bytes that the optimiser goes through: it reads four numbers a parameter and writes three.
    pub fn stepping(&self) -> f64 {
        7.0 * self.weights() as f64
    }

    /// A forward pass without a gradient at its worst place, the feed-forward layer: its three inner results beside the residual
    /// stream.
    pub fn forward(&self, work: &Work) -> u64 {
        let shape = self.shape();
        work.tokens * (3 * shape.inner * self.between() + shape.hidden * (2 * FP32 + self.between()))
            + self.rounded_weight(shape.hidden * shape.inner)
            + self.rounded_activations(work.tokens * shape.hidden)
            + self.plan(work)
    }

    /// The language-model head over the targets, a chunk of rows at a time, and the gradient of what it reads.
    pub fn head(&self, work: &Work, with_gradient: bool) -> u64 {
        let shape = self.shape();
        let vocab = self.config.vocab_size as u64;
        let rows = work.targets.min(chunk_rows(self.config.vocab_size) as u64);
        let block = self.options.ops().logits_block(self.config.vocab_size as usize) as u64;
        let logits = rows * if with_gradient { vocab } else { block } * FP32;
        // On the CPU a block's part of the weight is rounded, and its gradient; elsewhere the weight, and a block's gradient, which is added in
        // fp32.
        let rounded = match (self.options.ops().rounds_by_block(), with_gradient) {
            (true, _) => {
                self.rounded_weight(block * shape.hidden) + self.rounded_activations(block.max(shape.hidden) * rows)
            }
            (_, false) => self.rounded_weight(vocab * shape.hidden) + rows * block * self.between(),
            (_, true) => {
                self.rounded_weight(vocab * shape.hidden)
                    + block * (rows * self.between() + shape.hidden * (self.between() + FP32))
            }
        };
        let read = if with_gradient { work.targets * shape.hidden * (self.between() + FP32) } else { 0 };
        logits + rounded + read
    }

    /// The cache of `rows` responses that grow from `prompt` to `longest` tokens, as its room grows.
    pub fn cache(&self, rows: u64, prompt: u64, longest: u64) -> u64 {
        const ROOM: u64 = 64;
        let mut room = (prompt + 1).next_multiple_of(ROOM);
        while room < longest {
            room = (room + 1 + room / 2).next_multiple_of(ROOM);
        }
        let width = self.shape().key * self.between();
        (2 * self.config.num_hidden_layers as u64 + 1) * rows * room * width
    }

    /// Keys and values of prompts that wait for their place in the cache.
    pub fn prefilled(&self, work: &Work) -> u64 {
        2 * self.config.num_hidden_layers as u64 * work.tokens * self.shape().key * self.between()
    }

    /// One decoding step of `rows` responses: logits, which become probabilities where they are.
    pub fn draw(&self, rows: u64) -> u64 {
        let vocab = self.config.vocab_size as u64;
        let cast = if self.options.trainable { 0 } else { self.rounded_weight(vocab * self.shape().hidden) };
        rows * vocab * FP32 + cast
    }

    /// Floating-point operations of a forward pass, a multiplication and an addition counted as two; a way back takes twice as many.
    pub fn operations(&self, work: &Work) -> f64 {
        let shape = self.shape();
        // Behind the last layer's attention only what is read is computed.
        let read = work.targets.min(work.tokens);
        let layers = self.config.num_hidden_layers as u64;
        let body = layers * shape.matrices() * work.tokens - shape.behind_attention() * (work.tokens - read);
        let attention = self.config.num_hidden_layers as u64 * 2 * shape.query * work.pairs;
        let head = if self.has_lm_head { self.config.vocab_size as u64 * shape.hidden * work.targets } else { 0 };
        2.0 * (body as f64 + attention as f64 + head as f64)
    }

    /// Bytes that a pass reads and writes beside its products, element by element: what it keeps, three times on the way there and back,
    /// and four times each logit.
    pub fn traffic(&self, work: &Work) -> f64 {
        let logits = if self.has_lm_head { work.targets * self.config.vocab_size as u64 } else { 0 };
        (3 * self.kept(work) + 4 * FP32 * logits) as f64
    }

    /// What one layer keeps.
    fn layer(&self, work: &Work) -> u64 {
        self.blocks(work, work.tokens).iter().map(|(_, bytes)| bytes).sum()
    }

    /// The tensors that one layer keeps whose attention is read at so many places: bytes of one, and of all of its kind.
    fn blocks(&self, work: &Work, read: u64) -> [(u64, u64); 4] {
        let Shape { hidden, inner, query, key, heads } = self.shape();
        let (small, tokens) = (self.between(), work.tokens);
        // Residual stream before and after attention; noise.
        let noise = if self.dropout { 2 * small * hidden } else { 0 };
        let streams = tokens * FP32 * hidden + read * (FP32 * hidden + noise);
        // Gate and up.
        let feed_forward = 2 * small * inner;
        // Rotated keys, values, rotated queries, and what attention gives; of several calls a second time, joined. Before their norms,
        // queries and keys are kept too.
        let joins =
            work.calls > 1 && !self.dropout && !self.options.ops().attention_reads_in_place(self.options.compute);
        let parts = if joins { 3 } else { 2 };
        let head_norms = if self.config.family == Family::Qwen3 { query + key } else { 0 };
        let attention = small * (2 * key + parts * query + head_norms);
        // With dropout, probabilities, its noise and their product are held.
        let scores = if self.dropout { 3 * small * heads * work.pairs } else { 0 };
        [
            (tokens * FP32 * hidden, streams),
            (read * small * inner, read * feed_forward),
            (tokens * small * query, tokens * attention),
            (scores / work.calls.max(1), scores),
        ]
    }

    /// What the allocator holds between tensors: small ones come from a heap, in which those of other sizes leave gaps (up
    /// to a third, as measured; an eighth is taken); large ones are mapped each for itself.
    fn gaps(&self, work: &Work) -> u64 {
        let layers = if self.options.recompute_layers { 1 } else { self.config.num_hidden_layers as u64 };
        let from_heap =
            self.blocks(work, work.tokens).into_iter().filter(|(block, _)| *block < process_memory::MMAP_THRESHOLD);
        from_heap.map(|(_, bytes)| layers * bytes).sum::<u64>() / 8
    }

    /// Cosines, sines and masks, which all layers share.
    fn plan(&self, work: &Work) -> u64 {
        let windows = 1 + u64::from(self.config.sliding_windows.iter().any(Option::is_some));
        (2 * work.tokens * self.config.head_dim as u64 + windows * work.masked_pairs) * self.between()
    }

    /// A part of the weights of so many elements, rounded for a product.
    fn rounded_weight(&self, elements: u64) -> u64 {
        self.rounded(elements, if self.options.trainable { Kind::Float } else { self.options.compute })
    }

    /// What lies between products, so many elements of it, rounded for one.
    fn rounded_activations(&self, elements: u64) -> u64 {
        self.rounded(elements, self.options.precision().activations)
    }

    /// A factor of so many elements in the dtype `held`, rounded for a product.
    fn rounded(&self, elements: u64, held: Kind) -> u64 {
        self.options.ops().rounded_input_bytes(elements, held, self.options.compute)
    }

    /// Bytes of a number between products.
    fn between(&self) -> u64 {
        self.options.precision().activations.elt_size_in_bytes() as u64
    }

    fn compute(&self) -> u64 {
        self.options.compute.elt_size_in_bytes() as u64
    }

    fn shape(&self) -> Shape {
        let config = &self.config;
        Shape {
            hidden: config.hidden_size as u64,
            inner: config.intermediate_size as u64,
            query: config.query_width() as u64,
            key: config.key_width() as u64,
            heads: config.num_attention_heads as u64,
        }
    }
}

/// Widths of a layer.
struct Shape {
    hidden: u64,
    inner: u64,
    query: u64,
    key: u64,
    heads: u64,
}

impl Shape {
    /// Elements of a layer's matrices.
    fn matrices(&self) -> u64 {
        self.hidden * (2 * self.query + 2 * self.key + 3 * self.inner)
    }

    /// Of these, those behind its attention.
    fn behind_attention(&self) -> u64 {
        self.hidden * (self.query + 3 * self.inner)
    }
}

/// A part of a step, or what stands beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Phase {
    /// What it is called.
    pub name: &'static str,
    /// Bytes by part, in order.
    pub parts: Vec<(&'static str, u64)>,
    /// Floating-point operations of products.
    pub operations: f64,
    /// Bytes that are read and written beside products: what the optimiser and each decoding step must go through.
    pub traffic: f64,
}

impl Phase {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What a stage needs for a size of its microbatches, in tokens.
pub struct Outline {
    /// The stage.
    pub stage: &'static str,
    /// What is told before any run of it.
    pub outset: Outset,
    /// The dtype of products.
    pub compute: Kind,
    /// What the config says.
    pub microbatch_tokens: usize,
    /// The config's key for it.
    pub key: &'static str,
    /// More tokens than a step has make no larger microbatch.
    pub step_tokens: usize,
    /// Every phase.
    pub phases: Box<dyn Fn(usize) -> Vec<Phase>>,
}

impl Outline {
    /// That of a stage that trains one model.
    pub fn of_training(stage: &'static str, outset: Outset, held: Held, microbatch_tokens: usize, rows: Rows) -> Self {
        Self {
            stage,
            outset,
            compute: held.options.compute,
            microbatch_tokens,
            key: "train.microbatch_tokens",
            step_tokens: rows.step_tokens(),
            phases: Box::new(move |microbatch_tokens| rows.phases(&held, microbatch_tokens)),
        }
    }

    /// The most bytes of any phase.
    pub fn peak(&self, microbatch_tokens: usize) -> u64 {
        (self.phases)(microbatch_tokens).iter().map(Phase::bytes).max().unwrap_or(0)
    }

    /// The largest microbatch, in whole 64s of tokens, that stays within so many bytes; `None` when not even the smallest does.
    pub fn largest(&self, bytes: u64) -> Option<usize> {
        const STEP: usize = 64;
        let fits = |steps: usize| self.peak(steps * STEP) <= bytes;
        let (mut low, mut high) = (1, self.step_tokens.div_ceil(STEP).max(1));
        if !fits(low) {
            return None;
        }
        while low < high {
            let middle = (low + high).div_ceil(2);
            if fits(middle) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        Some(low * STEP)
    }
}

/// Steps whose microbatches are looked at.
pub const STEPS: u64 = 1000;

/// The rows of a stage that trains one model.
pub struct Rows {
    /// Steps that are looked at.
    pub steps: u64,
    /// Tokens and targets of a step's rows, in order.
    pub sizes: Box<dyn Fn(u64) -> Vec<(usize, usize)>>,
    /// Some of a step's rows, laid out.
    pub layout: Box<dyn Fn(u64, Range<usize>) -> Work>,
}

impl Rows {
    /// Tokens of the largest step.
    fn step_tokens(&self) -> usize {
        let tokens = |step| (self.sizes)(step).iter().map(|(tokens, _)| tokens).sum();
        (0..self.steps).map(tokens).max().unwrap_or(0)
    }

    /// The phases of training a model on them: its update, at the heaviest microbatch, beside which a checkpoint may be
    /// written, and the last save.
    fn phases(&self, held: &Held, microbatch_tokens: usize) -> Vec<Phase> {
        let (mut heaviest, mut most, mut operations, mut traffic) = ((0, 0..0), 0, 0.0, 0.0);
        for step in 0..self.steps {
            let sizes = (self.sizes)(step);
            let lengths: Vec<usize> = sizes.iter().map(|(tokens, _)| *tokens).collect();
            for range in microbatches(&lengths, microbatch_tokens) {
                let sum =
                    |part: fn(&(usize, usize)) -> usize| sizes[range.clone()].iter().map(part).sum::<usize>() as u64;
                let rough = Work { tokens: sum(|row| row.0), targets: sum(|row| row.1), ..Work::default() };
                operations += 3.0 * held.operations(&rough);
                traffic += held.traffic(&rough);
                let bytes = held.kept(&rough) + held.head(&rough, true);
                if bytes > most {
                    (heaviest, most) = ((step, range), bytes);
                }
            }
        }
        let work = (self.layout)(heaviest.0, heaviest.1);
        let mut update = resident(&[held]);
        update.extend(held.learning(&work));
        update.push(("checkpoint", held.saving()));
        let mut save = resident(&[held]);
        save.push(("checkpoint", held.saving()));
        let update = Phase {
            name: "update",
            parts: update,
            operations: operations / self.steps.max(1) as f64,
            traffic: held.stepping() + traffic / self.steps.max(1) as f64,
        };
        vec![update, Phase { name: "save", parts: save, ..Phase::default() }]
    }
}

/// The parts of a model that is trained: weights, gradients, moments.
pub fn resident(models: &[&Held]) -> Vec<(&'static str, u64)> {
    let sum = |part: fn(&Held) -> u64| models.iter().map(|model| part(model)).sum();
    vec![("weights", sum(Held::weights)), ("gradients", sum(Held::gradients)), ("moments", sum(Held::moments))]
}

//! The two heads on top of hidden states: the language model's, in chunks of rows, and the scalar one.

use std::ops::Range;

use tch::{Kind, Tensor};

use align_kernels::logprobs::{Chunk, even_parts};
pub use align_kernels::logprobs::{Over, TokenStats};
use align_kernels::{Ops, Precision};

use super::ModelOptions;
use super::files::Files;

/// How many logits a chunk of the language-model head may hold.
const CHUNK_LOGITS: i64 = 1 << 27;
/// A chunk has at most this many rows: the allocator keeps a freed block of it for reuse.
const CHUNK_ROWS: i64 = 960;

/// Computes ∂L/∂logprob (n) f32, given a range of rows and their log-probabilities (n).
pub type GradOf<'a> = dyn FnMut(Range<usize>, &Tensor) -> Tensor + 'a;

/// Hidden states → log-probabilities over the vocabulary, never with more than a chunk of logits in memory.
pub struct LmHead {
    weight: Tensor,
    ops: &'static dyn Ops,
    /// What matmul inputs are rounded to.
    matmul: Kind,
}

impl std::fmt::Debug for LmHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LmHead").field("weight", &self.weight).field("matmul", &self.matmul).finish_non_exhaustive()
    }
}

impl LmHead {
    pub(crate) fn new(weight: Tensor, options: &ModelOptions) -> Self {
        Self { weight, ops: options.ops(), matmul: options.compute }
    }

    /// Logits (N, V) in fp32, all at once and without a gradient: for few rows.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.logits_by(self.ops.precision(self.matmul), hidden)
    }

    /// The same while decoding.
    pub(crate) fn next_logits(&self, hidden: &Tensor) -> Tensor {
        self.logits_by(self.ops.decode_precision(self.matmul, self.weight.kind()), hidden)
    }

    fn logits_by(&self, precision: Precision, hidden: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        self.ops.linear_few_rows(precision, &hidden.detach(), &self.weight.detach(), None).to_kind(Kind::Float)
    }

    /// As [`LmHead::logits`], for a head in mapped files that is used once: of the files, some rows are held
    /// at a time.
    pub(crate) fn logits_once(&self, hidden: &Tensor, files: &Files) -> Tensor {
        const ROWS: i64 = 1 << 13;
        let _guard = tch::no_grad_guard();
        let count = self.weight.size()[0];
        let part = |start: i64| {
            let weight = self.weight.narrow(0, start, ROWS.min(count - start));
            let logits = Self { weight, ops: self.ops, matmul: self.matmul }.logits(hidden);
            files.let_go();
            logits
        };
        Tensor::cat(&(0..count).step_by(ROWS as usize).map(part).collect::<Vec<_>>(), 1)
    }

    /// Log-probabilities of `targets` (N) i64 after `hidden` (N, D), without a gradient.
    pub fn logprobs(&self, hidden: &Tensor, targets: &Tensor, over: &Over<'_>) -> TokenStats {
        let _guard = tch::no_grad_guard();
        let weight = self.ops.matmul_input(&self.weight, self.matmul);
        let read = |rows| {
            let chunk = self.chunk(&weight, hidden, targets, over, rows);
            self.ops.logprobs(&chunk)
        };
        collect(self.rows(targets).map(read).collect(), targets)
    }

    /// As [`LmHead::logprobs`], and in the same pass the gradient of a loss that depends on the logits
    /// only through the log-probabilities of the targets. Adds to the weight's gradient where it is trained,
    /// and returns the gradient with respect to `hidden` (N, D), in its dtype.
    ///
    /// With g = ∂L/∂logprob: ∂L/∂logits = (onehot − softmax)·g / temperature.
    pub fn gradient(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        over: &Over<'_>,
        grad_of: &mut GradOf<'_>,
    ) -> (TokenStats, Tensor) {
        let weight_grad = self.weight.requires_grad().then(|| ensure_grad(&self.weight));
        let _guard = tch::no_grad_guard();
        let weight = self.ops.matmul_input(&self.weight, self.matmul);
        let (mut stats, hidden_grad) = (Vec::new(), Tensor::zeros(hidden.size(), (Kind::Float, hidden.device())));
        for rows in self.rows(targets) {
            let chunk = self.chunk(&weight, hidden, targets, over, rows.clone());
            let (chunk_stats, softmax) = self.ops.logprobs_train(&chunk);
            let grad = grad_of(rows.clone(), &chunk_stats.logprobs).to_device(hidden.device()).to_kind(Kind::Float);
            let mut hidden_grad = hidden_grad.narrow(0, rows.start as i64, rows.len() as i64);
            softmax.gradients(&(grad / over.temperature), &mut |ids, logits_grad| {
                let logits_grad = self.ops.matmul_input(&logits_grad, self.matmul);
                let part = |tensor: &Tensor| tensor.narrow(0, ids.start as i64, ids.len() as i64);
                self.ops.addmm(self.matmul, &mut hidden_grad, &logits_grad, &part(&weight));
                if let Some(total) = &weight_grad {
                    self.ops.addmm(self.matmul, &mut part(total), &logits_grad.tr(), &chunk.hidden);
                }
            });
            stats.push(chunk_stats);
        }
        (collect(stats, targets), hidden_grad.to_kind(hidden.kind()))
    }

    fn chunk<'a>(
        &self,
        weight: &'a Tensor,
        hidden: &Tensor,
        targets: &Tensor,
        over: &Over<'a>,
        rows: Range<usize>,
    ) -> Chunk<'a> {
        let hidden = hidden.detach().narrow(0, rows.start as i64, rows.len() as i64);
        Chunk::new(self.matmul, weight, self.ops.matmul_input(&hidden, self.matmul), targets, over, rows)
    }

    /// Chunks of about the same size.
    fn rows(&self, targets: &Tensor) -> impl Iterator<Item = Range<usize>> + use<> {
        even_parts(targets.size()[0] as usize, chunk_rows(self.weight.size()[0]))
    }
}

/// The most rows of a chunk, for a vocabulary.
pub fn chunk_rows(vocab_size: i64) -> usize {
    (CHUNK_LOGITS / vocab_size).clamp(1, CHUNK_ROWS) as usize
}

fn collect(stats: Vec<TokenStats>, targets: &Tensor) -> TokenStats {
    let device = targets.device();
    if stats.is_empty() {
        let empty = |kind| Tensor::empty([0], (kind, device));
        return TokenStats { logprobs: empty(Kind::Float), entropy: empty(Kind::Float), correct: empty(Kind::Bool) };
    }
    let cat = |part: fn(&TokenStats) -> &Tensor| Tensor::cat(&stats.iter().map(part).collect::<Vec<_>>(), 0);
    TokenStats { logprobs: cat(|s| &s.logprobs), entropy: cat(|s| &s.entropy), correct: cat(|s| &s.correct) }
}

/// The leaf's gradient, allocated with zeros if missing. tch cannot assign one, but a backward pass through
/// an empty slice has libtorch allocate it.
pub(crate) fn ensure_grad(leaf: &Tensor) -> Tensor {
    if !leaf.grad().defined() {
        tch::with_grad(|| leaf.narrow(0, 0, 0).sum(Kind::Float).backward());
    }
    leaf.grad()
}

/// Hidden states → one scalar each.
#[derive(Debug)]
pub(crate) struct ScalarHead {
    pub(crate) weight: Tensor,
    pub(crate) compute: Kind,
    pub(crate) shift: f64,
}

impl ScalarHead {
    /// (N, D) → (N) f32, differentiable.
    pub(crate) fn forward(&self, hidden: &Tensor) -> Tensor {
        let weight = self.weight.to_kind(self.compute).to_kind(Kind::Float);
        let scalars = hidden.to_kind(Kind::Float).mv(&weight.view([-1]));
        if self.shift == 0.0 { scalars } else { scalars + self.shift }
    }
}

#[cfg(test)]
mod tests {
    use align_kernels::HOST;

    use super::*;

    /// Three blocks, the last of another size: what they give together is what autograd gives over whole
    /// rows.
    #[test]
    fn blocks_of_the_vocabulary_are_the_whole() {
        let _generator = align_kernels::seeded(3);
        let (rows, vocab, width) = (5, 2 * 8192 + 100, 16);
        let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, HOST));
        let weight = random([vocab, width]).set_requires_grad(true);
        let hidden = random([rows, width]).set_requires_grad(true);
        let targets = Tensor::from_slice(&[0i64, vocab - 1, 5461, 5462, 11_000]);
        let grads = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 0.25, 3.0]);
        let nucleus: Vec<Vec<i64>> =
            vec![vec![0, 9000], vec![vocab - 1], (5000..6000).collect(), vec![3, 5462, 12_000], (0..vocab).collect()];
        let head = LmHead::new(weight.shallow_clone(), &ModelOptions::reader(HOST));
        for nucleus in [None, Some(nucleus.as_slice())] {
            let mut logits = hidden.matmul(&weight.tr()) / 0.8;
            if let Some(nucleus) = nucleus {
                let mask = Tensor::full([rows, vocab], f64::NEG_INFINITY, (Kind::Float, HOST));
                for (row, kept) in nucleus.iter().enumerate() {
                    let _ = mask.get(row as i64).index_fill_(0, &Tensor::from_slice(kept), 0.0);
                }
                logits += mask;
            }
            let logprobs = logits.log_softmax(-1, Kind::Float).gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
            let loss = (&logprobs * &grads).sum(Kind::Float);
            let expected = Tensor::run_backward(&[loss], &[&hidden, &weight], false, false);
            drop(ensure_grad(&weight).zero_());
            let over = Over { temperature: 0.8, nucleus };
            let (stats, hidden_grad) = head.gradient(&hidden, &targets, &over, &mut |rows, _| {
                grads.narrow(0, rows.start as i64, rows.len() as i64)
            });
            let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
            let max_rel_diff = |one: &Tensor, other: &Tensor| largest(&(one - other)) / largest(other);
            assert!(max_rel_diff(&stats.logprobs, &logprobs.detach()) < 1e-5);
            assert!(max_rel_diff(&hidden_grad, &expected[0]) < 1e-5, "{:e}", max_rel_diff(&hidden_grad, &expected[0]));
            assert!(max_rel_diff(&weight.grad(), &expected[1]) < 1e-5);
        }
    }
}

//! The two heads on top of hidden states: the language model's, in chunks, and the scalar one.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::header::Files;
use super::product::{add_product, factor, product, product_into};
use super::{few_rows, softmax};
use crate::memory;

/// How many logits a chunk of the language-model head may hold.
const CHUNK_LOGITS: i64 = 1 << 25;
/// A chunk has at most this many rows.
const CHUNK_ROWS: i64 = 1024;
/// Stands for a token outside the nucleus: its probability is 0, and 0 times it is 0, which it would not be for -∞.
const OUTSIDE: f64 = -1e30;

/// Which distribution log-probabilities are taken over.
#[derive(Debug, Clone, Copy)]
pub struct Over<'a> {
    /// Logits are divided by it.
    pub temperature: f64,
    /// The token ids kept in each row; probabilities are renormalised over them. Targets must be among them.
    pub nucleus: Option<&'a [Vec<i64>]>,
}

impl Over<'_> {
    /// The whole softmax at temperature 1.
    pub fn full() -> Self {
        Self { temperature: 1.0, nucleus: None }
    }
}

/// What the head says of each target.
#[derive(Debug)]
pub struct TokenStats {
    /// log p(target) (N), fp32.
    pub logprobs: Tensor,
    /// The entropy of the distribution (N), fp32.
    pub entropy: Tensor,
    /// Whether the target has the highest probability (N), bool.
    pub correct: Tensor,
}

/// ∂L/∂logprob (n) f32, asked for with a range of rows and their log-probabilities (n).
pub type GradOf<'a> = dyn FnMut(Range<usize>, &Tensor) -> Tensor + 'a;

/// Hidden states → log-probabilities over the vocabulary, never with more than a chunk of logits in memory.
#[derive(Debug)]
pub struct LmHead {
    weight: Tensor,
    compute: Kind,
}

impl LmHead {
    pub(crate) fn new(weight: Tensor, compute: Kind) -> Self {
        Self { weight, compute }
    }

    /// Logits (N, V) in fp32, all at once and without a gradient: for few rows.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        if let Some(logits) = few_rows::linear(hidden, &self.weight, None) {
            return logits;
        }
        product(&hidden.detach(), &factor(&self.weight, hidden.kind()).tr()).to_kind(Kind::Float)
    }

    /// As [`LmHead::logits`], for a head in mapped files that is used once: of the files, some rows are held at a time.
    pub(crate) fn logits_once(&self, hidden: &Tensor, files: &Files) -> Tensor {
        const ROWS: i64 = 1 << 13;
        let _guard = tch::no_grad_guard();
        let count = self.weight.size()[0];
        let part = |start: i64| {
            let weight = self.weight.narrow(0, start, ROWS.min(count - start));
            let logits = Self { weight, compute: self.compute }.logits(hidden);
            files.let_go();
            logits
        };
        Tensor::cat(&(0..count).step_by(ROWS as usize).map(part).collect::<Vec<_>>(), 1)
    }

    /// Log-probabilities of `targets` (N) i64 after `hidden` (N, D), without a gradient.
    pub fn logprobs(&self, hidden: &Tensor, targets: &Tensor, over: &Over<'_>) -> TokenStats {
        let weight = factor(&self.weight, self.compute);
        let room = self.room(targets);
        let read = |rows| Chunk::new(&weight, hidden, targets, over, rows, &room).read(false).0;
        collect(self.rows(targets).map(read).collect(), targets)
    }

    /// As [`LmHead::logprobs`], and in the same pass the gradient of a loss that is a sum over tokens. Adds to the weight's
    /// gradient where it is trained, and returns the gradient with respect to `hidden` (N, D), in its dtype.
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
        let weight = factor(&self.weight, self.compute);
        let hidden = hidden.detach();
        let (mut stats, mut hidden_grads, room) = (Vec::new(), Vec::new(), self.room(targets));
        for rows in self.rows(targets) {
            let chunk = Chunk::new(&weight, &hidden, targets, over, rows.clone(), &room);
            let hidden = chunk.hidden.shallow_clone();
            let (chunk_stats, softmax) = chunk.read(true);
            let grad =
                grad_of(rows, &chunk_stats.logprobs).to_device(hidden.device()).to_kind(Kind::Float) / over.temperature;
            let logits_grad = softmax.gradient(&grad).to_kind(weight.kind());
            hidden_grads.push(product(&logits_grad, &weight).to_kind(hidden.kind()));
            if let Some(total) = &weight_grad {
                add_product(&mut total.shallow_clone(), &logits_grad.tr(), &hidden);
            }
            stats.push(chunk_stats);
        }
        let hidden_grad = if hidden_grads.is_empty() { hidden.zeros_like() } else { Tensor::cat(&hidden_grads, 0) };
        (collect(stats, targets), hidden_grad)
    }

    /// What all chunks of a pass use in turn, since fresh memory of this size costs as much as a pass over it: (n, V).
    fn room(&self, targets: &Tensor) -> Tensor {
        let rows = self.rows(targets).next().map_or(0, |rows| rows.len() as i64);
        Tensor::empty([rows, self.weight.size()[0]], (Kind::Float, self.weight.device()))
    }

    fn rows(&self, targets: &Tensor) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = chunk_rows(self.weight.size()[0]);
        let count = targets.size()[0] as usize;
        (0..count).step_by(size).map(move |start| start..count.min(start + size))
    }
}

/// The most rows of a chunk, for a vocabulary.
pub(crate) fn chunk_rows(vocab_size: i64) -> usize {
    (CHUNK_LOGITS / vocab_size).clamp(1, CHUNK_ROWS) as usize
}

/// One chunk of rows.
struct Chunk {
    /// (n, D)
    hidden: Tensor,
    /// (n) i64
    targets: Tensor,
    /// (n, V) fp32, divided by the temperature.
    logits: Tensor,
}

/// A chunk's distributions, for the way back.
enum Softmax {
    /// On the CPU: exp(logit − highest) (n, V), the targets (n), and what is known of each row.
    Host(Tensor, Vec<i64>, Vec<softmax::Row>),
    /// Elsewhere: probabilities (n, V), and the targets (n, 1).
    Device(Tensor, Tensor),
}

impl Chunk {
    fn new(
        weight: &Tensor,
        hidden: &Tensor,
        targets: &Tensor,
        over: &Over<'_>,
        rows: Range<usize>,
        room: &Tensor,
    ) -> Self {
        let _guard = tch::no_grad_guard();
        let narrow = |tensor: &Tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64);
        let (hidden, targets) = (narrow(&hidden.detach()), narrow(targets));
        let mut logits = room.narrow(0, 0, rows.len() as i64);
        product_into(&mut logits, &hidden, &weight.tr());
        if over.temperature != 1.0 {
            let _ = logits.g_div_scalar_(over.temperature);
        }
        if let Some(nucleus) = over.nucleus {
            logits = keep_nucleus(&logits, &nucleus[rows]);
        }
        Self { hidden, targets, logits }
    }

    /// What is said of each target; with `keep`, also what the way back needs.
    fn read(self, keep: bool) -> (TokenStats, Softmax) {
        let _guard = tch::no_grad_guard();
        let Self { targets, mut logits, .. } = self;
        if memory::takes(&logits) {
            let targets = Vec::<i64>::try_from(&targets).expect("one id a row");
            let rows = softmax::read(memory::elements_mut(&mut logits), &targets, keep);
            let of = |part: fn(&softmax::Row) -> f32| Tensor::from_slice(&rows.iter().map(part).collect::<Vec<_>>());
            let stats = TokenStats {
                logprobs: of(|row| row.logprob),
                entropy: of(|row| row.entropy),
                correct: Tensor::from_slice(&rows.iter().map(|row| row.correct).collect::<Vec<_>>()),
            };
            return (stats, Softmax::Host(logits, targets, rows));
        }
        let targets = targets.unsqueeze(-1);
        // logsumexp by way of the highest probability: far cheaper than libtorch's own over a large vocabulary.
        let highest = logits.amax([-1], true);
        let probabilities = logits.softmax(-1, Kind::Float);
        let log_normaliser = &highest - probabilities.amax([-1], true).log();
        let target_logits = logits.gather(-1, &targets, false);
        let expected = probabilities.unsqueeze(1).bmm(&logits.unsqueeze(-1)).squeeze_dim(-1);
        let stats = TokenStats {
            logprobs: (&target_logits - &log_normaliser).squeeze_dim(-1),
            entropy: (&log_normaliser - expected).squeeze_dim(-1),
            correct: target_logits.eq_tensor(&highest).squeeze_dim(-1),
        };
        (stats, Softmax::Device(probabilities, targets))
    }
}

impl Softmax {
    /// ∂L/∂logits (n, V), given g = ∂L/∂logprob (n): (onehot − softmax)·g.
    fn gradient(self, grad: &Tensor) -> Tensor {
        match self {
            Self::Host(mut kept, targets, rows) => {
                let grads = Vec::<f32>::try_from(grad).expect("one number a row");
                softmax::gradient(memory::elements_mut(&mut kept), &targets, &rows, &grads);
                kept
            }
            Self::Device(mut probabilities, targets) => {
                let _ = probabilities.g_mul_(&grad.neg().unsqueeze(-1));
                probabilities.scatter_add_(-1, &targets, &grad.unsqueeze(-1))
            }
        }
    }
}

/// Logits of kept tokens, everything else far below them.
fn keep_nucleus(logits: &Tensor, nucleus: &[Vec<i64>]) -> Tensor {
    let width = logits.size()[1];
    let places: Vec<i64> =
        nucleus.iter().enumerate().flat_map(|(row, kept)| kept.iter().map(move |id| row as i64 * width + id)).collect();
    let places = Tensor::from_slice(&places).to_device(logits.device());
    let kept = logits.view([-1]).index_select(0, &places);
    logits.full_like(OUTSIDE).view([-1]).index_copy_(0, &places, &kept).view([-1, width])
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

/// The leaf's gradient, made of zeros where there is none yet: tch cannot set one, but going backward through nothing does.
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

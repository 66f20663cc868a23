//! The two heads on top of hidden states: the language model's, in chunks of rows, and the scalar one.
//!
//! On the CPU a chunk goes over the vocabulary in blocks, whose logits, and later gradients, are in cache for all that is done with them.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::header::Files;
use align_kernels::few_rows;
use align_kernels::memory;
use align_kernels::product::{add_product, factor, product, product_into};
use align_kernels::softmax::{Block, OUTSIDE, Part, Row};

/// How many logits a chunk of the language-model head may hold.
const CHUNK_LOGITS: i64 = 1 << 27;
/// A chunk has at most this many rows: a block of it is small enough to be kept when it is freed.
const CHUNK_ROWS: i64 = 960;
/// A block has at most this many ids.
const BLOCK_IDS: usize = 8192;

/// Which distribution log-probabilities are taken over.
#[derive(Debug, Clone, Copy)]
pub struct Over<'a> {
    /// Logits are divided by it.
    pub temperature: f64,
    /// The token ids kept in each row, ascending; probabilities are renormalised over them. Targets must be among them.
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
        self.logits_by(self.compute, hidden)
    }

    /// The same while decoding: on the CPU, of weights as they are.
    pub(crate) fn next_logits(&self, hidden: &Tensor) -> Tensor {
        let on_cpu = self.weight.device() == Device::Cpu;
        self.logits_by(if on_cpu { self.weight.kind() } else { self.compute }, hidden)
    }

    fn logits_by(&self, factors: Kind, hidden: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        let few = (factors == Kind::Float).then(|| few_rows::linear(hidden, &self.weight, None)).flatten();
        few.unwrap_or_else(|| product(factors, &hidden.detach(), &self.weight.detach().tr()).to_kind(Kind::Float))
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
        let _guard = tch::no_grad_guard();
        let weight = factor(&self.weight, self.compute);
        let read = |rows| Chunk::new(self.compute, &weight, hidden, targets, over, rows).read(false).0;
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
        let (mut stats, hidden_grad) = (Vec::new(), Tensor::zeros(hidden.size(), (Kind::Float, hidden.device())));
        for rows in self.rows(targets) {
            let chunk = Chunk::new(self.compute, &weight, hidden, targets, over, rows.clone());
            let (chunk_stats, softmax) = chunk.read(true);
            let grad = grad_of(rows.clone(), &chunk_stats.logprobs).to_device(hidden.device()).to_kind(Kind::Float);
            let mut hidden_grad = hidden_grad.narrow(0, rows.start as i64, rows.len() as i64);
            softmax.gradients(&(grad / over.temperature), &mut |ids, logits_grad| {
                let logits_grad = factor(&logits_grad, self.compute);
                let part = |tensor: &Tensor| tensor.narrow(0, ids.start as i64, ids.len() as i64);
                add_product(self.compute, &mut hidden_grad, &logits_grad, &part(&weight));
                if let Some(total) = &weight_grad {
                    add_product(self.compute, &mut part(total), &logits_grad.tr(), &chunk.hidden);
                }
            });
            stats.push(chunk_stats);
        }
        (collect(stats, targets), hidden_grad.to_kind(hidden.kind()))
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

/// The most ids that are computed at once without a gradient: on the CPU, a block's.
pub fn block_ids(device: Device, vocab_size: i64) -> usize {
    if device == Device::Cpu { BLOCK_IDS.min(vocab_size as usize) } else { vocab_size as usize }
}

/// 0..count in as few parts of at most `most` as it takes, of about the same size.
fn even_parts(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = count.div_ceil(most);
    (0..parts).map(move |part| part * count / parts..(part + 1) * count / parts)
}

/// One chunk of rows.
struct Chunk<'a> {
    /// The dtype of factors.
    compute: Kind,
    /// (V, D)
    weight: &'a Tensor,
    /// (n, D)
    hidden: Tensor,
    /// (n) i64
    targets: Tensor,
    temperature: f64,
    /// Of each row.
    nucleus: Option<&'a [Vec<i64>]>,
}

/// A chunk's distributions, for the way back.
enum Softmax<'a> {
    /// On the CPU: of each block exp(logit − highest) (n, ids) and what is known of its rows; the targets (n), and what is known of them.
    Host {
        blocks: Vec<(Range<usize>, Tensor, Vec<Part>)>,
        targets: Vec<i64>,
        nucleus: Option<&'a [Vec<i64>]>,
        rows: Vec<Row>,
    },
    /// Elsewhere: probabilities (n, V), and the targets (n, 1).
    Device(Tensor, Tensor),
}

impl<'a> Chunk<'a> {
    /// `weight` is a [`factor`].
    fn new(
        compute: Kind,
        weight: &'a Tensor,
        hidden: &Tensor,
        targets: &Tensor,
        over: &Over<'a>,
        rows: Range<usize>,
    ) -> Self {
        let narrow = |tensor: &Tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64);
        let nucleus = over.nucleus.map(|nucleus| &nucleus[rows.clone()]);
        let hidden = factor(&narrow(&hidden.detach()), compute);
        Self { compute, weight, hidden, targets: narrow(targets), temperature: over.temperature, nucleus }
    }

    /// Logits (n, ids) in fp32, divided by the temperature.
    fn logits(&self, ids: Range<usize>) -> Tensor {
        let (n, count) = (self.hidden.size()[0], ids.len() as i64);
        let mut logits = Tensor::empty([n, count], (Kind::Float, self.weight.device()));
        product_into(self.compute, &mut logits, &self.hidden, &self.weight.narrow(0, ids.start as i64, count).tr());
        if self.temperature != 1.0 {
            let _ = logits.g_div_scalar_(self.temperature);
        }
        logits
    }

    /// What is said of each target; with `keep`, also what the way back needs.
    fn read(&self, keep: bool) -> (TokenStats, Softmax<'a>) {
        match self.weight.device() {
            Device::Cpu => self.read_blocks(keep),
            _ => self.read_whole(),
        }
    }

    fn read_blocks(&self, keep: bool) -> (TokenStats, Softmax<'a>) {
        let targets = Vec::<i64>::try_from(&self.targets).expect("one id a row");
        let mut blocks = Vec::new();
        for ids in even_parts(self.weight.size()[0] as usize, BLOCK_IDS) {
            let mut logits = self.logits(ids.clone());
            let block = Block { ids: ids.clone(), targets: &targets, nucleus: self.nucleus };
            let parts = block.read(memory::elements_mut(&mut logits), keep);
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
        (stats, Softmax::Host { blocks, targets, nucleus: self.nucleus, rows })
    }

    fn read_whole(&self) -> (TokenStats, Softmax<'a>) {
        let mut logits = self.logits(0..self.weight.size()[0] as usize);
        if let Some(nucleus) = self.nucleus {
            logits = keep_nucleus(&logits, nucleus);
        }
        let targets = self.targets.unsqueeze(-1);
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

impl Softmax<'_> {
    /// Shows ∂L/∂logits (n, ids) of each block, given g = ∂L/∂logprob (n): (onehot − softmax)·g.
    fn gradients(self, grad: &Tensor, take: &mut dyn FnMut(Range<usize>, Tensor)) {
        match self {
            Self::Host { blocks, targets, nucleus, rows } => {
                let grads = Vec::<f32>::try_from(grad).expect("one number a row");
                for (ids, mut kept, parts) in blocks {
                    let block = Block { ids: ids.clone(), targets: &targets, nucleus };
                    block.gradient(memory::elements_mut(&mut kept), &parts, &rows, &grads);
                    take(ids, kept);
                }
            }
            Self::Device(mut probabilities, targets) => {
                let _ = probabilities.g_mul_(&grad.neg().unsqueeze(-1));
                let ids = 0..probabilities.size()[1] as usize;
                take(ids, probabilities.scatter_add_(-1, &targets, &grad.unsqueeze(-1)));
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
    logits.full_like(f64::from(OUTSIDE)).view([-1]).index_copy_(0, &places, &kept).view([-1, width])
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Three blocks, the last of another size: what they give together is what autograd gives over whole rows.
    #[test]
    fn blocks_of_the_vocabulary_are_the_whole() {
        let _generator = align_kernels::seeded(3);
        let (rows, vocab, width) = (5, 2 * BLOCK_IDS as i64 + 100, 16);
        let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let weight = random([vocab, width]).set_requires_grad(true);
        let hidden = random([rows, width]).set_requires_grad(true);
        let targets = Tensor::from_slice(&[0i64, vocab - 1, 5461, 5462, 11_000]);
        let grads = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 0.25, 3.0]);
        let nucleus: Vec<Vec<i64>> =
            vec![vec![0, 9000], vec![vocab - 1], (5000..6000).collect(), vec![3, 5462, 12_000], (0..vocab).collect()];
        let head = LmHead::new(weight.shallow_clone(), Kind::Float);
        for nucleus in [None, Some(nucleus.as_slice())] {
            let mut logits = hidden.matmul(&weight.tr()) / 0.8;
            if let Some(nucleus) = nucleus {
                let mask = Tensor::full([rows, vocab], f64::NEG_INFINITY, (Kind::Float, Device::Cpu));
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
            let apart = |one: &Tensor, other: &Tensor| largest(&(one - other)) / largest(other);
            assert!(apart(&stats.logprobs, &logprobs.detach()) < 1e-5);
            assert!(apart(&hidden_grad, &expected[0]) < 1e-5, "{:e}", apart(&hidden_grad, &expected[0]));
            assert!(apart(&weight.grad(), &expected[1]) < 1e-5);
        }
    }

    #[test]
    fn parts_are_even_and_leave_nothing_out() {
        let parts = |count, most| even_parts(count, most).map(|part| (part.start, part.end)).collect::<Vec<_>>();
        assert_eq!(parts(0, 5), []);
        assert_eq!(parts(5, 5), [(0, 5)]);
        assert_eq!(parts(11, 5), [(0, 3), (3, 7), (7, 11)]);
    }
}

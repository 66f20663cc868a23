//! Log-probabilities of target tokens, a chunk of rows at a time: never more than a chunk of logits is in
//! memory.

use std::ops::Range;

use tch::{Kind, Tensor};

use crate::cpu::slices::as_f32_slice_mut;
use crate::cpu::softmax::{Block, Part, Row};
use crate::ops::Ops;

/// A finite stand-in for −∞: 0·(−∞) is NaN.
pub(crate) const MASKED_LOGIT: f32 = -1e30;

/// Which distribution log-probabilities are taken over.
#[derive(Debug, Clone, Copy)]
pub struct Over<'a> {
    /// Logits are divided by it.
    pub temperature: f64,
    /// The token ids kept in each row, ascending; probabilities are renormalised over them. Targets must be
    /// among them.
    pub nucleus: Option<&'a [Vec<i64>]>,
}

impl Over<'_> {
    /// The whole softmax at temperature 1.
    pub fn full() -> Self {
        Self { temperature: 1.0, nucleus: None }
    }
}

/// What the head computes of each target.
#[derive(Debug)]
pub struct TokenStats {
    /// log p(target) (N), fp32.
    pub logprobs: Tensor,
    /// The entropy of the distribution (N), fp32.
    pub entropy: Tensor,
    /// Whether the target has the highest probability (N), bool.
    pub correct: Tensor,
}

/// 0..count in as few parts of at most `most` as it takes, of about the same size.
pub fn even_parts(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = count.div_ceil(most);
    (0..parts).map(move |part| part * count / parts..(part + 1) * count / parts)
}

/// One chunk of rows of the language-model head.
pub struct Chunk<'a> {
    ops: &'static dyn Ops,
    /// What matmul inputs are rounded to.
    dtype: Kind,
    /// (V, D)
    weight: &'a Tensor,
    /// (n, D)
    pub hidden: Tensor,
    /// (n) i64
    pub targets: Tensor,
    temperature: f64,
    /// Of each row.
    pub nucleus: Option<&'a [Vec<i64>]>,
}

impl<'a> Chunk<'a> {
    /// The rows of `hidden` (N, D) and `targets` (N) in a range; `weight` is an [`Ops::matmul_input`].
    pub fn new(
        ops: &'static dyn Ops,
        dtype: Kind,
        weight: &'a Tensor,
        hidden: &Tensor,
        targets: &Tensor,
        over: &Over<'a>,
        rows: Range<usize>,
    ) -> Self {
        let narrow = |tensor: &Tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64);
        let nucleus = over.nucleus.map(|nucleus| &nucleus[rows.clone()]);
        let hidden = ops.matmul_input(&narrow(&hidden.detach()), dtype);
        Self { ops, dtype, weight, hidden, targets: narrow(targets), temperature: over.temperature, nucleus }
    }

    /// The size of the vocabulary, V.
    pub fn vocab(&self) -> usize {
        self.weight.size()[0] as usize
    }

    /// Logits (n, ids) in fp32, divided by the temperature.
    pub fn logits(&self, ids: Range<usize>) -> Tensor {
        let (n, count) = (self.hidden.size()[0], ids.len() as i64);
        let mut logits = Tensor::empty([n, count], (Kind::Float, self.weight.device()));
        let weight = self.weight.narrow(0, ids.start as i64, count);
        self.ops.matmul_out(self.dtype, &mut logits, &self.hidden, &weight.tr());
        if self.temperature != 1.0 {
            let _ = logits.g_div_scalar_(self.temperature);
        }
        logits
    }
}

/// A chunk's distributions, for the backward pass.
pub enum Softmax<'a> {
    /// By blocks of ids: exp(logit − highest) (n, ids) and what is known of its rows; the targets (n), and
    /// what is known of them.
    Blocks {
        /// Each block.
        blocks: Vec<(Range<usize>, Tensor, Vec<Part>)>,
        /// Ids (n).
        targets: Vec<i64>,
        /// Of each row.
        nucleus: Option<&'a [Vec<i64>]>,
        /// Of each row, over all blocks.
        rows: Vec<Row>,
    },
    /// Probabilities (n, V), and the targets (n, 1).
    Whole {
        /// (n, V)
        probabilities: Tensor,
        /// (n, 1)
        targets: Tensor,
    },
}

impl Softmax<'_> {
    /// Passes ∂L/∂logits (n, ids) of each block to `take`, given g = ∂L/∂logprob (n): (onehot − softmax)·g.
    pub fn gradients(self, grad: &Tensor, take: &mut dyn FnMut(Range<usize>, Tensor)) {
        match self {
            Self::Blocks { blocks, targets, nucleus, rows } => {
                let grads = Vec::<f32>::try_from(grad).expect("one number a row");
                for (ids, mut kept, parts) in blocks {
                    let block = Block { ids: ids.clone(), targets: &targets, nucleus };
                    block.gradient(as_f32_slice_mut(&mut kept), &parts, &rows, &grads);
                    take(ids, kept);
                }
            }
            Self::Whole { mut probabilities, targets } => {
                let _ = probabilities.g_mul_(&grad.neg().unsqueeze(-1));
                let ids = 0..probabilities.size()[1] as usize;
                take(ids, probabilities.scatter_add_(-1, &targets, &grad.unsqueeze(-1)));
            }
        }
    }
}

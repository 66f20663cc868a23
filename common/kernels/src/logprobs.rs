//! Log-probabilities of target tokens, a chunk of rows at a time: never more than a chunk of logits is in
//! memory.

use std::ops::Range;

use tch::{Kind, Tensor};

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

/// What the head computes for each target.
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

/// out = a·b, of inputs rounded to a dtype.
type MatmulOut = fn(Kind, &mut Tensor, &Tensor, &Tensor);

/// One chunk of rows of the language-model head.
pub struct Chunk<'a> {
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
    /// For a range of rows: their hidden states (n, D) and the weight, each an `Ops::matmul_input`, and the
    /// targets (N) of all rows.
    pub fn new(
        dtype: Kind,
        weight: &'a Tensor,
        hidden: Tensor,
        targets: &Tensor,
        over: &Over<'a>,
        rows: Range<usize>,
    ) -> Self {
        let targets = targets.narrow(0, rows.start as i64, rows.len() as i64);
        let nucleus = over.nucleus.map(|nucleus| &nucleus[rows]);
        Self { dtype, weight, hidden, targets, temperature: over.temperature, nucleus }
    }

    /// The size of the vocabulary, V.
    pub fn vocab(&self) -> usize {
        self.weight.size()[0] as usize
    }

    /// Logits (n, ids) in fp32, divided by the temperature, by a backend's [`crate::Ops::matmul_out`].
    pub(crate) fn logits(&self, ids: Range<usize>, matmul_out: MatmulOut) -> Tensor {
        let (n, count) = (self.hidden.size()[0], ids.len() as i64);
        let mut logits = Tensor::empty([n, count], (Kind::Float, self.weight.device()));
        let weight = self.weight.narrow(0, ids.start as i64, count);
        matmul_out(self.dtype, &mut logits, &self.hidden, &weight.tr());
        if self.temperature != 1.0 {
            let _ = logits.g_div_scalar_(self.temperature);
        }
        logits
    }
}

/// A chunk's distributions, for the backward pass.
pub trait Softmax {
    /// Passes ∂L/∂logits (n, ids) of each block to `take`, given g = ∂L/∂logprob / temperature (n):
    /// (onehot − softmax)·g.
    fn gradients(self: Box<Self>, grad: &Tensor, take: &mut dyn FnMut(Range<usize>, Tensor));
}

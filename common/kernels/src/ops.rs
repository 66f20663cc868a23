//! The single interface to a device: every operation of a model, a loss or an optimizer.

use align_core::error::Result;
use tch::{Kind, Tensor};

use crate::adamw::{AdamWSlot, AdamWStep};
use crate::attention::{Heads, Plan};
use crate::kv_cache::{DecodeStep, KvCache};
use crate::logprobs::{Chunk, Softmax, TokenStats};
use crate::norm::NormGrads;
use crate::precision::Precision;
use crate::reference;
use crate::rotary::Rotation;
use crate::sampling::{Sample, Sampling};

/// What a model needs of a device. The defaults are the reference, through libtorch, which computes
/// everywhere; a backend replaces what it computes better, and calls the reference for a case that it does
/// not cover. No caller checks which backend it has.
///
/// Every method works without gradients enabled, because backward passes are methods of their own. The
/// exception is the reference's attention, which uses libtorch's graph if gradients are enabled.
pub trait Ops: Sync {
    /// The backend's name, as ALIGN_BACKEND names it.
    fn name(&self) -> &'static str;

    /// The dtypes of a model whose matmul inputs are rounded to `matmul`.
    fn precision(&self, matmul: Kind) -> Precision {
        Precision { matmul, activations: matmul }
    }

    /// The same while decoding, where weights of this dtype are read once a step.
    fn decode_precision(&self, matmul: Kind, _weights: Kind) -> Precision {
        self.precision(matmul)
    }

    /// An input of several matmuls: rounded once, or left to be rounded as it is read.
    fn matmul_input(&self, tensor: &Tensor, dtype: Kind) -> Tensor {
        tensor.detach().to_kind(dtype)
    }

    /// a·b for (m, k) and (k, n), of inputs rounded to `dtype`; in the dtype of `a`.
    fn matmul(&self, dtype: Kind, a: &Tensor, b: &Tensor) -> Tensor {
        reference::matmul(dtype, a, b)
    }

    /// out = a·b, of inputs rounded to `dtype`.
    fn matmul_out(&self, dtype: Kind, out: &mut Tensor, a: &Tensor, b: &Tensor) {
        reference::matmul_out(dtype, out, a, b);
    }

    /// total += a·b, of inputs rounded to `dtype`.
    fn addmm(&self, dtype: Kind, total: &mut Tensor, a: &Tensor, b: &Tensor) {
        reference::addmm(dtype, total, a, b);
    }

    /// x·Wᵀ + b for (n, D), (V, D) and (V), in the dtype of `x`.
    fn linear(&self, precision: Precision, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let mut output = self.matmul(precision.matmul, x, &weight.tr());
        if let Some(bias) = bias {
            let _ = output.g_add_(&bias.to_kind(precision.matmul).to_kind(precision.activations));
        }
        output
    }

    /// The same for few rows, as decoding and scoring have them. Where the backend can, a row's result does
    /// not depend on the rows beside it.
    fn linear_few_rows(&self, precision: Precision, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        self.linear(precision, x, weight, bias)
    }

    /// x · weight / √(mean x² + ε) over the last dimension of (…, D), computed in fp32; the weight (D) is
    /// fp32.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64, activations: Kind) -> Tensor {
        reference::rms_norm(x, weight, eps, activations)
    }

    /// Given ∂L/∂output: adds ∂L/∂x to `grads.input`, fp32 of x's shape, and ∂L/∂weight to `grads.weight`
    /// (D).
    fn rms_norm_backward(&self, x: &Tensor, weight: &Tensor, eps: f64, grad: &Tensor, grads: NormGrads<'_>) {
        reference::rms_norm_backward(x, weight, eps, grad, grads);
    }

    /// silu(gate) · up, all (T, I).
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Tensor {
        gate.silu() * up
    }

    /// Given ∂L/∂output: ∂L/∂gate and ∂L/∂up. May reuse the memory of `gate` and `up`.
    fn swiglu_backward(&self, gate: Tensor, up: Tensor, grad: &Tensor) -> (Tensor, Tensor) {
        reference::swiglu_backward(&gate, &up, grad)
    }

    /// Rotates heads (T, heads, E). May reuse their memory.
    fn rotate(&self, heads: Tensor, rotation: &Rotation) -> Tensor {
        reference::rotate(&heads, rotation)
    }

    /// ∂L/∂heads, given that of the rotated ones. May reuse its memory.
    fn rotate_backward(&self, grad: Tensor, rotation: &Rotation) -> Tensor {
        reference::rotate_backward(&grad, rotation)
    }

    /// Attention of one layer over the whole batch → (T, H·E).
    fn attention(&self, plan: &Plan, heads: &Heads, window: Option<i64>, dropout: f64) -> Tensor {
        reference::attention(plan, heads, window, dropout)
    }

    /// The gradients of heads, given what [`Ops::attention`] gave of them (T, H·E) and the gradient of that.
    fn attention_backward(
        &self,
        _plan: &Plan,
        heads: &Heads,
        _window: Option<i64>,
        attended: &Tensor,
        grad: &Tensor,
    ) -> Heads {
        reference::attention_backward(heads, attended, grad)
    }

    /// Whether element-wise operations write into their inputs, as [`Ops::swiglu_backward`] into gate and up:
    /// the reference allocates results, and temporaries of their size.
    fn writes_in_place(&self) -> bool {
        false
    }

    /// Whether [`Ops::attention`], without dropout, reads keys and values where they are: the reference
    /// copies those of several calls together.
    fn attention_reads_in_place(&self, _dtype: Kind) -> bool {
        false
    }

    /// Attention of one layer for one new token a row, whose keys and values it appends: (R, H, E) and (R, K,
    /// E) → (R, H·E).
    fn decode_attention(&self, cache: &mut KvCache, layer: usize, heads: &Heads, step: &DecodeStep) -> Tensor {
        reference::decode_attention(cache, layer, heads, step)
    }

    /// Whether [`Ops::decode_attention`] looks at a mask, which is then made once a step.
    fn decode_attention_is_masked(&self) -> bool {
        true
    }

    /// The ids whose logits are in memory at once when no gradient is asked for.
    fn logits_block(&self, vocab: usize) -> usize {
        vocab
    }

    /// Log-probabilities of a chunk of targets, without what their gradient needs.
    fn logprobs(&self, chunk: &Chunk<'_>) -> TokenStats {
        reference::logprobs(chunk).0
    }

    /// Log-probabilities of a chunk of targets, and what their gradient needs.
    fn logprobs_train<'a>(&self, chunk: &Chunk<'a>) -> (TokenStats, Box<dyn Softmax + 'a>) {
        let (stats, softmax) = reference::logprobs(chunk);
        (stats, Box::new(softmax))
    }

    /// Draws a token from each row of logits (B, V); `uniform(row)` is in [0, 1). May reuse their memory.
    ///
    /// # Errors
    /// [`align_core::error::Error::Failed`] when logits are non-finite.
    fn sample(&self, logits: Tensor, sampling: &Sampling, uniform: &dyn Fn(usize) -> f64) -> Result<Vec<Sample>> {
        reference::sample(&logits, sampling, uniform)
    }

    /// One step of AdamW; gradients are zero after it.
    fn adamw_step(&self, slots: &mut [AdamWSlot], step: &AdamWStep) {
        reference::adamw_step(slots, step);
    }

    /// Finds which blocks of a slot's moments may be other than zero, after they were read from a checkpoint.
    fn find_touched(&self, slot: &mut AdamWSlot) {
        slot.touched.fill(true);
    }

    /// The 2-norm of all gradients together, summed in f64.
    fn grad_norm(&self, grads: &[Tensor]) -> f64 {
        reference::grad_norm(grads)
    }

    /// Bytes that a matmul allocates to round an input of so many elements, held in a dtype, to another.
    fn rounded_input_bytes(&self, elements: u64, held: Kind, dtype: Kind) -> u64 {
        if dtype == Kind::Float || held == dtype { 0 } else { elements * dtype.elt_size_in_bytes() as u64 }
    }

    /// Whether inputs are rounded for each matmul and block, rather than a whole weight for all of them.
    fn rounds_by_block(&self) -> bool {
        false
    }
}

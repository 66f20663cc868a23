//! The CPU's own kernels: fp32 in memory, one pass where libtorch takes several, and matmuls where libtorch's
//! are slow.

use align_core::error::Result;
use tch::{Kind, Tensor};

use crate::adamw::{AdamWSlot, AdamWStep};
use crate::attention::{Heads, Plan};
use crate::kv_cache::{DecodeStep, KvCache};
use crate::logprobs::{Chunk, Softmax, TokenStats};
use crate::norm::NormGrads;
use crate::ops::Ops;
use crate::precision::Precision;
use crate::reference;
use crate::rotary::Rotation;
use crate::sampling::{Sample, Sampling};

mod adamw;
mod attention;
mod decode;
mod elementwise;
mod gemm;
mod logprobs;
mod matmul;
mod sampling;
mod simd;
mod skinny;
pub(crate) mod slices;
pub(crate) mod softmax;
pub(crate) mod threads;

/// The backend of the CPU.
#[derive(Debug)]
pub(crate) struct Cpu;

impl Ops for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    /// Inputs of matmuls are rounded as they are read: all else is fp32.
    fn precision(&self, matmul: Kind) -> Precision {
        Precision { matmul, activations: Kind::Float }
    }

    /// The weights as they are: decoding is bound by memory.
    fn decode_precision(&self, _matmul: Kind, weights: Kind) -> Precision {
        self.precision(weights)
    }

    fn matmul_input(&self, tensor: &Tensor, _by: Kind) -> Tensor {
        tensor.detach()
    }

    fn matmul(&self, dtype: Kind, a: &Tensor, b: &Tensor) -> Tensor {
        matmul::matmul(dtype, a, b)
    }

    fn matmul_out(&self, dtype: Kind, out: &mut Tensor, a: &Tensor, b: &Tensor) {
        matmul::matmul_out(dtype, out, a, b);
    }

    fn addmm(&self, dtype: Kind, total: &mut Tensor, a: &Tensor, b: &Tensor) {
        matmul::addmm(dtype, total, a, b);
    }

    fn linear_few_rows(&self, precision: Precision, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let exact = precision.matmul == Kind::Float;
        let few = exact.then(|| skinny::linear(x, weight, bias)).flatten();
        few.unwrap_or_else(|| self.linear(precision, x, weight, bias))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64, activations: Kind) -> Tensor {
        let ours = (activations == Kind::Float).then(|| elementwise::rms_norm(x, weight, eps)).flatten();
        ours.unwrap_or_else(|| reference::rms_norm(x, weight, eps, activations))
    }

    fn rms_norm_backward(&self, x: &Tensor, weight: &Tensor, eps: f64, grad: &Tensor, grads: NormGrads<'_>) {
        elementwise::rms_norm_backward(x, weight, eps, grad, grads);
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Tensor {
        elementwise::swiglu(gate, up)
    }

    fn swiglu_backward(&self, gate: Tensor, up: Tensor, grad: &Tensor) -> (Tensor, Tensor) {
        elementwise::swiglu_backward(gate, up, grad)
    }

    fn writes_in_place(&self) -> bool {
        true
    }

    fn rotate(&self, mut heads: Tensor, rotation: &Rotation) -> Tensor {
        match elementwise::rotate(&mut heads, &rotation.cos, &rotation.sin, elementwise::Turn::Forward) {
            true => heads,
            false => reference::rotate(&heads, rotation),
        }
    }

    fn rotate_backward(&self, mut grad: Tensor, rotation: &Rotation) -> Tensor {
        match elementwise::rotate(&mut grad, &rotation.cos, &rotation.sin, elementwise::Turn::Back) {
            true => grad,
            false => reference::rotate_backward(&grad, rotation),
        }
    }

    /// Without a graph where it is computed here.
    fn attention(&self, plan: &Plan, heads: &Heads, window: Option<i64>, dropout: f64) -> Tensor {
        match attention::Attention::of(plan, heads, window).filter(|_| dropout == 0.0) {
            Some(attention) => attention.forward(heads).flatten(1, -1),
            None => reference::attention(plan, heads, window, dropout),
        }
    }

    fn attention_backward(
        &self,
        plan: &Plan,
        heads: &Heads,
        window: Option<i64>,
        attended: &Tensor,
        grad: &Tensor,
    ) -> Heads {
        match attention::Attention::of(plan, heads, window).filter(|_| !attended.requires_grad()) {
            Some(attention) => attention.backward(heads, attended, grad),
            None => reference::attention_backward(heads, attended, grad),
        }
    }

    fn attention_reads_in_place(&self, dtype: Kind) -> bool {
        matmul::gemm_for(dtype).is_some()
    }

    fn decode_attention(&self, cache: &mut KvCache, layer: usize, heads: &Heads, _step: &DecodeStep) -> Tensor {
        decode::attention(cache, layer, heads)
    }

    fn decode_attention_is_masked(&self) -> bool {
        false
    }

    fn logits_block(&self, vocab: usize) -> usize {
        logprobs::BLOCK_IDS.min(vocab)
    }

    fn logprobs(&self, chunk: &Chunk<'_>) -> TokenStats {
        logprobs::logprobs(chunk)
    }

    fn logprobs_train<'a>(&self, chunk: &Chunk<'a>) -> (TokenStats, Box<dyn Softmax + 'a>) {
        let (stats, softmax) = logprobs::logprobs_train(chunk);
        (stats, Box::new(softmax))
    }

    fn sample(&self, logits: Tensor, sampling: &Sampling, uniform: &dyn Fn(usize) -> f64) -> Result<Vec<Sample>> {
        match sampling.temperature == 0.0 {
            true => reference::sample(&logits, sampling, uniform),
            false => sampling::sample(logits, sampling, uniform),
        }
    }

    fn adamw_step(&self, slots: &mut [AdamWSlot], step: &AdamWStep) {
        adamw::step(slots, step);
    }

    fn find_touched(&self, slot: &mut AdamWSlot) {
        adamw::find_touched(slot);
    }

    fn grad_norm(&self, grads: &[Tensor]) -> f64 {
        adamw::grad_norm(grads)
    }

    fn rounded_input_bytes(&self, elements: u64, held: Kind, dtype: Kind) -> u64 {
        matmul::rounded_input_bytes(elements, held, dtype)
    }

    fn rounds_by_block(&self) -> bool {
        true
    }
}

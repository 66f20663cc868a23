//! What a layer does element by element, forward and backward: RMSNorm, SwiGLU, rotation. In fp32, in one
//! pass over memory, and in place where possible.

use tch::Tensor;

use super::simd::{exp, multiply_add, simd_dispatch};
use super::slices::{as_f32_slice, as_f32_slice_mut, is_cpu_f32_contiguous};
use super::threads;
use crate::norm::NormGrads;
use crate::reference;

/// Rows that a thread takes at once, and whose share of a weight's gradient is summed before it is added to
/// that of others.
const ROWS: usize = 64;

/// As [`crate::ops::Ops::rms_norm`] to fp32; nothing where an input is not contiguous fp32.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Option<Tensor> {
    if !is_cpu_f32_contiguous(x) || !is_cpu_f32_contiguous(weight) {
        return None;
    }
    let width = weight.numel();
    let mut output = x.empty_like();
    let (weight, eps) = (as_f32_slice(weight), eps as f32);
    let rows = as_f32_slice(x).chunks(ROWS * width).zip(as_f32_slice_mut(&mut output).chunks_mut(ROWS * width));
    threads::parallel_for(rows.collect(), x.numel(), |(x, output)| norm_rows(x, weight, eps, output));
    Some(output)
}

pub(super) fn rms_norm_backward(x: &Tensor, weight: &Tensor, eps: f64, grad: &Tensor, grads: NormGrads<'_>) {
    if ![x, grad, grads.input, weight].into_iter().all(is_cpu_f32_contiguous) {
        return reference::rms_norm_backward(x, weight, eps, grad, grads);
    }
    let width = weight.numel();
    let (weight, eps, count) = (as_f32_slice(weight), eps as f32, x.numel());
    let mut sums = vec![0.0; count.div_ceil(ROWS * width) * width];
    let rows = as_f32_slice(x).chunks(ROWS * width).zip(as_f32_slice(grad).chunks(ROWS * width));
    let to = as_f32_slice_mut(grads.input).chunks_mut(ROWS * width).zip(sums.chunks_mut(width));
    threads::parallel_for(rows.zip(to).collect(), count, |((x, grad), (input_grad, sums))| {
        norm_rows_backward(x, weight, eps, grad, input_grad, sums);
    });
    let total = as_f32_slice_mut(grads.weight);
    for sums in sums.chunks(width) {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
}

simd_dispatch! {
    fn norm_rows(input: &[f32], weight: &[f32], eps: f32, output: &mut [f32]) = norm_rows_by;
}

#[inline(always)]
fn norm_rows_by<const FMA: bool>(input: &[f32], weight: &[f32], eps: f32, output: &mut [f32]) {
    let width = weight.len();
    for (input, output) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let scale = scale_of::<FMA>(input, eps);
        for ((output, input), weight) in output.iter_mut().zip(input).zip(weight) {
            *output = input * scale * weight;
        }
    }
}

simd_dispatch! {
    fn norm_rows_backward(
        input: &[f32], weight: &[f32], eps: f32, grad: &[f32], input_grad: &mut [f32], weight_grad: &mut [f32],
    ) = norm_rows_backward_by;
}

#[inline(always)]
fn norm_rows_backward_by<const FMA: bool>(
    input: &[f32],
    weight: &[f32],
    eps: f32,
    grad: &[f32],
    input_grad: &mut [f32],
    weight_grad: &mut [f32],
) {
    let width = weight.len();
    let rows = input.chunks_exact(width).zip(grad.chunks_exact(width)).zip(input_grad.chunks_exact_mut(width));
    for ((input, grad), input_grad) in rows {
        let scale = scale_of::<FMA>(input, eps);
        let mut sums = [0.0f32; LANES];
        let ((inputs, rest), (grads, grad_rest)) = (input.as_chunks::<LANES>(), grad.as_chunks::<LANES>());
        let (weights, weight_rest) = weight.as_chunks::<LANES>();
        for ((input, grad), weight) in inputs.iter().zip(grads).zip(weights) {
            for at in 0..LANES {
                sums[at] = multiply_add::<FMA>(input[at] * weight[at], grad[at], sums[at]);
            }
        }
        for ((input, grad), weight) in rest.iter().zip(grad_rest).zip(weight_rest) {
            sums[0] = multiply_add::<FMA>(input * weight, *grad, sums[0]);
        }
        let row_dot = sums.iter().sum::<f32>() * scale / width as f32;
        let entries = input.iter().zip(grad).zip(weight).zip(input_grad).zip(&mut *weight_grad);
        for ((((input, grad), weight), input_grad), weight_grad) in entries {
            let scaled = input * scale;
            *weight_grad = multiply_add::<FMA>(*grad, scaled, *weight_grad);
            *input_grad += scale * (grad * weight - scaled * row_dot);
        }
    }
}

/// Sums that run beside each other, so that additions need not wait.
const LANES: usize = 16;

/// 1/√(mean x² + ε) of a row.
#[inline(always)]
fn scale_of<const FMA: bool>(row: &[f32], eps: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for lanes in whole {
        for at in 0..LANES {
            sums[at] = multiply_add::<FMA>(lanes[at], lanes[at], sums[at]);
        }
    }
    rest.iter().for_each(|x| sums[0] = multiply_add::<FMA>(*x, *x, sums[0]));
    1.0 / (sums.iter().sum::<f32>() / row.len() as f32 + eps).sqrt()
}

/// silu(gate) · up, all (T, I).
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    if is_cpu_f32_contiguous(gate) && is_cpu_f32_contiguous(up) {
        let mut output = gate.empty_like();
        let parts = as_f32_slice(gate).chunks(CHUNK).zip(as_f32_slice(up).chunks(CHUNK));
        let parts = parts.zip(as_f32_slice_mut(&mut output).chunks_mut(CHUNK)).collect();
        threads::parallel_for(parts, gate.numel(), |((gate, up), output)| gate_chunk(gate, up, output));
        return output;
    }
    gate.silu() * up
}

/// Given ∂L/∂output: ∂L/∂gate and ∂L/∂up, in their place.
pub(super) fn swiglu_backward(mut gate: Tensor, mut up: Tensor, grad: &Tensor) -> (Tensor, Tensor) {
    if is_cpu_f32_contiguous(&gate) && is_cpu_f32_contiguous(&up) && is_cpu_f32_contiguous(grad) {
        let count = gate.numel();
        let parts = as_f32_slice_mut(&mut gate).chunks_mut(CHUNK).zip(as_f32_slice_mut(&mut up).chunks_mut(CHUNK));
        let parts = parts.zip(as_f32_slice(grad).chunks(CHUNK)).collect();
        threads::parallel_for(parts, count, |((gate, up), grad)| gate_chunk_backward(gate, up, grad));
        return (gate, up);
    }
    reference::swiglu_backward(&gate, &up, grad)
}

/// Elements that a thread takes at once.
const CHUNK: usize = 1 << 14;

simd_dispatch! {
    fn gate_chunk(gate: &[f32], up: &[f32], output: &mut [f32]) = gate_chunk_by;
}

#[inline(always)]
fn gate_chunk_by<const FMA: bool>(gate: &[f32], up: &[f32], output: &mut [f32]) {
    for ((output, gate), up) in output.iter_mut().zip(gate).zip(up) {
        *output = gate * sigmoid::<FMA>(*gate) * up;
    }
}

simd_dispatch! {
    fn gate_chunk_backward(gate: &mut [f32], up: &mut [f32], grad: &[f32]) = gate_chunk_backward_by;
}

/// silu' = σ·(1 + x·(1 − σ)).
#[inline(always)]
fn gate_chunk_backward_by<const FMA: bool>(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    for ((gate, up), grad) in gate.iter_mut().zip(up).zip(grad) {
        let x = *gate;
        let sigmoid = sigmoid::<FMA>(x);
        *gate = grad * *up * sigmoid * (1.0 + x * (1.0 - sigmoid));
        *up = grad * x * sigmoid;
    }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// Whether heads are rotated, or a gradient of rotated heads is brought back, by the transposed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Forward,
    Back,
}

/// Rotates pairs of heads (T, heads, E) in place: (a, b) → (a·cos₁ + b·sin₁, b·cos₂ + a·sin₂) with the halves
/// of `cos` and `sin` (T, 1, E). `false` where an input is not contiguous fp32.
pub(super) fn rotate(heads: &mut Tensor, cos: &Tensor, sin: &Tensor, turn: Turn) -> bool {
    if ![heads as &Tensor, cos, sin].into_iter().all(is_cpu_f32_contiguous) {
        return false;
    }
    let (tokens, _, width) = heads.size3().expect("heads are (T, heads, E)");
    let (count, width) = (heads.numel(), width as usize);
    let token = count / (tokens.max(1) as usize);
    let all = as_f32_slice_mut(heads).chunks_mut(ROWS * token.max(1));
    let turns = as_f32_slice(cos).chunks(ROWS * width).zip(as_f32_slice(sin).chunks(ROWS * width));
    threads::parallel_for(all.zip(turns).collect(), count, |(heads, (cos, sin))| {
        let tokens = heads.chunks_exact_mut(token).zip(cos.chunks_exact(width).zip(sin.chunks_exact(width)));
        for (heads, (cos, sin)) in tokens {
            heads.chunks_exact_mut(width).for_each(|head| rotate_head(head, cos, sin, turn));
        }
    });
    true
}

fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], turn: Turn) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    let ((cos1, cos2), (sin1, sin2)) = (cos.split_at(half), sin.split_at(half));
    let (sin1, sin2) = if turn == Turn::Back { (sin2, sin1) } else { (sin1, sin2) };
    for at in 0..half {
        let (a, b) = (first[at], second[at]);
        first[at] = a * cos1[at] + b * sin1[at];
        second[at] = b * cos2[at] + a * sin2[at];
    }
}

//! What a layer does element by element, forward and back: RMSNorm, SwiGLU, rotation. On the CPU in fp32 in one pass over memory and
//! in place where possible; elsewhere by libtorch's operations.

use tch::{Kind, Tensor};

use crate::arithmetic::{by_processor, exp, multiply_add};
use crate::memory::{elements, elements_mut, takes};
use crate::parallel;

/// Rows that a thread takes at once, and whose share of a weight's gradient is summed before it is added to that of others.
const ROWS: usize = 64;

/// A norm's scale and its ε.
pub struct RmsNorm {
    /// (D), fp32.
    pub weight: Tensor,
    /// ε, added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// x · weight / √(mean x² + ε) over the last dimension, of (…, D), in fp32, then in the compute dtype.
    pub fn forward(&self, input: &Tensor, compute: Kind) -> Tensor {
        let width = self.weight.numel();
        if compute == Kind::Float && takes(input) && takes(&self.weight) {
            let mut output = input.empty_like();
            let (weight, eps) = (elements(&self.weight), self.eps as f32);
            let rows = elements(input).chunks(ROWS * width).zip(elements_mut(&mut output).chunks_mut(ROWS * width));
            parallel::each(rows.collect(), input.numel(), |(input, output)| norm_rows(input, weight, eps, output));
            return output;
        }
        input.to_kind(Kind::Float).rms_norm([width as i64], Some(&self.weight), self.eps).to_kind(compute)
    }

    /// Given ∂L/∂output: adds ∂L/∂input to `input_grad`, fp32 of the input's shape, and ∂L/∂weight to `weight_grad` (D).
    pub fn backward(&self, input: &Tensor, grad: &Tensor, input_grad: &mut Tensor, weight_grad: &mut Tensor) {
        let width = self.weight.numel();
        if [input, grad, input_grad, &self.weight].into_iter().all(takes) {
            let (weight, eps) = (elements(&self.weight), self.eps as f32);
            let count = input.numel();
            let mut sums = vec![0.0; count.div_ceil(ROWS * width) * width];
            let rows = elements(input).chunks(ROWS * width).zip(elements(grad).chunks(ROWS * width));
            let to = elements_mut(input_grad).chunks_mut(ROWS * width).zip(sums.chunks_mut(width));
            parallel::each(rows.zip(to).collect(), count, |((input, grad), (input_grad, sums))| {
                norm_rows_back(input, weight, eps, grad, input_grad, sums);
            });
            let total = elements_mut(weight_grad);
            for sums in sums.chunks(width) {
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
            return;
        }
        let (input, grad) = (input.to_kind(Kind::Float), grad.to_kind(Kind::Float));
        let scale = (input.square().mean_dim([-1i64].as_slice(), true, Kind::Float) + self.eps).rsqrt();
        let scaled = input * &scale;
        let rows: Vec<i64> = (0..grad.dim() as i64 - 1).collect();
        let _ = weight_grad.g_add_(&(&grad * &scaled).sum_dim_intlist(rows, false, Kind::Float));
        let grad = grad * &self.weight;
        let along = (&grad * &scaled).mean_dim([-1i64].as_slice(), true, Kind::Float);
        let _ = input_grad.g_add_(&((grad - scaled * along) * scale));
    }
}

by_processor! {
    fn norm_rows(input: &[f32], weight: &[f32], eps: f32, output: &mut [f32]) = norm_rows_by;
}

#[inline(always)]
fn norm_rows_by<const FUSED: bool>(input: &[f32], weight: &[f32], eps: f32, output: &mut [f32]) {
    let width = weight.len();
    for (input, output) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let scale = scale_of::<FUSED>(input, eps);
        for ((output, input), weight) in output.iter_mut().zip(input).zip(weight) {
            *output = input * scale * weight;
        }
    }
}

by_processor! {
    fn norm_rows_back(
        input: &[f32], weight: &[f32], eps: f32, grad: &[f32], input_grad: &mut [f32], weight_grad: &mut [f32],
    ) = norm_rows_back_by;
}

#[inline(always)]
fn norm_rows_back_by<const FUSED: bool>(
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
        let scale = scale_of::<FUSED>(input, eps);
        let mut sums = [0.0f32; LANES];
        let ((inputs, rest), (grads, grad_rest)) = (input.as_chunks::<LANES>(), grad.as_chunks::<LANES>());
        let (weights, weight_rest) = weight.as_chunks::<LANES>();
        for ((input, grad), weight) in inputs.iter().zip(grads).zip(weights) {
            for at in 0..LANES {
                sums[at] = multiply_add::<FUSED>(input[at] * weight[at], grad[at], sums[at]);
            }
        }
        for ((input, grad), weight) in rest.iter().zip(grad_rest).zip(weight_rest) {
            sums[0] = multiply_add::<FUSED>(input * weight, *grad, sums[0]);
        }
        let along = sums.iter().sum::<f32>() * scale / width as f32;
        let entries = input.iter().zip(grad).zip(weight).zip(input_grad).zip(&mut *weight_grad);
        for ((((input, grad), weight), input_grad), weight_grad) in entries {
            let scaled = input * scale;
            *weight_grad = multiply_add::<FUSED>(*grad, scaled, *weight_grad);
            *input_grad += scale * (grad * weight - scaled * along);
        }
    }
}

/// Sums that run beside each other, so that additions need not wait.
const LANES: usize = 16;

/// 1/√(mean x² + ε) of a row.
#[inline(always)]
fn scale_of<const FUSED: bool>(row: &[f32], eps: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for lanes in whole {
        for at in 0..LANES {
            sums[at] = multiply_add::<FUSED>(lanes[at], lanes[at], sums[at]);
        }
    }
    rest.iter().for_each(|x| sums[0] = multiply_add::<FUSED>(*x, *x, sums[0]));
    1.0 / (sums.iter().sum::<f32>() / row.len() as f32 + eps).sqrt()
}

/// silu(gate) · up, all (T, I).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    if takes(gate) && takes(up) {
        let mut output = gate.empty_like();
        let parts = elements(gate).chunks(CHUNK).zip(elements(up).chunks(CHUNK));
        let parts = parts.zip(elements_mut(&mut output).chunks_mut(CHUNK)).collect();
        parallel::each(parts, gate.numel(), |((gate, up), output)| gate_chunk(gate, up, output));
        return output;
    }
    gate.silu() * up
}

/// Given ∂L/∂output: ∂L/∂gate and ∂L/∂up, in their place.
pub fn swiglu_backward(mut gate: Tensor, mut up: Tensor, grad: &Tensor) -> (Tensor, Tensor) {
    if takes(&gate) && takes(&up) && takes(grad) {
        let count = gate.numel();
        let parts = elements_mut(&mut gate).chunks_mut(CHUNK).zip(elements_mut(&mut up).chunks_mut(CHUNK));
        let parts = parts.zip(elements(grad).chunks(CHUNK)).collect();
        parallel::each(parts, count, |((gate, up), grad)| gate_chunk_back(gate, up, grad));
        return (gate, up);
    }
    let gate_grad = gate.silu_backward(&(grad * &up));
    (gate_grad, grad * gate.silu())
}

/// Elements that a thread takes at once.
const CHUNK: usize = 1 << 14;

by_processor! {
    fn gate_chunk(gate: &[f32], up: &[f32], output: &mut [f32]) = gate_chunk_by;
}

#[inline(always)]
fn gate_chunk_by<const FUSED: bool>(gate: &[f32], up: &[f32], output: &mut [f32]) {
    for ((output, gate), up) in output.iter_mut().zip(gate).zip(up) {
        *output = gate * sigmoid::<FUSED>(*gate) * up;
    }
}

by_processor! {
    fn gate_chunk_back(gate: &mut [f32], up: &mut [f32], grad: &[f32]) = gate_chunk_back_by;
}

/// silu' = σ·(1 + x·(1 − σ)).
#[inline(always)]
fn gate_chunk_back_by<const FUSED: bool>(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    for ((gate, up), grad) in gate.iter_mut().zip(up).zip(grad) {
        let x = *gate;
        let sigmoid = sigmoid::<FUSED>(x);
        *gate = grad * *up * sigmoid * (1.0 + x * (1.0 - sigmoid));
        *up = grad * x * sigmoid;
    }
}

#[inline(always)]
fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    let e = exp::<FUSED>(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// Rotates pairs of heads (T, heads, E) in place: (a, b) → (a·cos₁ + b·sin₁, b·cos₂ + a·sin₂) with the halves of `cos` and `sin` (T, 1, E);
/// with `back`, by the transposed matrix. `false` where this is not the way to compute it.
pub fn rotate(heads: &mut Tensor, cos: &Tensor, sin: &Tensor, back: bool) -> bool {
    if ![heads as &Tensor, cos, sin].into_iter().all(takes) {
        return false;
    }
    let (tokens, _, width) = heads.size3().expect("heads are (T, heads, E)");
    let (count, width) = (heads.numel(), width as usize);
    let token = count / (tokens.max(1) as usize);
    let all = elements_mut(heads).chunks_mut(ROWS * token.max(1));
    let turns = elements(cos).chunks(ROWS * width).zip(elements(sin).chunks(ROWS * width));
    parallel::each(all.zip(turns).collect(), count, |(heads, (cos, sin))| {
        let tokens = heads.chunks_exact_mut(token).zip(cos.chunks_exact(width).zip(sin.chunks_exact(width)));
        for (heads, (cos, sin)) in tokens {
            heads.chunks_exact_mut(width).for_each(|head| rotate_head(head, cos, sin, back));
        }
    });
    true
}

fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], back: bool) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    let ((cos1, cos2), (sin1, sin2)) = (cos.split_at(half), sin.split_at(half));
    let (sin1, sin2) = if back { (sin2, sin1) } else { (sin1, sin2) };
    for at in 0..half {
        let (a, b) = (first[at], second[at]);
        first[at] = a * cos1[at] + b * sin1[at];
        second[at] = b * cos2[at] + a * sin2[at];
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn random(size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu))
    }

    fn leaf(tensor: &Tensor) -> Tensor {
        tensor.to_kind(Kind::Double).detach().set_requires_grad(true)
    }

    fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
        let apart = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
        assert!(apart < 1e-5, "{what}: {apart:e}");
    }

    /// What must hold on the CPU in fp32, and for tensors that lie in memory in another way, which libtorch computes.
    fn both_ways(size: &[i64], check: impl Fn(&dyn Fn() -> Tensor)) {
        check(&|| random(size));
        check(&|| random(&size.iter().rev().copied().collect::<Vec<_>>()).permute([1, 0]));
    }

    #[test]
    fn the_norm_and_its_gradients_are_those_of_autograd_in_double_precision() {
        let _generator = crate::seeded(1);
        both_ways(&[150, 40], |new| {
            let (input, grad, weight) = (new(), new(), random(&[40]));
            let (x, w) = (leaf(&input), leaf(&weight));
            let y = x.rms_norm([40], Some(&w), 1e-6);
            (&y * grad.to_kind(Kind::Double)).sum(Kind::Double).backward();

            let norm = RmsNorm { weight: weight.shallow_clone(), eps: 1e-6 };
            assert_close(&norm.forward(&input, Kind::Float), &y, "output");
            let (mut input_grad, mut weight_grad) =
                (Tensor::ones([150, 40], (Kind::Float, Device::Cpu)), weight.ones_like());
            norm.backward(&input, &grad, &mut input_grad, &mut weight_grad);
            assert_close(&(input_grad - 1.0), &x.grad(), "added to the input's gradient");
            assert_close(&((weight_grad - 1.0) / 10.0), &(w.grad() / 10.0), "added to the weight's gradient");
        });
    }

    #[test]
    fn the_gate_and_its_gradients_are_those_of_autograd_in_double_precision() {
        let _generator = crate::seeded(2);
        both_ways(&[500, 70], |new| {
            let (gate, up, grad) = (new() * 8.0, new(), new());
            let (g, u) = (leaf(&gate), leaf(&up));
            let y = g.silu() * &u;
            (&y * grad.to_kind(Kind::Double)).sum(Kind::Double).backward();
            assert_close(&swiglu(&gate, &up), &y, "output");
            let (gate_grad, up_grad) = swiglu_backward(gate, up, &grad);
            assert_close(&gate_grad, &g.grad(), "gate");
            assert_close(&up_grad, &u.grad(), "up");
        });
    }

    #[test]
    fn rotating_back_is_the_gradient_of_rotating() {
        let _generator = crate::seeded(3);
        let (heads, grad) = (random(&[130, 3, 8]), random(&[130, 3, 8]));
        let (cos, sin) = (random(&[130, 1, 8]), random(&[130, 1, 8]));
        let x = leaf(&heads);
        let y = &x * &cos + x.roll([4], [-1]) * &sin;
        (&y * &grad).sum(Kind::Double).backward();
        let (mut rotated, mut back) = (heads.copy(), grad.copy());
        assert!(rotate(&mut rotated, &cos, &sin, false) && rotate(&mut back, &cos, &sin, true));
        assert_close(&rotated, &y, "rotated");
        assert_close(&back, &x.grad(), "back");
    }
}

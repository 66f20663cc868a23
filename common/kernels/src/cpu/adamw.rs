//! The optimizer's arithmetic in one pass over memory, for parameters on the CPU. Through libtorch a step is
//! ten passes, each with a start and an end of all threads, which costs the most where it gains the least: on
//! small parameters. The results do not depend on the number of threads.

use tch::Tensor;

use super::slices::{as_f32_slice, as_f32_slice_mut, is_cpu_f32_contiguous};
use super::threads;
use crate::adamw::{AdamWSlot, AdamWStep, BLOCK};
use crate::reference;

/// The constants of one step, in fp32.
#[derive(Debug, Clone, Copy)]
struct Constants {
    grad_scale: f32,
    decay: f32,
    beta2: f32,
    /// 1 − β₁ and 1 − β₂.
    one_minus_betas: [f32; 2],
    step_size: f32,
    root_correction2: f32,
    eps: f32,
}

impl Constants {
    fn of(step: &AdamWStep) -> Self {
        let [beta1, beta2] = step.betas;
        Self {
            grad_scale: step.grad_scale as f32,
            decay: step.decay as f32,
            beta2: beta2 as f32,
            one_minus_betas: [(1.0 - beta1) as f32, (1.0 - beta2) as f32],
            step_size: step.step_size as f32,
            root_correction2: step.root_correction2 as f32,
            eps: step.eps as f32,
        }
    }
}

/// As [`crate::ops::Ops::adamw_step`].
pub(super) fn step(slots: &mut [AdamWSlot], step: &AdamWStep) {
    let mut grads: Vec<Option<Tensor>> = slots.iter().map(AdamWSlot::grad).collect();
    if !slots.iter().map(|slot| &slot.parameter).chain(grads.iter().flatten()).all(is_cpu_f32_contiguous) {
        return reference::adamw_step(slots, step);
    }
    let mut chunks = Vec::new();
    for (slot, grad) in slots.iter_mut().zip(&mut grads) {
        let memory = Memory {
            parameter: as_f32_slice_mut(&mut slot.parameter),
            exp_avg: as_f32_slice_mut(&mut slot.exp_avg),
            exp_avg_sq: as_f32_slice_mut(&mut slot.exp_avg_sq),
            grad: grad.as_mut().map(as_f32_slice_mut),
            touched: &mut slot.touched,
        };
        chunks.extend(memory.parts(CHUNK));
    }
    let elements = chunks.iter().map(|chunk: &Memory<'_>| chunk.parameter.len()).sum();
    let constants = Constants::of(step);
    threads::parallel_for(chunks, elements, |chunk| step_chunk(chunk, constants));
}

/// As [`crate::ops::Ops::grad_norm`].
pub(super) fn grad_norm(grads: &[Tensor]) -> f64 {
    match grads.iter().all(is_cpu_f32_contiguous) {
        true => sum_of_squares(grads).sqrt(),
        false => reference::grad_norm(grads),
    }
}

/// As [`crate::ops::Ops::find_touched`].
pub(super) fn find_touched(slot: &mut AdamWSlot) {
    if !is_cpu_f32_contiguous(&slot.exp_avg) || !is_cpu_f32_contiguous(&slot.exp_avg_sq) {
        return slot.touched.fill(true);
    }
    let blocks = as_f32_slice(&slot.exp_avg).chunks(BLOCK).zip(as_f32_slice(&slot.exp_avg_sq).chunks(BLOCK));
    slot.touched = blocks.map(|(exp_avg, exp_avg_sq)| !is_zero(exp_avg) || !is_zero(exp_avg_sq)).collect();
}

/// The memory of one parameter; all of the same length. No gradient means zeros; the gradient is zero
/// after a step.
struct Memory<'a> {
    /// Its values.
    parameter: &'a mut [f32],
    /// The first moment.
    exp_avg: &'a mut [f32],
    /// The second moment.
    exp_avg_sq: &'a mut [f32],
    /// Its gradient.
    grad: Option<&'a mut [f32]>,
    /// For each [`BLOCK`], whether its moments may be other than zero.
    touched: &'a mut [bool],
}

/// Elements a thread takes at once.
const CHUNK: usize = 1 << 16;
fn is_zero(block: &[f32]) -> bool {
    block.iter().fold(0, |bits, value| bits | value.to_bits()) << 1 == 0
}

impl<'a> Memory<'a> {
    /// Cut into parts of `size`, a multiple of [`BLOCK`].
    fn parts(self, size: usize) -> impl Iterator<Item = Self> {
        let mut grads = self.grad.map(|grad| grad.chunks_mut(size));
        let moments = self.exp_avg.chunks_mut(size).zip(self.exp_avg_sq.chunks_mut(size));
        let parts = self.parameter.chunks_mut(size).zip(moments).zip(self.touched.chunks_mut(size / BLOCK));
        parts.map(move |((parameter, (exp_avg, exp_avg_sq)), touched)| {
            let grad = grads.as_mut().and_then(Iterator::next);
            Memory { parameter, exp_avg, exp_avg_sq, grad, touched }
        })
    }
}

fn step_chunk(chunk: Memory<'_>, step: Constants) {
    for block in chunk.parts(BLOCK) {
        if block.touched[0] || !block.grad.as_deref().is_none_or(is_zero) {
            block.touched[0] = true;
            step_block(block, step);
        } else if step.decay != 1.0 {
            // What is left of the step where everything else is zero, to the bit.
            block.parameter.iter_mut().for_each(|parameter| *parameter *= step.decay);
        }
    }
}

fn step_block(memory: Memory<'_>, step: Constants) {
    let Constants { grad_scale, decay, one_minus_betas: [new1, new2], beta2, step_size, root_correction2, eps } = step;
    let update = |parameter: &mut f32, exp_avg: &mut f32, exp_avg_sq: &mut f32, grad: f32| {
        *exp_avg += (grad - *exp_avg) * new1;
        *exp_avg_sq = *exp_avg_sq * beta2 + new2 * grad * grad;
        *parameter = *parameter * decay - step_size * *exp_avg / (exp_avg_sq.sqrt() / root_correction2 + eps);
    };
    let both = memory.exp_avg.iter_mut().zip(memory.exp_avg_sq.iter_mut());
    let all = memory.parameter.iter_mut().zip(both);
    match memory.grad {
        Some(grad) => {
            for ((parameter, (exp_avg, exp_avg_sq)), grad) in all.zip(grad) {
                update(parameter, exp_avg, exp_avg_sq, *grad * grad_scale);
                *grad = 0.0;
            }
        }
        None => {
            for (parameter, (exp_avg, exp_avg_sq)) in all {
                update(parameter, exp_avg, exp_avg_sq, 0.0);
            }
        }
    }
}

/// The sum of all squares, in f64: chunk by chunk, then over the chunks in order.
fn sum_of_squares(tensors: &[Tensor]) -> f64 {
    let chunks: Vec<&[f32]> = tensors.iter().flat_map(|tensor| as_f32_slice(tensor).chunks(CHUNK)).collect();
    let mut sums = vec![0.0; chunks.len()];
    let elements = chunks.iter().map(|chunk| chunk.len()).sum();
    threads::parallel_for(chunks.into_iter().zip(&mut sums).collect(), elements, |(chunk, sum)| {
        *sum = chunk_squares(chunk)
    });
    sums.iter().sum()
}

/// Eight running sums, so that additions need not wait for each other.
fn chunk_squares(chunk: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (eights, rest) = chunk.as_chunks::<8>();
    for eight in eights {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>()
}

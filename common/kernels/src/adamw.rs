//! The optimiser's arithmetic in one pass over memory, for parameters on the CPU. Through libtorch a step is ten passes, each
//! with a start and an end of all threads, which costs the most where it gains the least: on small parameters. The
//! results do not depend on the number of threads.

use tch::Tensor;

use crate::memory::elements;
use crate::parallel;

/// The constants of one step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Gradients are multiplied by it.
    pub grad_scale: f32,
    /// 1 − lr · weight_decay.
    pub keep: f32,
    /// 1 − β₁ and 1 − β₂.
    pub news: [f32; 2],
    /// β₂.
    pub beta2: f32,
    /// lr / (1 − β₁ᵗ).
    pub step_size: f32,
    /// √(1 − β₂ᵗ).
    pub root_correction2: f32,
    /// ε, added to the root of the second moment.
    pub eps: f32,
}

/// The memory of one parameter; all of the same length. No gradient stands for zeros; the gradient is zero after a step.
pub struct Memory<'a> {
    /// Its values.
    pub parameter: &'a mut [f32],
    /// The first moment.
    pub exp_avg: &'a mut [f32],
    /// The second moment.
    pub exp_avg_sq: &'a mut [f32],
    /// Its gradient.
    pub grad: Option<&'a mut [f32]>,
    /// For each [`BLOCK`], whether its moments may be other than zero.
    pub moved: &'a mut [bool],
}

/// Elements a thread takes at once.
const CHUNK: usize = 1 << 16;
/// Elements that are left out together while their moments and gradient are zero: rows of an embedding whose tokens have not occurred.
pub const BLOCK: usize = 1 << 10;

/// Which blocks of a parameter have moments other than zero.
pub fn moved(exp_avg: &[f32], exp_avg_sq: &[f32]) -> Vec<bool> {
    let blocks = exp_avg.chunks(BLOCK).zip(exp_avg_sq.chunks(BLOCK));
    blocks.map(|(exp_avg, exp_avg_sq)| !is_zero(exp_avg) || !is_zero(exp_avg_sq)).collect()
}

fn is_zero(block: &[f32]) -> bool {
    block.iter().fold(0, |bits, value| bits | value.to_bits()) << 1 == 0
}

/// Takes the step on all parameters.
pub fn step<'a>(parameters: impl IntoIterator<Item = Memory<'a>>, step: Step) {
    let mut chunks = Vec::new();
    for memory in parameters {
        chunks.extend(memory.parts(CHUNK));
    }
    let elements = chunks.iter().map(|chunk: &Memory<'_>| chunk.parameter.len()).sum();
    parallel::each(chunks, elements, |chunk| step_chunk(chunk, step));
}

impl<'a> Memory<'a> {
    /// Cut into parts of `size`, a multiple of [`BLOCK`].
    fn parts(self, size: usize) -> impl Iterator<Item = Self> {
        let mut grads = self.grad.map(|grad| grad.chunks_mut(size));
        let moments = self.exp_avg.chunks_mut(size).zip(self.exp_avg_sq.chunks_mut(size));
        let parts = self.parameter.chunks_mut(size).zip(moments).zip(self.moved.chunks_mut(size / BLOCK));
        parts.map(move |((parameter, (exp_avg, exp_avg_sq)), moved)| {
            let grad = grads.as_mut().and_then(Iterator::next);
            Memory { parameter, exp_avg, exp_avg_sq, grad, moved }
        })
    }
}

fn step_chunk(chunk: Memory<'_>, step: Step) {
    for block in chunk.parts(BLOCK) {
        if block.moved[0] || !block.grad.as_deref().is_none_or(is_zero) {
            block.moved[0] = true;
            step_block(block, step);
        } else if step.keep != 1.0 {
            // What is left of the step where everything else is zero, to the bit.
            block.parameter.iter_mut().for_each(|parameter| *parameter *= step.keep);
        }
    }
}

fn step_block(memory: Memory<'_>, step: Step) {
    let Step { grad_scale, keep, news: [new1, new2], beta2, step_size, root_correction2, eps } = step;
    let update = |parameter: &mut f32, exp_avg: &mut f32, exp_avg_sq: &mut f32, grad: f32| {
        *exp_avg += (grad - *exp_avg) * new1;
        *exp_avg_sq = *exp_avg_sq * beta2 + new2 * grad * grad;
        *parameter = *parameter * keep - step_size * *exp_avg / (exp_avg_sq.sqrt() / root_correction2 + eps);
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
pub fn sum_of_squares(tensors: &[Tensor]) -> f64 {
    let chunks: Vec<&[f32]> = tensors.iter().flat_map(|tensor| elements(tensor).chunks(CHUNK)).collect();
    let mut sums = vec![0.0; chunks.len()];
    let elements = chunks.iter().map(|chunk| chunk.len()).sum();
    parallel::each(chunks.into_iter().zip(&mut sums).collect(), elements, |(chunk, sum)| *sum = chunk_squares(chunk));
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

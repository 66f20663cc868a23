//! The rows of a stage that trains one model, and the phases of training on them.

use std::ops::Range;

use align_kernels::batch::microbatches;

use super::{BatchCost, ModelMemory, Phase, resident};

/// The maximum number of steps whose microbatches are estimated.
pub const STEPS: u64 = 1000;

/// The rows of a stage that trains one model.
pub struct Rows {
    /// Number of steps that are estimated.
    pub steps: u64,
    /// Tokens and targets of a step's rows, in order.
    pub sizes: Box<dyn Fn(u64) -> Vec<(usize, usize)>>,
    /// The exact cost of a range of a step's rows.
    pub layout: Box<dyn Fn(u64, Range<usize>) -> BatchCost>,
}

impl Rows {
    /// Tokens of the largest step.
    pub(super) fn step_tokens(&self) -> usize {
        let tokens = |step| (self.sizes)(step).iter().map(|(tokens, _)| tokens).sum();
        (0..self.steps).map(tokens).max().unwrap_or(0)
    }

    /// The phases of training a model on the rows: the update at its heaviest microbatch, during which a
    /// checkpoint may be written, and the last save.
    pub(super) fn phases(&self, model: &ModelMemory, microbatch_tokens: usize) -> Vec<Phase> {
        let (mut heaviest, mut most, mut flops, mut traffic) = ((0, 0..0), 0, 0.0, 0.0);
        for step in 0..self.steps {
            let sizes = (self.sizes)(step);
            let lengths: Vec<usize> = sizes.iter().map(|(tokens, _)| *tokens).collect();
            for range in microbatches(&lengths, microbatch_tokens) {
                let sum =
                    |part: fn(&(usize, usize)) -> usize| sizes[range.clone()].iter().map(part).sum::<usize>() as u64;
                let rough = BatchCost { tokens: sum(|row| row.0), targets: sum(|row| row.1), ..BatchCost::default() };
                flops += 3.0 * model.forward_flops(&rough);
                traffic += model.traffic(&rough);
                let bytes = model.activations(&rough) + model.head_training(&rough);
                if bytes > most {
                    (heaviest, most) = ((step, range), bytes);
                }
            }
        }
        let cost = (self.layout)(heaviest.0, heaviest.1);
        let mut update = resident(&[model]);
        update.extend(model.training(&cost));
        update.push(("checkpoint", model.checkpoint()));
        let mut save = resident(&[model]);
        save.push(("checkpoint", model.checkpoint()));
        let update = Phase {
            name: "update",
            parts: update,
            flops: flops / self.steps.max(1) as f64,
            traffic: model.optimizer_traffic() + traffic / self.steps.max(1) as f64,
        };
        vec![update, Phase { name: "save", parts: save, ..Phase::default() }]
    }
}

//! The estimate of a stage's step, by phase.

use tch::Kind;

use super::{ModelMemory, Rows};
use crate::outset::Outset;

/// A phase of a step, or the save between steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// Bytes by part, in order.
    pub parts: Vec<(&'static str, u64)>,
    /// Floating-point operations in matmuls.
    pub flops: f64,
    /// Bytes read and written outside matmuls: by the optimizer, by element-wise operations, by each decoding
    /// step.
    pub traffic: f64,
}

impl Phase {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The needs of a stage's step as a function of the microbatch size in tokens.
pub struct StepEstimate {
    /// The stage.
    pub stage: &'static str,
    /// What is reported before any run of the stage.
    pub outset: Outset,
    /// The dtype of matmul inputs.
    pub compute: Kind,
    /// The config's microbatch size.
    pub microbatch_tokens: usize,
    /// The config's key for it.
    pub key: &'static str,
    /// Tokens of the largest step: a larger limit does not make a larger microbatch.
    pub step_tokens: usize,
    /// Every phase, for a microbatch size.
    pub phases: Box<dyn Fn(usize) -> Vec<Phase>>,
}

impl StepEstimate {
    /// The estimate of a stage that trains one model.
    pub fn of_training(
        stage: &'static str,
        outset: Outset,
        model: ModelMemory,
        microbatch_tokens: usize,
        rows: Rows,
    ) -> Self {
        Self {
            stage,
            outset,
            compute: model.options.compute,
            microbatch_tokens,
            key: "train.microbatch_tokens",
            step_tokens: rows.step_tokens(),
            phases: Box::new(move |microbatch_tokens| rows.phases(&model, microbatch_tokens)),
        }
    }

    /// The maximum bytes of any phase.
    pub fn peak(&self, microbatch_tokens: usize) -> u64 {
        (self.phases)(microbatch_tokens).iter().map(Phase::bytes).max().unwrap_or(0)
    }

    /// The largest microbatch, a multiple of 64 tokens, that fits into these bytes; `None` when not even 64
    /// tokens fit.
    pub fn largest(&self, bytes: u64) -> Option<usize> {
        const STEP: usize = 64;
        let fits = |steps: usize| self.peak(steps * STEP) <= bytes;
        let (mut low, mut high) = (1, self.step_tokens.div_ceil(STEP).max(1));
        if !fits(low) {
            return None;
        }
        while low < high {
            let middle = (low + high).div_ceil(2);
            if fits(middle) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        Some(low * STEP)
    }
}

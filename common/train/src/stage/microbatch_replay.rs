//! The replay of a step that is a loop over microbatches of one model.

use align_core::error::Result;
use align_model::Parameter;
use align_run::run::{Failure, Recorded};

use super::replay::{NanReport, Replay, Section, TensorStats, gradients};
use super::training::Trainer;

/// The traced forward pass of a microbatch, and its loss.
pub struct TracedMicrobatch {
    /// Its rows, by file and line.
    pub rows: Vec<String>,
    /// Tokens of the flat batch.
    pub tokens: usize,
    /// Its own loss.
    pub loss: f64,
    /// The computed tensors, in order.
    pub activations: Vec<TensorStats>,
}

/// A trainer of one model that can trace the microbatches of a step. It can repeat a recorded step.
pub trait MicrobatchReplay: Trainer {
    /// The model's parameters.
    fn parameters(&self) -> &[Parameter];

    /// Traces the forward pass of each microbatch of `step`, in order, and accumulates its gradients. Calls
    /// `visit` after each backward pass; `visit` sets the gradients to zero.
    fn trace_microbatches(&self, step: u64, visit: &mut dyn FnMut(TracedMicrobatch));
}

impl<T: MicrobatchReplay> Replay for T {
    /// Examines every microbatch of the step separately, then takes the step as the run does.
    fn replay(&mut self, recorded: &Recorded) -> Result<NanReport> {
        let step = recorded.done - 1;
        let mut report = NanReport::default();
        report.set_largest_weights([("", self.parameters())]);
        self.trace_microbatches(step, &mut |microbatch| {
            report.sections.push(Section {
                name: format!("microbatch {}", report.sections.len() + 1),
                rows: microbatch.rows,
                tokens: microbatch.tokens,
                loss: Some(microbatch.loss),
                activations: microbatch.activations,
                gradients: gradients(self.parameters()),
            });
            self.parameters().iter().for_each(|parameter| parameter.tensor.shallow_clone().zero_grad());
        });
        report.failure = Failure::of_step(self.step(step))?;
        Ok(report)
    }
}

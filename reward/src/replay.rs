//! A step of the reward model, repeated microbatch by microbatch.

use align_core::error::Result;
use align_run::run::{Failure, Recorded};
use align_train::stage::{Examination, Part, Quantity, Replay, Trainer as _, gradients};

use crate::data::Row;
use crate::train::{Trainer, num_lm_tokens};

impl Replay for Trainer {
    fn replay(&mut self, recorded: &Recorded) -> Result<Examination> {
        examine(self, recorded.done - 1)
    }
}

/// Looks at every microbatch of `step` alone, then takes the step as the run does.
fn examine(trainer: &mut Trainer, step: u64) -> Result<Examination> {
    let mut found = Examination::default();
    let batch: Vec<&Row> = trainer.rows.batch(step).collect();
    let lm_tokens = num_lm_tokens(&batch);
    found.weigh([("", trainer.model.parameters())]);
    for (index, range) in trainer.microbatches(&batch).into_iter().enumerate() {
        let rows: &[&Row] = &batch[range];
        let flat = trainer.flatten(rows);
        let mut activations = Vec::new();
        let mut see = |name, tensor: &_| activations.push(Quantity::of(name, tensor));
        let hidden = trainer.model.trace(&flat.flat, None, &mut see); // (T, D)
        see("scores".to_owned(), &trainer.model.scalars(&hidden.index_select(0, &flat.ends)));
        let (stats, _) = trainer.backward(rows, batch.len(), lm_tokens);
        found.parts.push(Part {
            name: format!("microbatch {}", index + 1),
            rows: rows.iter().map(|row| row.location.to_string()).collect(),
            tokens: flat.flat.len(),
            loss: Some(stats.loss * batch.len() as f64 / rows.len() as f64),
            activations,
            gradients: gradients(trainer.model.parameters()),
        });
        trainer.optimizer.zero_grad();
    }
    found.failure = Failure::of_step(trainer.step(step))?;
    Ok(found)
}

//! A step of sft or pretraining, repeated microbatch by microbatch.

use align_core::error::Result;
use align_model::Over;
use align_run::run::{Failure, Recorded};
use align_tokens::LmRow;
use align_train::lm;
use align_train::stage::{Examination, Part, Quantity, Replay, Trainer as _, gradients};

use crate::train::Trainer;

impl Replay for Trainer {
    fn replay(&mut self, recorded: &Recorded) -> Result<Examination> {
        examine(self, recorded.done - 1)
    }
}

/// Looks at every microbatch of `step` alone, then takes the step as the run does.
fn examine(trainer: &mut Trainer, step: u64) -> Result<Examination> {
    let mut found = Examination::default();
    let batch = trainer.batch(step);
    let names: Vec<String> = trainer.rows.names(step).collect();
    let loss_tokens: usize = batch.iter().map(LmRow::num_loss_tokens).sum();
    found.weigh([("", trainer.model.parameters())]);
    for (index, (range, dropout)) in trainer.microbatches(step, &batch).into_iter().enumerate() {
        let rows: &[LmRow] = &batch[range.clone()];
        let mut activations = Vec::new();
        let flat = lm::flatten(rows, trainer.model.device());
        let mut see = |name, tensor: &_| activations.push(Quantity::of(name, tensor));
        let hidden = trainer.model.trace(&flat.flat, dropout, &mut see).index_select(0, &flat.positions); // (N, D)
        see("log-probabilities".to_owned(), &trainer.model.logprobs(&hidden, &flat.targets, &Over::full()).logprobs);
        let loss = lm::backward(&trainer.model, rows, dropout, 1.0 / loss_tokens as f64);
        let own_tokens: usize = rows.iter().map(LmRow::num_loss_tokens).sum();
        found.parts.push(Part {
            name: format!("microbatch {}", index + 1),
            rows: names[range].to_vec(),
            tokens: flat.flat.len(),
            loss: Some(loss / own_tokens as f64),
            activations,
            gradients: gradients(trainer.model.parameters()),
        });
        trainer.optimizer.zero_grad();
    }
    found.failure = Failure::of_step(trainer.step(step))?;
    Ok(found)
}

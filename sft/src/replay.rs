//! Traces the microbatches of an sft or pretraining step for `align replay`.

use align_model::{Over, Parameter};
use align_tokens::LmRow;
use align_train::lm;
use align_train::stage::{MicrobatchReplay, TensorStats, TracedMicrobatch};

use crate::train::Trainer;

impl MicrobatchReplay for Trainer {
    fn parameters(&self) -> &[Parameter] {
        self.model.parameters()
    }

    fn trace_microbatches(&self, step: u64, visit: &mut dyn FnMut(TracedMicrobatch)) {
        let batch = self.batch(step);
        let names: Vec<String> = self.rows.names(step).collect();
        let loss_tokens: usize = batch.iter().map(LmRow::num_loss_tokens).sum();
        for (range, dropout) in self.microbatches(step, &batch) {
            let rows: &[LmRow] = &batch[range.clone()];
            let flat = lm::flatten(rows, self.model.device());
            let mut activations = Vec::new();
            let mut record = |name, tensor: &_| activations.push(TensorStats::of(name, tensor));
            let hidden = self.model.trace(&flat.flat, dropout, &mut record).index_select(0, &flat.positions); // (N, D)
            record(
                "log-probabilities".to_owned(),
                &self.model.logprobs(&hidden, &flat.targets, &Over::full()).logprobs,
            );
            let loss = lm::backward(&self.model, rows, dropout, 1.0 / loss_tokens as f64);
            let own_tokens: usize = rows.iter().map(LmRow::num_loss_tokens).sum();
            visit(TracedMicrobatch {
                rows: names[range].to_vec(),
                tokens: flat.flat.len(),
                loss: loss / own_tokens as f64,
                activations,
            });
        }
    }
}

//! Traces the microbatches of a reward model's step for `align replay`.

use align_model::Parameter;
use align_train::stage::{MicrobatchReplay, TensorStats, TracedMicrobatch};

use crate::data::Row;
use crate::train::{Trainer, num_lm_tokens};

impl MicrobatchReplay for Trainer {
    fn parameters(&self) -> &[Parameter] {
        self.model.parameters()
    }

    fn trace_microbatches(&self, step: u64, visit: &mut dyn FnMut(TracedMicrobatch)) {
        let batch: Vec<&Row> = self.rows.batch(step).collect();
        let lm_tokens = num_lm_tokens(&batch);
        for range in self.microbatches(&batch) {
            let rows: &[&Row] = &batch[range];
            let flat = self.flatten(rows);
            let mut activations = Vec::new();
            let mut record = |name, tensor: &_| activations.push(TensorStats::of(name, tensor));
            let hidden = self.model.trace(&flat.flat, None, &mut record); // (T, D)
            record("scores".to_owned(), &self.model.scalars(&hidden.index_select(0, &flat.ends)));
            let (stats, _) = self.backward(rows, batch.len(), lm_tokens);
            visit(TracedMicrobatch {
                rows: rows.iter().map(|row| row.location.to_string()).collect(),
                tokens: flat.flat.len(),
                loss: stats.loss * batch.len() as f64 / rows.len() as f64,
                activations,
            });
        }
    }
}

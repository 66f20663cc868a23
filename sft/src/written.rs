//! What the written model says of held-out rows, beside what the trained one does.

use std::path::Path;

use align_core::error::Result;
use align_core::progress::Progress;
use align_model::{WrittenLm, dtype_name};
use align_tokens::LmRow;
use align_train::lm::{self, first_rows, mean_divergence};
use align_train::stage::{CompareWritten, Comparison, Trainer as _};
use serde_json::json;

use crate::train::Trainer;

/// Targets before which the distributions over the vocabulary are compared, in each set.
const COMPARED_TARGETS: usize = 2048;

impl CompareWritten for Trainer {
    /// The loss of every held-out set, and the KL on its first rows; without a held-out set, both on the first training rows.
    fn compare_written(&mut self, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison> {
        compare(self, checkpoint, progress)
    }
}

fn compare(trainer: &Trainer, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison> {
    let written = WrittenLm::open(&checkpoint.join("model"), trainer.model.device())?;
    let (mut found, sets) = (Comparison::default(), &trainer.rows.eval);
    for set in sets {
        let trained = trainer.held_out_loss(&set.name);
        compare_set(trainer, &written, &set.name, || set.rows.iter(), trained, progress, &mut found);
    }
    if sets.is_empty() {
        let first = trainer.rows.batches.first_epoch().map(|row| trainer.rows.train.row(row));
        let rows = first_rows(first, COMPARED_TARGETS);
        let name = format!("the first {} training rows", rows.len());
        compare_set(trainer, &written, &name, || rows.iter().cloned(), None, progress, &mut found);
    }
    Ok(found)
}

/// Adds what is found of a set; `trained` is its loss by the model in memory, where that is known.
fn compare_set<R: Iterator<Item = LmRow>>(
    trainer: &Trainer,
    written: &WrittenLm,
    name: &str,
    rows: impl Fn() -> R,
    trained: Option<f64>,
    progress: &mut dyn Progress,
    found: &mut Comparison,
) {
    let microbatch_tokens = trainer.sections.train.microbatch_tokens;
    let (first, count) = (first_rows(rows(), COMPARED_TARGETS), rows().count());
    let passes = 1 + usize::from(trained.is_none());
    progress.begin("comparing", (passes * count + first.len()) as u64);
    let trained = trained.unwrap_or_else(|| {
        lm::evaluate(&trainer.model, rows(), microbatch_tokens, &mut |_, _, _| progress.advance(1, "")).loss()
    });
    let read = lm::evaluate(written, rows(), microbatch_tokens, &mut |_, _, _| progress.advance(1, ""));
    let mut advance = |done| progress.advance(done as u64, "");
    let kl = mean_divergence(&trainer.model, written, &first, microbatch_tokens, &mut advance);
    progress.end();
    let (compute, loss) = (dtype_name(trainer.compute()), read.loss());
    let kl_tokens: usize = first.iter().map(LmRow::num_loss_tokens).sum();
    found.said.push(format!(
        "{name}: loss in training ({compute}) {trained:.4}, as `align eval` computes it on the result {loss:.4}; KL of trained against written {kl:.1e} nats a token, over {kl_tokens} tokens"
    ));
    found.sets.push(json!({
        "set": name, "rows": count, "tokens": read.tokens, "loss_trained": trained, "loss_written": loss,
        "kl": kl, "kl_tokens": kl_tokens,
    }));
}

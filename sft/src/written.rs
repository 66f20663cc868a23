//! Compares the written model with the trained one on held-out rows.

use std::path::Path;

use align_core::error::Result;
use align_core::progress::Progress;
use align_model::{WrittenLm, dtype_name};
use align_tokens::LmRow;
use align_train::lm::{self, first_rows, mean_divergence};
use align_train::stage::{CompareWritten, Comparison, Trainer as _};
use serde_json::json;

use crate::train::Trainer;

/// Number of targets in each set whose distributions over the vocabulary are compared.
const COMPARED_TARGETS: usize = 2048;

impl CompareWritten for Trainer {
    /// The loss on every held-out set and the KL on its first rows; without held-out sets, both on the first
    /// training rows.
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

/// Adds the comparison on a set; `trained` is the trained model's loss if already evaluated.
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
    let reloaded = lm::evaluate(written, rows(), microbatch_tokens, &mut |_, _, _| progress.advance(1, ""));
    let mut advance = |done| progress.advance(done as u64, "");
    let kl = mean_divergence(&trainer.model, written, &first, microbatch_tokens, &mut advance);
    progress.end();
    let (compute, loss) = (dtype_name(trainer.compute()), reloaded.loss());
    let kl_tokens: usize = first.iter().map(LmRow::num_loss_tokens).sum();
    found.lines.push(format!(
        "{name}: loss of the trained model ({compute}) {trained:.4}, of the result in `align eval` {loss:.4}; KL(trained ‖ written) {kl:.1e} nats per token, over {kl_tokens} tokens"
    ));
    found.sets.push(json!({
        "set": name, "rows": count, "tokens": reloaded.tokens, "loss_trained": trained, "loss_written": loss,
        "kl": kl, "kl_tokens": kl_tokens,
    }));
}

//! What was written at the end of a run, beside what was trained: where weights were rounded, or training computed in another dtype than
//! the commands that evaluate, the result says something else than the last evaluation, and how much that is must be known.

use std::path::Path;

use serde_json::{Map, Value, json};
use tch::Kind;

use super::Trainer;
use align_core::error::Result;
use align_core::progress::Progress;
use align_model::{dtype_name, dtypes};
use align_run::run::Run;

/// What a comparison found.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// A sentence each.
    pub said: Vec<String>,
    /// The numbers, by set.
    pub sets: Vec<Value>,
}

/// A trainer whose written models can be compared with its own.
pub trait CompareWritten {
    /// Measures what the models in a checkpoint's folder say, beside what the trained ones do. Asked for where that is something else:
    /// [`differs`].
    ///
    /// # Errors
    /// When they cannot be read.
    fn compare_written(&mut self, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison>;
}

/// Where run.json has it.
pub const FACT: &str = "written";

/// Whether the model in a folder may say something else than what was trained, which computed in this dtype: its weights were rounded, or
/// whoever loads it computes in another dtype.
///
/// # Errors
/// When the folder cannot be read.
pub fn differs(folder: &Path, compute: Kind) -> Result<bool> {
    Ok(compute != Kind::Float || dtypes(folder)? != [Kind::Float])
}

/// Compares the last checkpoint's models with the trainer's where they may differ, tells it, and has run.json say it.
pub(super) fn measure(
    trainer: &mut (impl Trainer + CompareWritten),
    run: &mut Run,
    progress: &mut dyn Progress,
) -> Result<()> {
    let Some((_, checkpoint)) = run.last_checkpoint(run.steps())? else { return Ok(()) };
    let (mut facts, mut differ) = (Map::new(), false);
    for name in ["model", "value"] {
        let folder = checkpoint.join(name);
        if folder.is_dir() {
            let kinds: Vec<&str> = dtypes(&folder)?.into_iter().map(dtype_name).collect();
            facts.insert(name.to_owned(), json!(kinds.join(" and ")));
            differ |= differs(&folder, trainer.compute())?;
        }
    }
    if differ {
        let found = trainer.compare_written(&checkpoint, progress)?;
        found.said.iter().for_each(|line| progress.note(line));
        facts.insert("said".to_owned(), json!(found.said));
        facts.insert("sets".to_owned(), json!(found.sets));
    } else {
        facts.insert("said".to_owned(), json!(["the weights are those that were trained, to the bit"]));
    }
    run.add_fact(FACT, Value::Object(facts))
}

//! Compares the written result of a run with the trained model. They differ if the weights were rounded, or
//! if training computed in another dtype than the evaluating commands; then the last evaluation does not
//! describe the result exactly.

use std::path::Path;

use serde_json::{Map, Value, json};
use tch::Kind;

use super::Trainer;
use align_core::error::Result;
use align_core::progress::Progress;
use align_model::{dtype_name, dtypes};
use align_run::run::Run;

/// The result of a comparison.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Lines to report, one for each set.
    pub lines: Vec<String>,
    /// The numbers of each set.
    pub sets: Vec<Value>,
}

/// A trainer that can compare written models with its own.
pub trait CompareWritten {
    /// Evaluates the models in a checkpoint's folder and the trained ones. Called when they may differ:
    /// [`differs`].
    ///
    /// # Errors
    /// When the models cannot be read.
    fn compare_written(&mut self, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison>;
}

/// The comparison's key in run.json.
pub const KEY: &str = "written";

/// Whether the outputs of the model in a folder may differ from those of the trained model, which computed in
/// this dtype: the weights were rounded, or the commands that load it compute in another dtype.
///
/// # Errors
/// When the folder cannot be read.
pub fn differs(folder: &Path, compute: Kind) -> Result<bool> {
    Ok(compute != Kind::Float || dtypes(folder)? != [Kind::Float])
}

/// Compares the last checkpoint's models with the trainer's if they may differ. Reports the comparison and
/// adds it to run.json.
pub(super) fn compare_result(
    trainer: &mut (impl Trainer + CompareWritten),
    run: &mut Run,
    progress: &mut dyn Progress,
) -> Result<()> {
    let Some((_, checkpoint)) = run.last_checkpoint(run.steps())? else { return Ok(()) };
    let (mut entries, mut differ) = (Map::new(), false);
    for name in ["model", "value"] {
        let folder = checkpoint.join(name);
        if folder.is_dir() {
            let kinds: Vec<&str> = dtypes(&folder)?.into_iter().map(dtype_name).collect();
            entries.insert(name.to_owned(), json!(kinds.join(" and ")));
            differ |= differs(&folder, trainer.compute())?;
        }
    }
    if differ {
        let found = trainer.compare_written(&checkpoint, progress)?;
        found.lines.iter().for_each(|line| progress.note(line));
        entries.insert("said".to_owned(), json!(found.lines));
        entries.insert("sets".to_owned(), json!(found.sets));
    } else {
        entries.insert("said".to_owned(), json!(["the weights equal the trained ones to the bit"]));
    }
    run.add_fact(KEY, Value::Object(entries))
}

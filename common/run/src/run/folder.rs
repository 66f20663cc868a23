//! The run folder: its names, and its metadata in run.json.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::inputs;
use crate::checkpoint;
use align_core::atomic_files;
use align_core::atomic_files::write_atomic;
use align_core::config;
use align_core::error::{Error, Problems, Result};

/// The names inside a run folder.
pub(super) const CONFIG: &str = "config.toml";
pub(super) const RUN: &str = "run.json";
pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const SAMPLES: &str = "samples.jsonl";
pub(super) const TENSORBOARD: &str = "tensorboard";
pub(super) const CHECKPOINTS: &str = "checkpoints";
pub(super) const RECORDS: &str = "records";

/// The key of a run's input files in run.json.
pub(super) const INPUTS: &str = "inputs";
/// The key in run.json for the backend that computes a run. It must be equal across a resume.
pub const BACKEND: &str = "backend";
/// The key in run.json for the number of rows in the last batch of an epoch, if it is smaller than the
/// others. It must be equal across a resume.
pub const SHORT_BATCH: &str = "last batch of an epoch";

/// Whether the folder has a run.
pub(super) fn holds_run(out: &Path) -> bool {
    [CONFIG, RUN, METRICS, SAMPLES, CHECKPOINTS, "model", "value"].iter().any(|name| out.join(name).exists())
}

/// Refuses a folder with a run, for a run that is not to resume one.
pub(super) fn check_unused(out: &Path) -> Result<()> {
    if !holds_run(out) {
        return Ok(());
    }
    Err(Error::invalid(out.display(), "has a run already; expected a new or empty folder, or --resume to continue it"))
}

/// Refuses to resume the folder's run, if it has one, with a different config, inputs or batches.
pub(super) fn check_resume(out: &Path, config: &str, facts: &Map<String, Value>) -> Result<()> {
    if !holds_run(out) {
        return Ok(());
    }
    let (path, run, then) = (out.join(CONFIG), out.join(RUN), read_facts(out)?);
    let (inputs_then, inputs_now) = (then.get(INPUTS), facts.get(INPUTS));
    let mut problems = Problems::new();
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        text => {
            let by_content = inputs::compared_keys(inputs_then, inputs_now);
            let text = text.map_err(Error::io(&path))?;
            problems.absorb(config::resume_differences(&path.display().to_string(), &text, config, &by_content))?;
        }
    }
    problems.absorb(inputs::compare(&run, inputs_then, inputs_now))?;
    compare_batches(&run, &then, facts, &mut problems);
    compare_backends(&run, &then, facts, &mut problems);
    problems.into_result()
}

/// The steps of a finished run with nothing left to do: it need neither continue to `steps`, nor write its
/// result in another dtype.
pub(super) fn finished(out: &Path, config: &str, steps: Option<u64>) -> Result<Option<u64>> {
    let done = read_facts(out)?.get("finished_step").and_then(Value::as_u64);
    let Some(done) = done.filter(|done| steps.is_none_or(|steps| steps <= *done)) else { return Ok(None) };
    // Without its last checkpoint, a run cannot write its result again.
    let then = fs::read_to_string(out.join(CONFIG)).unwrap_or_default();
    let has_last = newest(out)?.is_some_and(|(step, _)| step == done);
    let rewrites = has_last && steps.is_none_or(|steps| steps == done) && !config::same_result_dtype(&then, config);
    Ok((!rewrites).then_some(done))
}

/// Refuses to resume with steps that use other rows than the run's. If rows are left at the end of an epoch,
/// `train.epochs` ends it with a smaller batch, and `train.steps` continues the batch with the next epoch.
fn compare_batches(run: &Path, then: &Map<String, Value>, now: &Map<String, Value>, problems: &mut Problems) {
    let key = SHORT_BATCH.replace(' ', "_");
    let (Some(steps), was, is) = (then.get("steps"), then.get(&key), now.get(&key)) else { return };
    if was == is {
        return;
    }
    problems.push(
        run.display(),
        match was {
            None => format!(
                "the run's batches span epochs (train.steps, or an earlier version), those of train.epochs do not; expected train.steps, which was {steps}"
            ),
            Some(rows) => format!(
                "the last batch of the run's epochs has {rows} rows (train.epochs), those of train.steps span epochs; expected train.epochs"
            ),
        },
    );
}

/// Refuses to resume under another backend, which rounds differently. Earlier versions recorded none.
fn compare_backends(run: &Path, then: &Map<String, Value>, now: &Map<String, Value>, problems: &mut Problems) {
    let backend = |facts: &Map<String, Value>| facts.get(BACKEND).and_then(Value::as_str).map(str::to_owned);
    if let (Some(was), Some(is)) = (backend(then), backend(now))
        && was != is
    {
        let what = format!(
            "the run was computed by the backend {was}, this one would be by {is}; expected ALIGN_BACKEND={was}"
        );
        problems.push(run.display(), what);
    }
}

/// Reads run.json; an empty map if there is none.
pub(super) fn read_facts(out: &Path) -> Result<Map<String, Value>> {
    let path = out.join(RUN);
    match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        bytes => serde_json::from_slice(&bytes.map_err(Error::io(&path))?)
            .map_err(|error| Error::invalid(path.display(), format!("is damaged: {error}"))),
    }
}

/// Writes run.json.
pub(super) fn write_facts(out: &Path, facts: &Map<String, Value>) -> Result<()> {
    let mut text = serde_json::to_string_pretty(facts).expect("plain data");
    text.push('\n');
    write_atomic(&out.join(RUN), text.as_bytes())
}

/// Removes unfinished files of killed processes.
pub(super) fn clean(out: &Path) -> Result<()> {
    for folder in [out.to_owned(), out.join(CHECKPOINTS), out.join(RECORDS), out.join(TENSORBOARD)] {
        atomic_files::remove_temporaries(&folder)?;
    }
    Ok(())
}

/// The newest checkpoint.
pub(super) fn newest(out: &Path) -> Result<Option<(u64, PathBuf)>> {
    Ok(checkpoint::list(&out.join(CHECKPOINTS))?.pop())
}

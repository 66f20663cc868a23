//! The run folder: its lock, and its metadata in run.json.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

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
const LOCK: &str = ".lock";

/// The key of a run's input files in run.json.
pub(super) const INPUTS: &str = "inputs";
/// The key in run.json for the backend that computes a run. It must be equal across a resume.
pub const BACKEND: &str = "backend";
/// The key in run.json for the number of rows in the last batch of an epoch, if it is smaller than the
/// others. It must be equal across a resume.
pub const SHORT_BATCH: &str = "last batch of an epoch";

/// A held lock. The operating system releases it however the process ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is just being started may still share it.
        let _ = self.0.unlock();
    }
}

/// Creates the folder and takes its lock.
pub(super) fn lock(out: &Path) -> Result<Lock> {
    let refuse = |error: std::io::Error| Error::invalid(out.display(), format!("cannot be used as run.out: {error}"));
    fs::create_dir_all(out).map_err(refuse)?;
    let path = out.join(LOCK);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(Error::invalid(
                out.display(),
                format!("is in use by another process ({}); one process per run folder", holder.trim()),
            ));
        }
        Err(TryLockError::Error(error)) => return Err(refuse(error)),
    }
    let holder = format!("pid {}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(Error::io(&path))?;
    Ok(Lock(file))
}

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

/// The time as `2026-11-21T23:44:32Z`.
pub(super) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    utc(seconds)
}

/// Formats a time. The date is computed as in Hinnant's "chrono-compatible low-level date algorithms".
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let dates = [0, 951_782_400, 1_763_768_672].map(utc);
        assert_eq!(dates, ["1970-01-01T00:00:00Z", "2000-02-29T00:00:00Z", "2025-11-21T23:44:32Z"]);
    }
}

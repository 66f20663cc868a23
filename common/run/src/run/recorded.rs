//! The record of a failed step, from which the step can be replayed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Run;
use super::contents::no_run;
use super::folder::{self, CONFIG, INPUTS, RECORDS, RUN};
use super::inputs::{self, Input};
use crate::checkpoint::{self, Snapshot};
use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Problems, Result};
use align_core::manifest;

/// A non-finite quantity in a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The quantity.
    pub what: String,
    /// `NaN`, `inf` or `-inf`.
    pub number: String,
}

impl Failure {
    /// The failure of a step; `None` for other errors.
    pub fn of(error: &Error) -> Option<Self> {
        let Error::NonFinite { what, number } = error else { return None };
        Some(Self { what: what.clone(), number: number.to_string() })
    }

    /// The failure of a step, if its result is one; `None` if the step succeeded.
    ///
    /// # Errors
    /// Errors other than [`Error::NonFinite`].
    pub fn of_step<T>(result: Result<T>) -> Result<Option<Self>> {
        match result {
            Ok(_) => Ok(None),
            Err(error) => Self::of(&error).map(Some).ok_or(error),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}", self.what, self.number)
    }
}

/// The maximum number of steps recorded while a run continues. The step that ends it is always recorded.
const MAX_RECORDS: usize = 16;

impl Run {
    /// Writes records/step-….json for the step that ends with `done` steps: its alarms, the non-finite
    /// quantity if there is one, and its inputs. Returns the file's path.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn record(
        &mut self,
        done: u64,
        alarms: &[String],
        failure: Option<&Failure>,
        worked_on: Value,
    ) -> Result<PathBuf> {
        let folder = self.out.join(RECORDS);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(format!("{}.json", checkpoint::folder_name(done)));
        let from = self.last_checkpoint(done - 1)?.map(|(_, path)| path);
        let record =
            serde_json::json!({ "alarms": alarms, "failure": failure, "replay_from": from, "worked_on": worked_on });
        write_atomic(&path, format!("{record}\n").as_bytes())?;
        Ok(path)
    }

    /// Writes records/step-…/: a checkpoint from before the step that would have ended with `done` steps, so
    /// that [`Recorded`] can replay that step directly.
    ///
    /// # Errors
    /// As [`checkpoint::save`].
    pub fn keep_for_replay(&self, done: u64, snapshot: Snapshot) -> Result<()> {
        let run_state = self.run_state();
        checkpoint::save(&self.out.join(RECORDS), done, snapshot, |temporary| run_state.write(temporary)).map(drop)
    }

    /// Whether a run that continues may write another record. The first ones are the informative ones, and
    /// repeated alarms must not fill the disk.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn has_room_for_records(&self) -> Result<bool> {
        Ok(checkpoint::numbered(&self.out.join(RECORDS), ".json")?.len() < MAX_RECORDS)
    }
}

/// A recorded step, with everything that it started from.
#[derive(Debug)]
pub struct Recorded {
    /// The run's config.toml.
    pub config: PathBuf,
    /// The name of the stage, from run.json.
    pub stage: String,
    /// Steps done, had the step succeeded.
    pub done: u64,
    /// Why it failed.
    pub failure: Failure,
    /// The checkpoint that it started from.
    pub checkpoint: PathBuf,
    /// The stage's description of its inputs.
    pub worked_on: Value,
    facts: Map<String, Value>,
    run: PathBuf,
}

impl Recorded {
    /// Opens the record with `step` steps done, or by default the latest that can be replayed. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none, or a file of the run folder is missing or damaged.
    pub fn open(out: &Path, step: Option<u64>) -> Result<Self> {
        let (config, records) = (out.join(CONFIG), out.join(RECORDS));
        let mut problems = Problems::new();
        if !out.join(RUN).is_file() {
            return Err(no_run(out));
        }
        let facts = folder::read_facts(out)?;
        if !config.is_file() {
            problems.push(config.display(), "is missing, expected the run's config");
        }
        let kept = checkpoint::list(&records)?;
        let chosen = match step {
            Some(step) => kept.into_iter().find(|(done, _)| *done == step),
            None => kept.into_iter().next_back(),
        };
        let Some((done, checkpoint)) = chosen else {
            let which = step.map_or_else(|| "a step".to_owned(), |step| format!("step {step}"));
            let what = format!(
                "has no record of {which} that can be replayed; a run writes one when a loss or gradient is not finite"
            );
            problems.push(out.display(), what);
            return Err(problems.into_result().expect_err("a problem was pushed"));
        };
        problems.into_result()?;
        let mut problems = Problems::new();
        manifest::damage(&checkpoint).iter().for_each(|(file, what)| problems.push(file.display(), what));
        problems.into_result()?;
        let path = checkpoint.with_extension("json");
        let damaged = |what: &dyn std::fmt::Display| Error::invalid(path.display(), format!("is damaged: {what}"));
        let bytes =
            fs::read(&path).map_err(|error| Error::invalid(path.display(), format!("cannot be read: {error}")))?;
        let mut record: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
        let failure = record.remove("failure").unwrap_or_default();
        let failure = Failure::deserialize(failure).map_err(|error| damaged(&error))?;
        Ok(Self {
            config,
            stage: facts.get("stage").and_then(Value::as_str).unwrap_or_default().to_owned(),
            done,
            failure,
            checkpoint,
            worked_on: record.remove("worked_on").unwrap_or_default(),
            facts,
            run: out.join(RUN),
        })
    }

    /// Refuses data and models that differ from the run's.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every file that differs.
    pub fn check_inputs(&self, inputs: &[Input]) -> Result<()> {
        inputs::compare(&self.run, self.facts.get(INPUTS), Some(&inputs::fingerprints(inputs)?))
    }
}

//! A step that a run could not take, read back from its record: to be repeated from where it began.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::contents::no_run;
use super::folder::{self, CONFIG, INPUTS, RECORDS, RUN};
use super::inputs::{self, Input};
use crate::checkpoint;
use align_core::error::{Error, Problems, Result};
use align_core::manifest;

/// A number that is none, where a step expected one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The quantity.
    pub what: String,
    /// `NaN`, `inf` or `-inf`.
    pub number: String,
}

impl Failure {
    /// What a step failed with; `None` for errors of other kinds.
    pub fn of(error: &Error) -> Option<Self> {
        let Error::NonFinite { what, number } = error else { return None };
        Some(Self { what: what.clone(), number: number.to_string() })
    }

    /// What a step came to, where it came to no number.
    ///
    /// # Errors
    /// Those of other kinds.
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

/// A recorded step, and all that it began with.
#[derive(Debug)]
pub struct Recorded {
    /// The run's config.toml.
    pub config: PathBuf,
    /// What run.json calls the stage.
    pub stage: String,
    /// Steps that the step would have made.
    pub done: u64,
    /// What it came to.
    pub failure: Failure,
    /// The checkpoint that it began with.
    pub checkpoint: PathBuf,
    /// What it worked on, as far as the stage says so.
    pub worked_on: Value,
    facts: Map<String, Value>,
    run: PathBuf,
}

impl Recorded {
    /// The record of the step that would have made `step` steps, else the latest that can be repeated. Nothing is changed.
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
            problems.push(config.display(), "is missing, expected what the run was started with");
        }
        let kept = checkpoint::list(&records)?;
        let chosen = match step {
            Some(step) => kept.into_iter().find(|(done, _)| *done == step),
            None => kept.into_iter().next_back(),
        };
        let Some((done, checkpoint)) = chosen else {
            let which = step.map_or_else(|| "a step".to_owned(), |step| format!("step {step}"));
            let what = format!(
                "holds no record of {which} that can be repeated; a run leaves one where a loss or gradient is no longer a number"
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
            std::fs::read(&path).map_err(|error| Error::invalid(path.display(), format!("cannot be read: {error}")))?;
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

    /// Refuses other data and models than the run was made of.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every file that is another one.
    pub fn check_inputs(&self, inputs: &[Input]) -> Result<()> {
        inputs::compare(&self.run, self.facts.get(INPUTS), Some(&inputs::fingerprints(inputs)?))
    }
}

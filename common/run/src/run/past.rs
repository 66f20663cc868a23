//! What a resumed run takes over: the elapsed time, and the log lines to keep.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value};

use align_core::config::{ResultDtype, RunSection};
use align_core::error::{Error, Result};

/// The run's own state in a checkpoint.
pub(super) struct RunState {
    pub(super) seconds: f64,
    /// The dtype of the models in the checkpoint; `None` if an older version wrote it.
    pub(super) result_dtype: Option<ResultDtype>,
}

impl RunState {
    pub(super) const FILE: &'static str = "run.json";

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let text = serde_json::json!({ "seconds": self.seconds, "result_dtype": self.result_dtype });
        fs::write(&path, format!("{text}\n")).map_err(Error::io(&path))
    }

    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| Error::invalid(path.display(), error))?;
        let result_dtype = ResultDtype::deserialize(&value["result_dtype"]).ok();
        Ok(Self { seconds: value["seconds"].as_f64().unwrap_or(0.0), result_dtype })
    }
}

/// Decides which log entries stay when a run continues after `next_step` steps: those that an uninterrupted
/// run would have written. These are all of them, unless a finished run is extended: its last step was logged
/// and evaluated only because it was the last.
pub(super) struct History {
    pub(super) next_step: u64,
    pub(super) extended: bool,
    pub(super) section: RunSection,
}

impl History {
    pub(super) fn evaluated(&self, step: u64) -> bool {
        !(self.extended && step == self.next_step) || step.is_multiple_of(self.section.eval_every)
    }

    pub(super) fn keeps(&self, step: u64) -> bool {
        step <= self.next_step && (self.evaluated(step) || step.is_multiple_of(self.section.log_every))
    }

    pub(super) fn keeps_value(&self, step: u64, name: &str) -> bool {
        self.keeps(step) && (self.evaluated(step) || !name.starts_with("eval/"))
    }

    pub(super) fn line(&self, step: u64, mut line: Map<String, Value>) -> Option<Map<String, Value>> {
        line.retain(|name, _| self.keeps_value(step, name));
        self.keeps(step).then_some(line)
    }
}

/// Measures the seconds of work, including those of earlier processes up to the checkpoint.
#[derive(Debug)]
pub(super) struct Clock {
    before: f64,
    start: Instant,
    logged: Instant,
    logged_step: u64,
}

impl Clock {
    pub(super) fn new(before: f64, step: u64) -> Self {
        let now = Instant::now();
        Self { before, start: now, logged: now, logged_step: step }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    /// The mean time per step since the last call.
    pub(super) fn seconds_per_step(&mut self, done: u64) -> f64 {
        let (elapsed, steps) = (self.logged.elapsed().as_secs_f64(), done.saturating_sub(self.logged_step));
        (self.logged, self.logged_step) = (Instant::now(), done);
        elapsed / steps.max(1) as f64
    }
}

//! The end of a run: the models of a checkpoint become its result.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::folder::{self, CHECKPOINTS};
use super::{Outcome, Run};
use crate::checkpoint;
use align_core::atomic_files::{self, TEMPORARY, replace_folder, sync_tree};
use align_core::clock;
use align_core::error::{Error, Result};

impl Run {
    /// Makes the models of the checkpoint of `step` steps the result, and removes later checkpoints.
    ///
    /// # Errors
    /// [`Error::Invalid`] when that checkpoint is damaged; [`Error::Io`] when something cannot be written.
    pub fn roll_back(&mut self, step: u64) -> Result<()> {
        self.wait()?;
        let mut later = checkpoint::list(&self.out.join(CHECKPOINTS))?;
        later.retain(|(other, _)| *other >= step);
        let Some((_, from)) = later.iter().find(|(other, _)| *other == step) else { return Ok(()) };
        checkpoint::verify(from)?;
        self.publish(from)?;
        later
            .iter()
            .filter(|(other, _)| *other > step)
            .try_for_each(|(_, path)| atomic_files::remove_folder_atomically(path))
    }

    /// Makes the models of the last checkpoint the result: `model`, and `value` if there is one.
    ///
    /// # Errors
    /// As [`Run::wait`]; [`Error::Io`] when something cannot be written.
    ///
    /// # Panics
    /// When no checkpoint was saved: the last step always has one.
    pub fn finish(&mut self) -> Result<Outcome> {
        let (_, last) = self.last_checkpoint(self.steps)?.expect("the last step was saved");
        self.publish(&last)?;
        self.metrics.sync()?;
        self.samples.sync()?;
        self.facts.insert("finished".to_owned(), Value::from(clock::now()));
        self.facts.insert("finished_step".to_owned(), Value::from(self.steps));
        self.facts.insert("seconds".to_owned(), Value::from(self.clock.seconds()));
        folder::write_facts(&self.out, &self.facts)?;
        Ok(Outcome::Finished { step: self.steps })
    }

    /// Adds an entry on the run's result to run.json.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn add_fact(&mut self, name: &str, value: Value) -> Result<()> {
        self.facts.insert(name.to_owned(), value);
        folder::write_facts(&self.out, &self.facts)
    }

    /// Replaces the result by the models of a checkpoint: copies them to a temporary folder, then renames
    /// each.
    fn publish(&self, from: &Path) -> Result<()> {
        let temporary = self.out.join(format!("{TEMPORARY}result"));
        fs::create_dir_all(&temporary).map_err(Error::io(&temporary))?;
        checkpoint::copy_models(from, &temporary)?;
        sync_tree(&temporary)?;
        for entry in fs::read_dir(&temporary).map_err(Error::io(&temporary))? {
            let entry = entry.map_err(Error::io(&temporary))?;
            replace_folder(&entry.path(), &self.out.join(entry.file_name()))?;
        }
        fs::remove_dir(&temporary).map_err(Error::io(&temporary))
    }
}

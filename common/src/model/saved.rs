//! A model on its way to the disk, and whether what was written is what was in memory.

use std::path::Path;

use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use super::ModelOptions;
use super::weights::{self, Parameter, SideFiles};
use crate::batch::FlatBatch;
use crate::chatml::ChatFormat;
use crate::checkpoint::Models;
use crate::error::{Error, Result};

/// A model as it stands, for another thread to write: its tensors share memory with the model's own.
pub struct Saved {
    pub(super) parameters: Vec<Parameter>,
    /// `config.json`.
    pub(super) config: Map<String, Value>,
    pub(super) side_files: SideFiles,
    /// The dtype of the written weights.
    pub(super) dtype: Kind,
    /// How it computes.
    pub(super) options: ModelOptions,
    /// What it says of the probe.
    pub(super) says: Tensor,
    /// What the model in a folder says of the probe.
    pub(super) read: fn(&Path, &ModelOptions) -> Result<Tensor>,
}

impl Saved {
    /// Adds a file to those beside the weights, in place of one of that name.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        self.side_files.add(name, bytes);
    }

    /// A file beside the weights.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.side_files.get(name)
    }

    /// Adds the files by which other programs read a reward model as it was trained.
    pub fn add_scoring_files(&mut self, format: &ChatFormat) {
        for (name, bytes) in format.scoring_files(self.file("tokenizer_config.json")) {
            self.add_file(name, bytes);
        }
    }

    /// Writes a checkpoint in Hugging Face layout; the folder is made when missing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        let parameters: Vec<&Parameter> = self.parameters.iter().collect();
        weights::write_folder(dir, &parameters, &self.config, &self.side_files)
    }

    /// Loads what was written and compares what it says of a probe with what this model said of it.
    ///
    /// # Errors
    /// [`Error::Failed`] when that differs by more than the written dtype explains; [`Error::Invalid`] when it cannot be loaded.
    pub fn check(&self, dir: &Path) -> Result<()> {
        agree(dir, self.dtype, &self.says, &(self.read)(dir, &self.options)?)
    }
}

/// By the names of their folders.
impl Models for Vec<(&'static str, Saved)> {
    fn write(&self, folder: &Path) -> Result<()> {
        self.iter().try_for_each(|(name, model)| model.write(&folder.join(name)))
    }

    fn check(&self, folder: &Path) -> Result<()> {
        self.iter().try_for_each(|(name, model)| model.check(&folder.join(name)))
    }
}

/// Parameters as they stand, each with a handle of its own on its memory.
pub(super) fn detached<'a>(parameters: impl IntoIterator<Item = &'a Parameter>) -> Vec<Parameter> {
    let detach = |parameter: &Parameter| Parameter {
        name: parameter.name.clone(),
        tensor: parameter.tensor.detach(),
        stored: parameter.stored,
    };
    parameters.into_iter().map(detach).collect()
}

/// Tokens of the probe.
const PROBE: i64 = 24;

/// A sequence with ids from all over the vocabulary.
pub(super) fn probe(vocab_size: i64) -> FlatBatch {
    let tokens: Vec<i64> = (0..PROBE).map(|at| (at * at * 7919 + at * 104_729 + 11) % vocab_size).collect();
    let mut flat = FlatBatch::new();
    flat.push(&tokens, None);
    flat
}

/// Compares numbers of the model in memory with those of the written one. Weights that are written in fp32 come back as they were; in 16
/// bits each is rounded, which moves the numbers by a few percent of their size.
fn agree(dir: &Path, dtype: Kind, memory: &Tensor, written: &Tensor) -> Result<()> {
    let size = memory.abs().max().double_value(&[]).max(1.0);
    let apart = (memory - written).abs().max().double_value(&[]) / size;
    let limit = if dtype == Kind::Float { 1e-5 } else { 0.1 };
    // A NaN is not within any limit, but one that is in memory is what was written.
    if apart <= limit || memory.isfinite().all().int64_value(&[]) == 0 {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{}: the model that was written gives other numbers than the one in memory (apart by {apart:.1e} of their size); the disk or the memory is not sound, and nothing was replaced",
        dir.display()
    )))
}

//! A snapshot of a model: written, then read back and compared with the model in memory.

use std::cell::RefCell;
use std::path::Path;

use tch::Tensor;

use super::ModelOptions;
use super::config::{ModelConfig, set_dtype};
use super::files::Files;
use super::header::specs;
use super::spec::{Face, Spec};
use super::weights::{self, Parameter, SideFiles, Sums, Writing, differs};
use align_core::error::Result;
use align_kernels::batch::FlatBatch;
use align_text::chatml::ChatFormat;

/// Models to be written: their tensors share memory with those that are trained.
pub trait Models: Send {
    /// Writes them into subfolders of a folder.
    ///
    /// # Errors
    /// What cannot be written.
    fn write(&self, folder: &Path) -> Result<()>;

    /// Reads back what was written and compares it with what was to be written.
    ///
    /// # Errors
    /// [`align_core::error::Error::Failed`] when it is something else.
    fn check(&self, folder: &Path) -> Result<()>;
}

/// A snapshot of a model, for another thread to write: its tensors share memory with the model's own.
pub struct Saved {
    parameters: Vec<Parameter>,
    writing: Writing,
    /// The architecture, with the `config.json` to be written.
    config: ModelConfig,
    side_files: SideFiles,
    face: Face,
    /// The output on the probe, where the written weights are those in memory.
    probed: Option<Probed>,
    /// What was written.
    sums: RefCell<Sums>,
}

/// A model's output on the probe, and how the written model computes it.
pub(super) struct Probed {
    pub(super) output: Tensor,
    /// How it computes.
    pub(super) options: ModelOptions,
    /// The output of the model in a folder.
    pub(super) read: fn(&Path, &ModelOptions) -> Result<Tensor>,
}

impl Saved {
    /// `config` is that of the model but for its dtype.
    pub(super) fn new<'a>(
        parameters: impl IntoIterator<Item = &'a Parameter>,
        writing: Writing,
        mut config: ModelConfig,
        side_files: SideFiles,
        face: Face,
    ) -> Self {
        let parameters = detached(parameters);
        let mut kinds = parameters.iter().map(|parameter| parameter.written_as(writing));
        let first = kinds.next().expect("a model has parameters");
        if kinds.all(|kind| kind == first) && config.dtype != first {
            set_dtype(&mut config.source, first);
            config.dtype = first;
        }
        Self { parameters, writing, config, side_files, face, probed: None, sums: RefCell::default() }
    }

    /// Computes the output on the probe if no weight is rounded: then the written model must give the same.
    pub(super) fn probe(mut self, probe: impl FnOnce() -> Probed) -> Self {
        let is_exact = |parameter: &Parameter| parameter.written_as(self.writing) == parameter.tensor.kind();
        self.probed = self.parameters.iter().all(is_exact).then(probe);
        self
    }

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
    /// [`align_core::error::Error::Io`]; [`align_core::error::Error::Failed`] when a weight is beyond the
    /// numbers of the dtype that is written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let parameters: Vec<&Parameter> = self.parameters.iter().collect();
        let sums = weights::write_folder(dir, &parameters, self.writing, &self.config.source, &self.side_files)?;
        *self.sums.borrow_mut() = sums;
        Ok(())
    }

    /// Reads the folder with the loader and compares: the config with that in memory, each weight with the
    /// bytes that were to be written, and the companion files. Where the weights are those in memory, the
    /// outputs on the probe are compared, too.
    ///
    /// # Errors
    /// [`align_core::error::Error::Failed`] when something differs; [`align_core::error::Error::Invalid`]
    /// when it cannot be loaded.
    pub fn check(&self, dir: &Path) -> Result<()> {
        let config = ModelConfig::read(dir)?;
        if config != self.config {
            return Err(differs(&dir.join("config.json"), "it describes another model than the one in memory"));
        }
        let files = Files::require(dir)?;
        let specs = specs(&config, self.face);
        files.compare(&specs, self.face, &config)?;
        let sums = self.sums.borrow();
        for (Spec { name, .. }, parameter) in specs.iter().zip(&self.parameters) {
            let sum = files.sum(name).expect("the header was compared with the specs");
            if sum != (parameter.written_as(self.writing), sums[name]) {
                return Err(differs(dir, &format!("{name} differs from what was written")));
            }
        }
        self.side_files.check(dir)?;
        self.probed.as_ref().map_or(Ok(()), |probed| agree(dir, &probed.output, &(probed.read)(dir, &probed.options)?))
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
fn detached<'a>(parameters: impl IntoIterator<Item = &'a Parameter>) -> Vec<Parameter> {
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

/// Compares numbers of the model in memory with those of the written one, whose weights are the same.
fn agree(dir: &Path, memory: &Tensor, written: &Tensor) -> Result<()> {
    let size = memory.abs().max().double_value(&[]).max(1.0);
    let difference = (memory - written).abs().max().double_value(&[]) / size;
    // A NaN is not within any limit, but one that is in memory is what was written.
    if difference <= 1e-5 || memory.isfinite().all().int64_value(&[]) == 0 {
        return Ok(());
    }
    Err(differs(
        dir,
        &format!("its outputs differ from those of the model in memory (relative difference {difference:.1e})"),
    ))
}

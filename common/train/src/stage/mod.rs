//! What every stage does around its training: check everything before a model loads ([`check_source`] and the like), say what
//! will run and take the run's folder ([`launch()`]), and step to the end ([`train`]).

pub mod doctor;
mod launch;
pub mod misfits;
mod replay;
mod scoring;
mod warnings;
pub mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value, json};
use tch::Device;

use align_core::config::{DeviceSpec, Dtype, Files, Mix};
use align_core::error::{Problems, Result};
use align_core::progress::Progress;
use align_data::{self as data, Batches, Order};
use align_kernels::{find_device, kind_of};
use align_model::contract::ScoreContract;
use align_model::{self as model, Face, Family, Header, ModelOptions};
use align_run::run::{Input, SHORT_BATCH};
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Tokenizer;

pub use launch::{Action, Launched, Plan, Trainer, Watch, launch, train};
pub use misfits::Outset;
pub use replay::{Examination, Part, Quantity, Replay, gradients, merge, replay};
pub use scoring::{ScorePlace, ScoreWish, Scorer, check_reward_model, check_scalar_model, refuse_value_model};
pub use warnings::{Alarm, Lasting, News};
pub use written::Comparison;

/// How the binary asks a stage to run.
pub struct Job<'a> {
    /// Go on with the run in the folder.
    pub resume: bool,
    /// Check everything, say what would run, and stop.
    pub dry_run: bool,
    /// Set when the run is asked to stop.
    pub interrupt: Arc<AtomicBool>,
    /// Who is told how far it is.
    pub progress: &'a mut dyn Progress,
    /// What run.json says of the program: version, commit, libtorch.
    pub program: Map<String, Value>,
}

/// A checked checkpoint folder: its headers agree with its config, and its tokenizer fits.
pub struct Source {
    /// Config and headers.
    pub header: Header,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What its scores mean, where `align` wrote it as a reward or value model.
    pub contract: Option<ScoreContract>,
}

/// Checks a folder's config, headers, tokenizer and score contract; all mistakes land in `problems`.
///
/// # Errors
/// What is not the user's mistake.
pub fn check_source(dir: &Path, problems: &mut Problems) -> Result<Option<Source>> {
    if problems.absorb(model::check_folder(dir))?.is_none() {
        return Ok(None);
    }
    let header = problems.absorb(model::inspect(dir))?;
    let tokenizer = problems.absorb(Tokenizer::open(dir))?;
    let contract = problems.absorb(ScoreContract::read(dir))?.flatten();
    let (Some(header), Some(tokenizer)) = (header, tokenizer) else { return Ok(None) };
    if contract.as_ref().is_some_and(|contract| contract.tokenizer != tokenizer.fingerprint()) {
        problems.push(
            dir.display(),
            "the model was trained with another tokenizer than the one in its folder, expected the same; put that one back",
        );
    }
    if tokenizer.vocab_size() > header.config.vocab_size {
        let (ids, rows) = (tokenizer.vocab_size(), header.config.vocab_size);
        problems.push(
            dir.display(),
            format!("the tokenizer has {ids} ids but the model {rows} embedding rows, expected at least as many rows"),
        );
    }
    Ok(Some(Source { header, tokenizer, contract }))
}

/// As [`check_source`] for a language model with weights.
///
/// # Errors
/// As [`check_source`].
pub fn check_causal_lm(dir: &Path, problems: &mut Problems) -> Result<Option<Source>> {
    let source = check_source(dir, problems)?;
    if let Some(source) = &source {
        if source.header.face != Face::CausalLm {
            problems.push(dir.display(), "holds a reward or value model, expected a language model");
        } else if !source.header.has_weights {
            problems.push(
                dir.display(),
                "holds no weights, expected model.safetensors or shards with model.safetensors.index.json",
            );
        }
    }
    Ok(source)
}

/// The chat format of a checked folder; mistakes land in `problems`.
///
/// # Errors
/// What is not the user's mistake.
pub fn check_format(
    dir: &Path,
    source: Option<&Source>,
    system: &str,
    problems: &mut Problems,
) -> Result<Option<ChatFormat>> {
    let Some(source) = source else { return Ok(None) };
    if let Err(what) = source.tokenizer.check(system) {
        problems.push("data.system", what);
        return Ok(None);
    }
    problems.absorb(ChatFormat::open(dir, &source.tokenizer, system))
}

/// Refuses training rows that are longer than a first-generation model was trained for: its NTK and LogN, which act there, are
/// meant for evaluation only. `what` names the rows, `place` where to shorten them.
pub fn check_trained_length(
    header: &Header,
    longest: usize,
    place: impl std::fmt::Display,
    what: &str,
    problems: &mut Problems,
) {
    let config = &header.config;
    if config.family == Family::Qwen && longest as i64 > config.seq_length {
        let trained = config.seq_length;
        problems.push(
            place,
            format!("{what} of {longest} tokens, expected at most the {trained} (seq_length) that a first-generation model is trained within"),
        );
    }
}

/// Adds a problem where the device that a config names under a key is not there.
pub fn check_device(key: &str, device: DeviceSpec, problems: &mut Problems) {
    if let Err(what) = find_device(device) {
        problems.push(key, what);
    }
}

/// The device of a config that was checked.
///
/// # Panics
/// When it was not, by [`check_device`].
pub fn checked_device(device: DeviceSpec) -> Device {
    find_device(device).expect("the device was checked")
}

/// How the commands that only measure or sample load a model: on a GPU where there is one.
pub fn evaluation_options(dtype: Dtype) -> ModelOptions {
    ModelOptions {
        device: Device::cuda_if_available(),
        compute: kind_of(dtype),
        trainable: false,
        recompute_layers: false,
    }
}

/// The names under which sets are reported: the stems of files, the names of folders, numbered where two are alike.
pub fn set_names(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &PathBuf| {
        if file.is_dir() {
            let folder = file.canonicalize().unwrap_or_else(|_| file.clone());
            return folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        }
        let packed = file.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
        let file = if packed { file.with_extension("") } else { file.clone() };
        file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    };
    let stems: Vec<String> = files.iter().map(stem).collect();
    let mut names: Vec<String> = Vec::new();
    for name in &stems {
        let alike = stems.iter().filter(|other| *other == name).count() > 1;
        let mut candidates = (1..).map(|number| format!("{name}-{number}"));
        let free = |candidate: &String| !names.contains(candidate) && !stems.contains(candidate);
        names.push(if alike { candidates.find(free).unwrap_or_default() } else { name.clone() });
    }
    names
}

/// What is said of files that lie in the folders given as data and are not read; nothing where there is none.
pub fn passed_over<'a>(data: impl IntoIterator<Item = &'a Files>) -> Option<(&'static str, Value)> {
    let paths: Vec<&PathBuf> = data.into_iter().flat_map(|files| files.ignored()).collect();
    (!paths.is_empty()).then(|| ("not read, no data by name", json!(data::files::listed(paths))))
}

/// All training files, and how they are drawn from.
pub struct Mixture {
    /// In the order of the config.
    pub files: Vec<PathBuf>,
    /// Per mix entry: number of files and weight; empty without a mix.
    mix: Vec<(usize, f64)>,
}

impl Mixture {
    /// From `data.train`, or from `[[data.mix]]` where that is given.
    pub fn new(train: &Files, mix: &[Mix]) -> Self {
        if mix.is_empty() {
            return Self { files: train.to_vec(), mix: Vec::new() };
        }
        Self {
            files: mix.iter().flat_map(|source| source.path.iter().cloned()).collect(),
            mix: mix.iter().map(|source| (source.path.len(), source.weight)).collect(),
        }
    }

    /// The order over rows, of which each file gave `file_rows`.
    pub fn order(&self, file_rows: &[usize], seed: u64, shuffle: bool) -> Order {
        if self.mix.is_empty() {
            return Order::new(&[file_rows.iter().sum()], None, seed, shuffle);
        }
        let mut rest = file_rows;
        let lengths: Vec<usize> = self
            .mix
            .iter()
            .map(|(count, _)| {
                let (own, others) = rest.split_at(*count);
                rest = others;
                own.iter().sum()
            })
            .collect();
        let weights: Vec<f64> = self.mix.iter().map(|(_, weight)| *weight).collect();
        Order::new(&lengths, Some(&weights), seed, shuffle)
    }

    /// The key under which the config names the files.
    pub fn key(&self) -> &'static str {
        if self.mix.is_empty() { "data.train" } else { "data.mix" }
    }

    /// What a resume must find unchanged.
    pub fn inputs(&self) -> Vec<Input> {
        if self.mix.is_empty() {
            return vec![Input::new("data.train", self.files.iter().cloned())];
        }
        let entries = self.sources().enumerate();
        entries.map(|(index, files)| Input::new(format!("data.mix[{index}]"), files.iter().cloned())).collect()
    }

    /// What is said of a run's batches: how often it passes over the data (of a mix, over each source), and the rows in the last batch
    /// of an epoch where those are fewer.
    pub fn facts(&self, batches: &Batches) -> Vec<(&'static str, Value)> {
        let passes = match self.mix.is_empty() {
            true => rounded(batches.passes()),
            false => {
                let name = |files: &[PathBuf]| files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
                let of_source = |(files, passes)| (name(files).join(" + "), rounded(passes));
                Value::Object(self.sources().zip(batches.passes_by_source()).map(of_source).collect())
            }
        };
        let short = batches.short_batch().map(|rows| (SHORT_BATCH, json!(rows)));
        std::iter::once(("passes over the data", passes)).chain(short).collect()
    }

    /// The files of each mix entry.
    fn sources(&self) -> impl Iterator<Item = &[PathBuf]> {
        let mut rest = self.files.as_slice();
        self.mix.iter().map(move |(count, _)| {
            let (own, others) = rest.split_at(*count);
            rest = others;
            own
        })
    }
}

/// The files of a model's folder under their key of the config: what a resume must find unchanged.
///
/// # Errors
/// As [`model::read_files`].
pub fn model_input(key: &str, dir: &Path) -> Result<Input> {
    Ok(Input::new(key, model::read_files(dir)?))
}

/// In as many digits as say something: how often a run passes over data.
pub fn rounded(number: f64) -> Value {
    if number.fract() == 0.0 && number < 1e15 {
        return json!(number as u64);
    }
    let digits = (2 - number.log10().floor() as i32).max(1);
    let scale = 10f64.powi(digits);
    json!((number * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_by_stem_and_numbered_where_alike() {
        let names = |files: &[&str]| set_names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["a/held.jsonl.gz", "b/held.json", "other.txt"]), ["held-1", "held-2", "other"]);
        assert_eq!(names(&["eval.v1.jsonl", "eval.v2.jsonl.zst"]), ["eval.v1", "eval.v2"]);
        assert_eq!(names(&["x/a.txt", "y/a.txt", "z/a-1.txt"]), ["a-2", "a-3", "a-1"]);
    }
}

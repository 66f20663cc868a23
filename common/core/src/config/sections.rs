//! Config sections that several stages share. A default that differs by stage is in the stage's `Default`.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, thread};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::documented;
use crate::error::Problems;

/// The dtype of the forward and backward pass; master weights and moments are always fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    Float32,
    /// 16-bit brain floats.
    Bfloat16,
}

documented! {
    /// `[model]`: the checkpoint, and how the model computes.
    pub struct ModelSection {
        /// The checkpoint: a folder in Hugging Face layout. `align pretrain` initialises new weights when the
        /// folder holds `config.json` and a tokenizer, and nothing that looks like weights.
        pub path: PathBuf,
        /// Compute in "float32" or "bfloat16"; master weights, gradients and moments are fp32 either way.
        pub dtype: Dtype,
        /// Save no activations inside layers and recompute them in the backward pass: less memory, about a
        /// third more time.
        pub recompute_layers: bool,
    }
}

impl Default for ModelSection {
    fn default() -> Self {
        Self { path: PathBuf::new(), dtype: Dtype::Float32, recompute_layers: false }
    }
}

impl ModelSection {
    /// Adds the mistakes in this section to `problems`.
    pub fn validate(&self, problems: &mut Problems) {
        checks::required(problems, "model.path", &self.path);
    }
}

documented! {
    /// `[optimizer]`: AdamW.
    pub struct OptimizerSection {
        /// Peak learning rate. Qwen report §3.1.2: 2e-6 (sft), §3.2.1: 3e-6 (rm), §2: 3e-4 (pretraining).
        pub lr: f64,
        /// Decay of the first and the second moment. Qwen report §2, §3.1.2 (pretraining, sft); our choice
        /// for rm.
        pub betas: [f64; 2],
        /// Added to the square root of the second moment. Qwen report §2, §3.1.2 (pretraining, sft); our
        /// choice for rm.
        pub eps: f64,
        /// Decoupled weight decay, on every parameter, norms and biases included (our choice: the report does
        /// not say on which).
        pub weight_decay: f64,
    }
}

impl OptimizerSection {
    /// The report's betas and eps with the stage's own peak learning rate and weight decay.
    pub fn new(lr: f64, weight_decay: f64) -> Self {
        Self { lr, betas: [0.9, 0.95], eps: 1e-8, weight_decay }
    }

    /// Adds the mistakes in this section to `problems`.
    pub fn validate(&self, problems: &mut Problems) {
        checks::at_least_zero(problems, "optimizer.lr", self.lr);
        if self.betas.iter().any(|beta| !(0.0..1.0).contains(beta)) {
            problems.push("optimizer.betas", "both must be at least 0 and below 1");
        }
        checks::above_zero(problems, "optimizer.eps", self.eps);
        checks::at_least_zero(problems, "optimizer.weight_decay", self.weight_decay);
    }
}

/// The dtype of the weights that a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultDtype {
    /// The source's for a language model, float32 for a reward or value model.
    #[default]
    Auto,
    /// The dtype of the source checkpoint.
    Source,
    /// 32-bit floats.
    Float32,
    /// 16-bit brain floats.
    Bfloat16,
    /// 16-bit floats.
    Float16,
}

documented! {
    /// `[run]`: where results go, how often, and in which dtype. Nothing here changes what is trained.
    pub struct RunSection {
        /// The run folder, here or as `--out`: config, metrics, checkpoints and the resulting model.
        pub out: PathBuf,
        /// "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        pub device: String,
        /// Number of compute threads; all cores when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub threads: Option<usize>,
        /// Steps between lines of metrics.jsonl.
        pub log_every: u64,
        /// Steps between evaluations; the last step is always evaluated.
        pub eval_every: u64,
        /// Steps between checkpoints; the last step always has one.
        pub save_every: u64,
        /// How many of the newest checkpoints are kept. In sft, pretrain and rm the one with the lowest
        /// held-out loss is kept as well.
        pub keep: usize,
        /// The dtype of the weights in model/, value/ and checkpoints: "source" (as the checkpoint that was
        /// trained), "float32", "bfloat16" or "float16". "auto" is "source" for language models and "float32"
        /// for reward and value models, whose scores 16 bits would change.
        pub result_dtype: ResultDtype,
    }
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            out: PathBuf::new(),
            device: "auto".to_owned(),
            threads: None,
            log_every: 1,
            eval_every: 100,
            save_every: 500,
            keep: 3,
            result_dtype: ResultDtype::Auto,
        }
    }
}

impl RunSection {
    /// Adds the mistakes in this section to `problems`.
    pub fn validate(&self, problems: &mut Problems) {
        if self.out.as_os_str().is_empty() {
            problems.push("run.out", "is required, here or as --out");
        }
        checks::device(problems, "run.device", &self.device);
        if self.threads == Some(0) {
            problems.push("run.threads", "must be at least 1");
        }
        for (key, every) in
            [("log_every", self.log_every), ("eval_every", self.eval_every), ("save_every", self.save_every)]
        {
            checks::at_least_one(problems, &format!("run.{key}"), every);
        }
        checks::at_least_one(problems, "run.keep", self.keep as u64);
    }

    /// The device that `device` names.
    ///
    /// # Panics
    /// When the section was not validated.
    pub fn device(&self) -> DeviceSpec {
        self.device.parse().expect("validated")
    }

    /// Threads of computation.
    pub fn num_threads(&self) -> usize {
        self.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, |threads| threads.get()))
    }
}

/// A device as a config names it. Parsing does not check that it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The first GPU where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by number.
    Cuda(usize),
}

impl FromStr for DeviceSpec {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or("expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""),
        }
    }
}

/// One path or several: a string or an array of strings in TOML. Each is a file, a folder of files or a
/// pattern.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// Files in the given folders that are no data files and are skipped.
    #[serde(skip)]
    ignored: Vec<PathBuf>,
}

impl Files {
    /// Replaces each path by the result of `found`: the data files, and the files beside them that are
    /// skipped.
    pub fn replace(&mut self, mut found: impl FnMut(&Path) -> (Vec<PathBuf>, Vec<PathBuf>)) {
        for given in std::mem::take(&mut self.paths) {
            let (paths, mut ignored) = found(&given);
            self.paths.extend(paths);
            self.ignored.append(&mut ignored);
        }
    }

    /// Files in the given folders that are no data files and are skipped.
    pub fn ignored(&self) -> &[PathBuf] {
        &self.ignored
    }
}

impl Deref for Files {
    type Target = [PathBuf];

    fn deref(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl<P: Into<PathBuf>> FromIterator<P> for Files {
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect(), ignored: Vec::new() }
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Files;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or an array of paths")
            }

            fn visit_str<E>(self, path: &str) -> Result<Files, E> {
                Ok(Files::from_iter([path]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut paths: A) -> Result<Files, A::Error> {
                let mut files = Files::default();
                while let Some(path) = paths.next_element()? {
                    files.paths.push(path);
                }
                Ok(files)
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

documented! {
    /// One entry of `[[data.mix]]`: a source of rows and its weight.
    pub struct Mix {
        /// A file or several, a folder or a pattern.
        pub path: Files,
        /// The source's share of all rows, relative to the other weights.
        pub weight: f64,
    }
}

/// What happens to a row of more than `data.max_tokens` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The row is skipped and counted.
    #[default]
    Drop,
    /// The row is cut on the right and counted.
    Truncate,
}

/// Checks that many keys share. Each adds a problem in the form that [`super::Config::validate`] describes.
pub mod checks {
    use super::{DeviceSpec, Files, Mix, Path, Problems};

    /// A number that must be above 0.
    pub fn above_zero(problems: &mut Problems, key: &str, value: f64) {
        if !(value > 0.0 && value.is_finite()) {
            problems.push(key, "must be above 0");
        }
    }

    /// A number that must not be negative.
    pub fn at_least_zero(problems: &mut Problems, key: &str, value: f64) {
        if !(value >= 0.0 && value.is_finite()) {
            problems.push(key, "must be at least 0");
        }
    }

    /// A count that must not be 0.
    pub fn at_least_one(problems: &mut Problems, key: &str, value: u64) {
        if value < 1 {
            problems.push(key, "must be at least 1");
        }
    }

    /// A path that has no default.
    pub fn required(problems: &mut Problems, key: &str, path: &Path) {
        if path.as_os_str().is_empty() {
            problems.push(key, "is required");
        }
    }

    /// Files that have no default.
    pub fn required_files(problems: &mut Problems, key: &str, files: &Files) {
        if files.is_empty() {
            problems.push(key, "is required: a file, a folder, a pattern, or an array of them");
        }
    }

    /// Training files, given as `data.train` or as `[[data.mix]]` entries.
    pub fn sources(problems: &mut Problems, train: &Files, mix: &[Mix]) {
        match (train.is_empty(), mix.is_empty()) {
            (true, true) => problems.push(
                "data.train",
                "is required: a file, a folder, a pattern, an array of them, or [[data.mix]] entries",
            ),
            (false, false) => problems.push("data.mix", "is set together with data.train, expected one of the two"),
            _ => {}
        }
        for source in mix {
            if source.path.is_empty() {
                problems.push("data.mix", "every entry needs a path");
            }
            if !(source.weight > 0.0 && source.weight.is_finite()) {
                problems.push("data.mix", "every weight must be above 0");
            }
        }
    }

    /// The name of a device.
    pub fn device(problems: &mut Problems, key: &str, text: &str) {
        if let Err(what) = text.parse::<DeviceSpec>() {
            problems.push(key, what);
        }
    }
}

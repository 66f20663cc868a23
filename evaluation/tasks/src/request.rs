//! What the user asks for, and the defaults of the presets.

use std::path::Path;

use align_core::error::{Error, Result};

use crate::sets;
use crate::task::Task;

/// A task to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// A benchmark, a benchmark and some of its parts (`mmlu/STEM`, `bbh/navigate+snarks`), or the TOML file
    /// of a user's own task.
    pub name: &'a str,
    /// The folder with the benchmarks' files.
    pub data: &'a Path,
    /// The number of worked examples; `None`: as the preset has it.
    pub shots: Option<usize>,
    /// How the model is addressed.
    pub style: Style,
    /// Whose prompts, extractors and averages.
    pub preset: Preset,
}

/// How a model is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Style {
    /// It continues a text.
    Base,
    /// It answers a dialogue.
    Chat,
}

/// Whose prompts, extractors, metrics and averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Those that the report was measured with: Qwen's published scripts, and OpenCompass where there are
    /// none.
    Qwen,
    /// Those of lm-evaluation-harness 0.4.13, byte for byte.
    LmEval,
}

/// Loads a benchmark or a user's own task.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong: files that are missing, rows that are malformed, too few
/// worked examples. A task is complete or an error: nothing is left out of a mean.
pub fn load(request: &Request<'_>) -> Result<Task> {
    if request.name.ends_with(".toml") {
        return sets::own::load(request);
    }
    let (benchmark, parts) = match request.name.split_once('/') {
        Some((benchmark, parts)) => (benchmark, Some(parts)),
        None => (request.name, None),
    };
    if !request.data.is_dir() {
        return Err(Error::invalid(
            format!("--data {}", request.data.display()),
            "is not a folder, expected the folder with the benchmarks' files",
        ));
    }
    match (benchmark, parts) {
        ("mmlu" | "ceval" | "cmmlu", _) => sets::exams::load(benchmark, parts, request),
        ("bbh", _) => sets::bbh::load(parts, request),
        ("gsm8k", None) => sets::gsm8k::load(request),
        ("math", None) => sets::math::load(request),
        ("humaneval", None) => sets::humaneval::load(request),
        ("mbpp", None) => sets::mbpp::load(request),
        ("gsm8k" | "math" | "humaneval" | "mbpp", Some(parts)) => Err(Error::invalid(
            format!("--task {}", request.name),
            format!("{benchmark} has no part `{parts}`, expected {benchmark}"),
        )),
        _ => Err(Error::invalid(
            format!("--task {}", request.name),
            format!("is not a benchmark, expected one of {}, or a TOML file", NAMES.join(", ")),
        )),
    }
}

/// The benchmarks, in the order of the report's tables.
pub const NAMES: [&str; 8] = ["mmlu", "ceval", "cmmlu", "gsm8k", "math", "humaneval", "mbpp", "bbh"];

impl Request<'_> {
    /// The number of worked examples.
    pub(crate) fn num_shots(&self, default: usize) -> usize {
        self.shots.unwrap_or(default)
    }

    /// The number of worked examples of a benchmark that has only so many.
    ///
    /// # Errors
    /// When more are asked for.
    pub(crate) fn num_shots_of(&self, default: usize, available: usize) -> Result<usize> {
        match self.num_shots(default) {
            shots if shots > available => {
                let most = if available == 0 { "0".to_owned() } else { format!("0 to {available}") };
                Err(Error::invalid(
                    format!("--shots {shots}"),
                    format!("{} has {available} worked examples with this preset, expected {most}", self.name),
                ))
            }
            shots => Ok(shots),
        }
    }
}

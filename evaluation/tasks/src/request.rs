//! What the user asks for.

use std::path::Path;

use align_core::error::{Error, Result};

/// A task to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// A benchmark, a benchmark and some of its parts (`mmlu/STEM`, `bbh/navigate+snarks`), or the TOML file
    /// of a user's own task.
    pub name: &'a str,
    /// The folder with the benchmarks' files; a user's own task needs none.
    pub data: Option<&'a Path>,
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

impl Request<'_> {
    /// The folder with the benchmarks' files.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn data(&self) -> Result<&Path> {
        let expected = "expected the folder with the benchmarks' files";
        let Some(data) = self.data else {
            return Err(Error::invalid("--data", format!("is missing, {expected} for --task {}", self.name)));
        };
        if !data.is_dir() {
            return Err(Error::invalid(format!("--data {}", data.display()), format!("is not a folder, {expected}")));
        }
        Ok(data)
    }

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

//! The arguments of `align eval tasks`.

use std::path::PathBuf;

use align_tasks::{Preset, Style};
use clap::{Args, ValueEnum};

use super::ComputeDtype;

#[derive(Debug, Args)]
pub(crate) struct EvalTasksArgs {
    /// Language model folder, a row of the table each; two are also compared on the same questions
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) model: Vec<PathBuf>,
    /// Benchmarks: mmlu, ceval, cmmlu, gsm8k, math, humaneval, mbpp, bbh, or a task of your own (TOML file)
    #[arg(long, value_name = "NAME", required = true, value_delimiter = ',')]
    pub(crate) task: Vec<String>,
    /// Folder with the benchmarks' files as they are published; see docs/tasks.md. A task of your own names
    /// its files itself
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Worked examples before each question: one number for all tasks or one for each; by default the
    /// preset's
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(crate) shots: Vec<usize>,
    /// Ask in dialogues, in the model's chat format
    #[arg(long, conflicts_with = "base")]
    pub(crate) chat: bool,
    /// Let the model continue texts (the default)
    #[arg(long)]
    pub(crate) base: bool,
    /// Whose prompts, extractors and averages: those of the Qwen report, or of lm-evaluation-harness
    #[arg(long, value_name = "NAME", default_value = "qwen")]
    pub(crate) preset: PresetName,
    /// Only the first questions of each subject
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// System text of dialogues; by default "You are a helpful assistant.", with --preset lm-eval the chat
    /// template's
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Answers to each question, for pass@k
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) samples: usize,
    /// Softmax temperature of answers; 0 takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f64,
    /// Sample from the smallest set of tokens with this total probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Maximum length of an answer in tokens; by default the task's
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Tokens that a model reads at most; longer prompts lose their beginning; by default the model's
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// The compute dtype
    #[arg(long, value_name = "DTYPE", default_value = "float32")]
    pub(crate) dtype: ComputeDtype,
    /// Keep answers, records and results in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Continue the evaluation in --out
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a page to this file, one HTML file that needs no network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// How programs that models write are executed.
#[derive(Debug, Args)]
pub(crate) struct ExecutionArgs {
    /// The Python interpreter of programs; by default python3
    #[arg(long, value_name = "FILE")]
    pub(crate) python: Option<PathBuf>,
    /// Execute programs with limits alone, where this system has no sandbox: they can read and delete your
    /// files
    #[arg(long)]
    pub(crate) unsafe_execution: bool,
}

/// As in `--preset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PresetName {
    Qwen,
    LmEval,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Qwen => Self::Qwen,
            PresetName::LmEval => Self::LmEval,
        }
    }
}

impl EvalTasksArgs {
    pub(crate) fn style(&self) -> Style {
        if self.chat { Style::Chat } else { Style::Base }
    }
}

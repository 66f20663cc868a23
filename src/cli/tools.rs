//! The arguments of `align tools` and of the evaluations with tools.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ExecutionArgs, SamplingArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum Tools {
    /// A dialogue in the terminal with a model that calls tools: Python in a sandbox, programs of your own
    Run(ToolsRunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ToolsRunArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Programs that the model may call, besides Python (TOML; see docs/tools.md). They run with your rights
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// Without Python: only the programs of --tools
    #[arg(long, requires = "tools")]
    pub(crate) no_python: bool,
    /// Folder for the figures that Python draws
    #[arg(long, value_name = "DIR", default_value = "figures")]
    pub(crate) figures: PathBuf,
    /// Most calls for one answer
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) max_calls: usize,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalToolsArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Rows whose questions need a tool: `prompt` and the right `response` (JSON Lines)
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) positive: Vec<PathBuf>,
    /// Rows whose questions need none
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) negative: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) common: ToolEvaluationArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalCodeArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Rows: those of the code interpreter's benchmark, or questions with worked answers as in GSM8K
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) data: Vec<PathBuf>,
    /// Folder of the files that the rows name; by default that of the first --data
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
    /// Folder for the figures, which a person looks at
    #[arg(long, value_name = "DIR", default_value = "figures")]
    pub(crate) figures: PathBuf,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
    #[command(flatten)]
    pub(crate) common: ToolEvaluationArgs,
}

/// What both evaluations with tools take.
#[derive(Debug, Args)]
pub(crate) struct ToolEvaluationArgs {
    /// System text for dialogues without one; "" inserts none, "template" the chat template's
    #[arg(long, value_name = "TEXT", default_value = align_text::chatml::SYSTEM)]
    pub(crate) system: String,
    /// Only the first rows
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Maximum length of a text that the model writes, in tokens
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_tokens: usize,
    /// Write one JSON object per row to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) per_row: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

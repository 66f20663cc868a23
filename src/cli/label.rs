//! The arguments of `align label`.

use std::path::PathBuf;

use align_judgments::Ask;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::compare::LabelExportArgs;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, arg_required_else_help = true)]
#[command(group(ArgGroup::new("source").required(true).args(["items", "prompts"])))]
pub(crate) struct LabelArgs {
    #[command(subcommand)]
    pub(crate) command: Option<LabelCommand>,
    #[command(flatten)]
    pub(crate) given: ItemsArgs,
    #[command(flatten)]
    pub(crate) serve: Option<LabelServeArgs>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabelCommand {
    /// Write judgments as comparisons that `align rm` reads
    Export(LabelExportArgs),
}

/// Where the items of a labelling folder come from.
#[derive(Debug, Args)]
pub(crate) struct ItemsArgs {
    /// Items (JSONL): `prompt` with 2 to 9 `responses`, and if known `models`, `category`, `gold`, `id`
    #[arg(long, value_name = "FILE", conflicts_with = "prompts")]
    pub(crate) items: Option<PathBuf>,
    /// Prompts (JSONL), to which --responses respond
    #[arg(long, value_name = "FILE", requires = "responses")]
    pub(crate) prompts: Option<PathBuf>,
    /// A model's name and its responses to --prompts, as `align generate` writes them; once per model
    #[arg(long, value_name = "NAME=FILE", requires = "prompts")]
    pub(crate) responses: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LabelServeArgs {
    /// Folder for items and judgments; the same command continues with one that has some
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What annotators do: rank the responses, score each, or choose the better one of a pair
    #[arg(long, value_name = "WHAT", default_value = "rank")]
    pub(crate) ask: AskFor,
    /// The highest score, from 2 to 10; the lowest is 1
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) scale: u32,
    /// What annotators should look at (Markdown); by default the four criteria of the Qwen report
    #[arg(long, value_name = "FILE")]
    pub(crate) guideline: Option<PathBuf>,
    /// Number of people who judge each item; items with `gold` go to everyone
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) per_item: usize,
    /// Share of an annotator's items that are shown a second time, to measure consistency
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub(crate) repeat: f64,
    /// Address or name, and port, to listen on; port 0 selects a free one. An address that other machines can
    /// reach needs --token-file
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8090")]
    pub(crate) listen: String,
    /// Another name under which browsers reach the page, such as that of a proxy; may be given several times
    #[arg(long, value_name = "NAME[:PORT]")]
    pub(crate) host: Vec<String>,
    /// File with the annotators' token; their link ends in #token=TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the token of the owner's page; by default a new one at every start
    #[arg(long, value_name = "FILE")]
    pub(crate) owner_token_file: Option<PathBuf>,
    /// Seed of the order of items and responses
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// What annotators are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AskFor {
    Rank,
    Score,
    Pair,
}

impl From<AskFor> for Ask {
    fn from(named: AskFor) -> Self {
        match named {
            AskFor::Rank => Self::Rank,
            AskFor::Score => Self::Score,
            AskFor::Pair => Self::Pair,
        }
    }
}

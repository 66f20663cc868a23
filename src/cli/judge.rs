//! The arguments of `align judge`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::ComputeDtype;
use super::label::ItemsArgs;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("judges").required(true).args(["rm", "judge", "endpoint"])))]
pub(crate) struct JudgeArgs {
    /// Labelling folder for the judgments; it may have some by people and other judges. Without --items and
    /// --prompts, its own items are judged
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) given: ItemsArgs,
    /// Judge by a reward model: its folder
    #[arg(long, value_name = "DIR")]
    pub(crate) rm: Option<PathBuf>,
    /// Judge by a chat model, which is asked about pairs in both orders: its folder
    #[arg(long, value_name = "DIR")]
    pub(crate) judge: Option<PathBuf>,
    /// Judge by a model of a service with OpenAI's chat completions: its address, up to /v1
    #[arg(long, value_name = "URL", requires = "model")]
    pub(crate) endpoint: Option<String>,
    /// Rewards that differ by less are a tie; by default only equal ones
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) tie_margin: Option<f64>,
    /// The model's name at --endpoint
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// File with the key of --endpoint, which is sent as `Authorization: Bearer`
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Requests to --endpoint at once; by default 4
    #[arg(long, value_name = "N")]
    pub(crate) parallel: Option<usize>,
    /// Folder in which answers of --endpoint are kept, so that no request is sent twice; by default `cache`
    /// in --out
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Judge under this name, as the annotator `judge:NAME`; by default that of the folder or model
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// System text for dialogues without one ("" inserts none, "template" the chat template's); by default
    /// the reward model's own, for --judge the template's
    #[arg(long, value_name = "TEXT", conflicts_with = "endpoint")]
    pub(crate) system: Option<String>,
    /// The folder of a compared model or its run, by which a judge that is not independent of it is
    /// recognised; once per model
    #[arg(long, value_name = "NAME=DIR", conflicts_with = "endpoint")]
    pub(crate) policy: Vec<String>,
    /// Judge this many items, drawn by --seed; with a higher number the same ones and more
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Seed of the draw of --limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Tokens that the chat model of --judge reads at most; longer items are skipped; by default the model's
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// The compute dtype of a local judge
    #[arg(long, value_name = "DTYPE", default_value = "float32", conflicts_with = "endpoint")]
    pub(crate) dtype: ComputeDtype,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

//! The command-line arguments: clap types only.

pub(crate) mod compare;
pub(crate) mod judge;
pub(crate) mod label;
mod tasks;
mod tools;

use std::path::PathBuf;

use align_core::config::Dtype;
use align_text::chatml::SYSTEM;
use align_train::stage::{ScoreOptions, ScorePosition};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::tasks::{EvalTasksArgs, ExecutionArgs, PresetName};
pub(crate) use self::tools::{EvalCodeArgs, EvalToolsArgs, Tools, ToolsRunArgs};

/// The alignment recipe of the Qwen technical report: SFT, reward model, PPO.
#[derive(Debug, Parser)]
#[command(name = "align", version = crate::version(), about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole recipe on an embedded model and data
    Quickstart(QuickstartArgs),
    /// Train a language model on plain text
    Pretrain(StageArgs),
    /// Supervised finetuning on dialogues in ChatML
    Sft(StageArgs),
    /// Train a reward model on comparisons: preference model pretraining, then finetuning
    Rm(StageArgs),
    /// Train the policy against the reward model
    Ppo(StageArgs),
    /// Print every key of a stage's config with its default and meaning
    Config(ConfigArgs),
    /// Verify every component of a stage on your own checkpoints and data, before any training
    Doctor(DoctorArgs),
    /// Estimate memory by phase and part, the largest microbatch that fits, and the time per step, without
    /// loading a model
    Plan(PlanArgs),
    /// Run every stage for a few steps, and compare its speed with what this machine can reach
    Bench(BenchArgs),
    /// Measure a model on held-out data
    #[command(subcommand)]
    Eval(Eval),
    /// Show a run as one page: curves, samples and warning signs
    Report(ReportArgs),
    /// Repeat the step in which a run reached a non-finite number (NaN or infinity), and show where it first
    /// occurs
    Replay(ReplayArgs),
    /// Score responses with a reward model, and select the best of several
    Score(ScoreArgs),
    /// Compare models by the judgments of people or programs, against a baseline
    Compare(compare::CompareArgs),
    /// Answer requests over HTTP
    #[command(subcommand)]
    Serve(Serve),
    /// Let a reward model, a chat model or a service judge responses, as an annotator beside people
    Judge(judge::JudgeArgs),
    /// Let people rank, score or compare responses on a page
    Label(label::LabelArgs),
    /// Choose rows to train on: drop duplicates, drop rows that overlap an evaluation set, draw a balanced
    /// sample
    #[command(subcommand)]
    Data(Data),
    /// Inspect data, a model or a run: its contents, and whether it is intact
    #[command(subcommand)]
    Inspect(Inspect),
    /// Sample responses to a file of prompts
    Generate(GenerateArgs),
    /// Chat with a model in the terminal
    Chat(ChatArgs),
    /// Models that call tools
    #[command(subcommand)]
    Tools(Tools),
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Folder for the data and the runs; the same command resumes where it was stopped
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    pub(crate) out: PathBuf,
    /// Seed of the data, the model and every stage
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Cuts every stage short, PPO to two steps: for tests, since the results mean nothing
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) steps: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    /// The stage's config (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Override one key, as in `--set train.seed=3`; may be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// The run folder; overrides `run.out`
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Resume from the run folder's newest checkpoint
    #[arg(long)]
    pub(crate) resume: bool,
    /// Check config, data and checkpoint, show what would run, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The stage; with --markdown all of them unless given
    #[arg(value_name = "STAGE", required_unless_present = "markdown")]
    pub(crate) stage: Option<ConfigStage>,
    /// Print Markdown tables, as in docs/config.md, instead of TOML
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// The stages that have a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigStage {
    Pretrain,
    Sft,
    Rm,
    Ppo,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The config (TOML) of sft, rm or ppo
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Override one key, as in `--set train.seed=3`; may be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The config (TOML) of any stage
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Override one key, as in `--set train.microbatch_tokens=8192`; may be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Available memory, in GiB; by default this machine's
    #[arg(long, value_name = "GIB")]
    pub(crate) memory: Option<f64>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Language model folders
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    pub(crate) models: Vec<PathBuf>,
    /// Folder with the files that the jobs need: sft.jsonl, preferences.jsonl and prompts.jsonl
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The jobs to run
    #[arg(long, value_name = "JOB", value_delimiter = ',', default_value = "sft,rm,ppo,generate")]
    pub(crate) jobs: Vec<BenchJob>,
    /// The compute dtypes of the stages; `generate` always uses float32
    #[arg(long, value_name = "DTYPE", value_delimiter = ',', default_value = "float32")]
    pub(crate) dtype: Vec<ComputeDtype>,
    /// Measured steps of a stage, after one or two warm-up steps
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) steps: usize,
    /// Passes of ppo over each rollout
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) ppo_epochs: u64,
    /// Batch sizes of `generate`, in responses
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "8,32")]
    pub(crate) batches: Vec<usize>,
    /// Keep configs and run folders in this new or empty folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// A job of `align bench`: the command of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchJob {
    Sft,
    Rm,
    Ppo,
    Generate,
}

/// The dtypes of a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeDtype {
    Float32,
    Bfloat16,
}

impl From<ComputeDtype> for Dtype {
    fn from(named: ComputeDtype) -> Self {
        match named {
            ComputeDtype::Float32 => Self::Float32,
            ComputeDtype::Bfloat16 => Self::Bfloat16,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Eval {
    /// Pairwise accuracy of one or two reward models
    Rm(EvalRmArgs),
    /// Loss, perplexity and token accuracy of a language model
    Lm(EvalLmArgs),
    /// Benchmarks: choices, answers, programs; zero-shot or with worked examples
    Tasks(EvalTasksArgs),
    /// Choice and arguments of tools in ReAct
    Tools(EvalToolsArgs),
    /// Code that a model writes for an interpreter: how often it runs, and how often it is right
    Code(EvalCodeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EvalData {
    /// Files to evaluate on; a folder is one set, a pattern is one set per match
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) data: Vec<PathBuf>,
    /// The compute dtype; with that of the training, the results equal its last evaluation
    #[arg(long, value_name = "DTYPE", default_value = "float32")]
    pub(crate) dtype: ComputeDtype,
    /// Write one JSON object per row to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) per_row: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a reward model reads dialogues.
#[derive(Debug, Args)]
pub(crate) struct ReadingArgs {
    /// System text for dialogues without one ("" inserts none, "template" the chat template's); by default
    /// the reward model's own
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// The token at which scores are read: `auto` (as in align.json; without one, the last token of the chat
    /// template), `end` (`<|im_end|>`) or `last`
    #[arg(long, value_name = "PLACE", default_value = "auto", value_parser = ["auto", "end", "last"])]
    pub(crate) score_at: String,
}

impl ReadingArgs {
    pub(crate) fn score_options(&self) -> ScoreOptions {
        let position = match self.score_at.as_str() {
            "end" => ScorePosition::End,
            "last" => ScorePosition::Last,
            _ => ScorePosition::Auto,
        };
        ScoreOptions { position, system: self.system.clone() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct EvalRmArgs {
    /// Reward model folder; give it twice to compare (PMP, then RM)
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) model: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    #[command(flatten)]
    pub(crate) data: EvalData,
    /// Write a page with plots to this file, one HTML file that needs no network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EvalLmArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: EvalData,
    /// System text for dialogues without one ("" inserts none, "template" the chat template's); by default
    /// "You are a helpful assistant."
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Inspect {
    /// Show a file's rows as tokens, with role, loss and position, and statistics of the file
    Data(InspectDataArgs),
    /// Show the contents of a checkpoint folder, from its headers
    Model(InspectModelArgs),
    /// Show the progress of a run, its last metrics, and whether its checkpoints are intact
    Run(InspectRunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectDataArgs {
    /// Dialogues, documents, comparisons or prompts: a file, a folder or a pattern
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The model folder whose tokenizer and chat format are used
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Number of rows to show
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) rows: usize,
    /// The first row to show, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) from: u64,
    /// Maximum length of a dialogue in tokens, for the statistics
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(crate) max_tokens: usize,
    /// System text for dialogues without one; "" inserts none, "template" the chat template's
    #[arg(long, value_name = "TEXT", default_value = SYSTEM)]
    pub(crate) system: String,
    /// Which tokens carry loss: `assistant` or `qwen-finetune`
    #[arg(long, value_name = "WHICH", default_value = "assistant", value_parser = ["assistant", "qwen-finetune"])]
    pub(crate) loss_on: String,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectModelArgs {
    /// Model folder
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectRunArgs {
    /// A run folder, of any stage, finished or not
    #[arg(value_name = "DIR")]
    pub(crate) run: PathBuf,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A run folder, of any stage, finished or not
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// The page, one HTML file that needs no network; by default RUN/report.html
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A run folder, of any stage; it is not changed
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// The step, as in records/step-000123; by default the latest record
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u64>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Reward model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Rows of `prompt` with `response` or `responses`, or of `messages`: a file, a folder or a pattern; `-`
    /// is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Scores, one JSON object per row; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Serve {
    /// Scores of a reward model
    Rm(ServeRmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeRmArgs {
    /// Reward model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Address or name, and port, to listen on; port 0 selects a free one. An address that other machines can
    /// reach needs --token-file
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,
    /// File with the token that requests must send as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Maximum size of a request body
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    pub(crate) max_body_bytes: usize,
    /// Maximum length of a dialogue, prompt and response together
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(crate) max_tokens: usize,
    /// Maximum number of connections; more are refused with status 503
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_clients: usize,
    /// Maximum number of waiting requests; more are refused with status 503
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) queue: usize,
    /// Time limit for a request to arrive, and for its answer; idle connections are closed after it
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) timeout_seconds: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Drop rows that are exact or near copies of an earlier one
    Dedup(DataArgs),
    /// Drop rows that share 13 consecutive words with an evaluation set
    Decontaminate(DecontaminateArgs),
    /// Sample rows that are complex and diverse by their tags
    Sample(SampleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Files, folders or patterns to choose rows from, in any format that training reads
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The kept rows, each unchanged (JSON Lines)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Every removed row with the reason, and statistics, as JSON; by default next to --out
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// What to do with bad rows
    #[arg(long, value_name = "error|skip", default_value = "error", value_parser = ["error", "skip"])]
    pub(crate) bad_rows: String,
}

#[derive(Debug, Args)]
pub(crate) struct DecontaminateArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Evaluation files, folders or patterns; every string of their rows counts, whatever its key
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) against: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Number of rows to sample
    #[arg(long, value_name = "N")]
    pub(crate) rows: usize,
}

#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// System text for dialogues without one; "" inserts none, "template" the chat template's
    #[arg(long, value_name = "TEXT", default_value = SYSTEM)]
    pub(crate) system: String,
    /// Softmax temperature; 0 takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub(crate) temperature: f64,
    /// Sample from the smallest set of tokens with this total probability
    #[arg(long, value_name = "P", default_value_t = 0.9)]
    pub(crate) top_p: f64,
    /// Maximum length of a response, in tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) max_tokens: usize,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Prompts (JSONL with `prompt`): a file, a folder or a pattern
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// Responses, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Responses per prompt
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) n: usize,
    /// Print the number of sampled tokens, time and memory as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

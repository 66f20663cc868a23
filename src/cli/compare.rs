//! Arguments of `align compare` and `align label export`.

use std::path::PathBuf;

use align_judgments::Annotators;
use clap::{Args, ValueEnum};

/// Whose judgments count.
#[derive(Debug, Args)]
pub(crate) struct AnnotatorArgs {
    /// Count the judgments of programs (annotators `judge:NAME`) instead of people's
    #[arg(long)]
    judges: bool,
    /// Count the judgments of this annotator alone, a person or a program; once per annotator
    #[arg(long, value_name = "NAME", conflicts_with = "judges")]
    annotator: Vec<String>,
}

impl AnnotatorArgs {
    pub(crate) fn get(&self) -> Annotators {
        match (self.judges, &self.annotator[..]) {
            (true, _) => Annotators::Programs,
            (false, []) => Annotators::People,
            (false, names) => Annotators::Named(names.iter().cloned().collect()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Labelling folder, with items.jsonl and judgments.jsonl
    #[arg(value_name = "DIR")]
    pub(crate) labels: PathBuf,
    /// The model that the others are compared with, as named in the items
    #[arg(long, value_name = "NAME")]
    pub(crate) baseline: String,
    /// Count one verdict per item, by the median ranks, instead of each judgment
    #[arg(long)]
    pub(crate) majority: bool,
    #[command(flatten)]
    pub(crate) annotators: AnnotatorArgs,
    /// Fit an advantage of the response shown first with the ratings
    #[arg(long)]
    pub(crate) order_effect: bool,
    /// Seed of the bootstrap and of permutations
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print only the wins, ties and losses against the baseline, and the findings
    #[arg(long)]
    pub(crate) short: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a page to this file, one HTML file that needs no network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the stacked bars of wins, ties and losses to this file (.svg or .png); may be given several
    /// times
    #[arg(long, value_name = "FILE")]
    pub(crate) figure: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LabelExportArgs {
    /// Labelling folder, with items.jsonl and judgments.jsonl
    #[arg(value_name = "DIR")]
    pub(crate) labels: PathBuf,
    /// Rows of `responses` with everyone's `scores`, or of `chosen` and `rejected`
    #[arg(long = "as", value_name = "SHAPE", default_value = "lists")]
    pub(crate) shape: ExportShape,
    /// Comparisons, one JSON object per line, as `align rm` reads them
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// For pairs: leave out those that fewer annotators agree on; by default 1
    #[arg(long, value_name = "N")]
    pub(crate) min_agree: Option<usize>,
    /// For pairs: leave out those whose mean scores differ by less; by default 0
    #[arg(long, value_name = "GAP")]
    pub(crate) min_gap: Option<f64>,
    /// Standardise the scores of each annotator
    #[arg(long)]
    pub(crate) z_score: bool,
    #[command(flatten)]
    pub(crate) annotators: AnnotatorArgs,
    /// Print the counts as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// The shape of exported rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportShape {
    Lists,
    Pairs,
}

//! The config of `align rm`. Defaults of shared sections are in `align_core`.

use align_core::config::{
    Config, KeyDocs, ModelSection, OptimizerSection, RunSection, ScheduleKind, ScheduleSection, checks,
};
use align_core::config::{Files, Mix, Overlong};
use align_core::documented;
use align_core::error::Problems;
use align_data::{BadRows, Batches, Length, Order};
use align_text::chatml::SYSTEM;
use align_train::stage::find_sources;
use serde::{Deserialize, Serialize};

/// The two stages of a reward model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Preference model pretraining: a large set of comparisons.
    Pmp,
    /// Finetuning on a smaller, better-labelled set.
    Finetune,
}

impl Stage {
    /// The value of the config's `stage`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Pmp => "pmp",
            Stage::Finetune => "finetune",
        }
    }
}

documented! {
    /// `[data]` of rm: comparisons.
    pub struct RmData {
        /// Comparisons to train on (JSONL, a JSON array, CSV, TSV, also .gz and .zst; Parquet): files,
        /// folders or patterns.
        pub train: Files,
        /// Weighted sources instead of `train`: `[[data.mix]]` entries of `path` and `weight`. Rows are drawn
        /// in proportion to the weights; an epoch has as many rows as all files together.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub mix: Vec<Mix>,
        /// Held-out comparisons; each file is measured separately, a folder as one set.
        pub eval: Files,
        /// Longest dialogue, in tokens; a comparison with a longer one is left out and counted. Qwen report
        /// §3.2.1.
        pub max_tokens: usize,
        /// Only "drop": a truncated dialogue would lose the end token at which it is scored.
        pub overlong: Overlong,
        /// System text for a dialogue that has none. "" inserts none; "template" inserts what the
        /// checkpoint's chat template would.
        pub system: String,
        /// Shuffle the rows; false takes them in file order, batch by batch.
        pub shuffle: bool,
        /// Bad rows: "error" names them and refuses the data; "skip" leaves them out, counted and named.
        pub bad_rows: BadRows,
    }
}

documented! {
    /// `[train]`: batches and steps.
    pub struct TrainSection {
        /// Comparisons per optimizer step; a ranked list is one. Qwen report §3.2.1.
        pub batch_size: usize,
        /// Maximum tokens computed at once; a longer comparison is computed alone. Changes memory use, not
        /// results. Our choice.
        pub microbatch_tokens: usize,
        /// Optimizer steps, instead of `epochs`: whole batches, which continue from one pass over the data
        /// into the next.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub steps: Option<u64>,
        /// Passes over the data, this or `steps`: each visits every row once, and its last batch holds the
        /// remaining rows. Qwen report §3.2.1: 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub epochs: Option<u64>,
        /// The gradient norm is clipped to this. Our choice: as in sft.
        pub grad_clip: f64,
        /// Seed of row order and of a new reward head.
        pub seed: u64,
    }
}

impl TrainSection {
    /// The batches of a run over comparisons in this order.
    pub fn batches(&self, order: Order) -> Batches {
        Batches::new(order, self.batch_size, Length::new(self.steps, self.epochs))
    }
}

documented! {
    /// `[loss]`: additions to the Bradley-Terry loss. The report has none of them.
    pub struct LossSection {
        /// Subtract a row's `margin`, or the difference of the data's scores, from chosen − rejected.
        pub margin: bool,
        /// Weight of the language-model loss on the chosen answer (PMP, arXiv 2204.05862).
        pub lm_coef: f64,
        /// Weight of (chosen + rejected)², which keeps scores near 0.
        pub center_coef: f64,
        /// Label smoothing ε in [0, 0.5): −(1 − ε)·ln σ(x) − ε·ln σ(−x).
        pub label_smoothing: f64,
    }
}

const STAGE_DOC: &str = " \"pmp\" (preference model pretraining) or \"finetune\".\n \
    Either starts from a language model (new head) or a reward model (head kept).\n";

/// The config of `align rm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "sections document themselves")]
pub struct RmConfig {
    /// "pmp" or "finetune"; required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    pub model: ModelSection,
    pub data: RmData,
    pub train: TrainSection,
    pub optimizer: OptimizerSection,
    pub schedule: ScheduleSection,
    pub loss: LossSection,
    pub run: RunSection,
}

impl Default for RmConfig {
    fn default() -> Self {
        Self {
            stage: None,
            model: ModelSection::default(),
            data: RmData {
                train: Files::default(),
                mix: Vec::new(),
                eval: Files::default(),
                max_tokens: 2048,
                overlong: Overlong::Drop,
                system: SYSTEM.to_owned(),
                shuffle: true,
                bad_rows: BadRows::Error,
            },
            train: TrainSection {
                batch_size: 64,
                microbatch_tokens: 8192,
                steps: None,
                epochs: Some(1),
                grad_clip: 1.0,
                seed: 0,
            },
            optimizer: OptimizerSection::new(3e-6, 0.0),
            schedule: ScheduleSection::new(ScheduleKind::Constant, 0),
            loss: LossSection { margin: false, lm_coef: 0.0, center_coef: 0.0, label_smoothing: 0.0 },
            run: RunSection::default(),
        }
    }
}

impl Config for RmConfig {
    const EITHER: &'static [(&'static str, &'static str)] = &[("train.steps", "train.epochs"), ScheduleSection::EITHER];

    fn docs() -> Vec<(&'static str, KeyDocs)> {
        vec![
            ("", &[("stage", STAGE_DOC)]),
            ("model", ModelSection::DOCS),
            ("data", RmData::DOCS),
            ("train", TrainSection::DOCS),
            ("optimizer", OptimizerSection::DOCS),
            ("schedule", ScheduleSection::DOCS),
            ("loss", LossSection::DOCS),
            ("run", RunSection::DOCS),
        ]
    }

    fn find_files(&mut self) {
        find_sources(&mut self.data.train, &mut self.data.mix, &mut self.data.eval);
    }

    fn validate(&self, problems: &mut Problems) {
        if self.stage.is_none() {
            problems.push("stage", "is required: \"pmp\" or \"finetune\"");
        }
        self.model.validate(problems);
        checks::sources(problems, &self.data.train, &self.data.mix);
        checks::at_least_one(problems, "data.max_tokens", self.data.max_tokens as u64);
        if self.data.overlong == Overlong::Truncate {
            problems.push("data.overlong", "would cut off the end token that is scored, expected \"drop\"");
        }
        checks::at_least_one(problems, "train.batch_size", self.train.batch_size as u64);
        checks::at_least_one(problems, "train.microbatch_tokens", self.train.microbatch_tokens as u64);
        for (key, number) in [("train.steps", self.train.steps), ("train.epochs", self.train.epochs)] {
            checks::at_least_one(problems, key, number.unwrap_or(1));
        }
        checks::above_zero(problems, "train.grad_clip", self.train.grad_clip);
        self.optimizer.validate(problems);
        self.schedule.validate(problems);
        checks::at_least_zero(problems, "loss.lm_coef", self.loss.lm_coef);
        checks::at_least_zero(problems, "loss.center_coef", self.loss.center_coef);
        if !(0.0..0.5).contains(&self.loss.label_smoothing) {
            problems.push("loss.label_smoothing", "must be at least 0 and below 0.5");
        }
        self.run.validate(problems);
    }
}

//! The configs of `align sft` and `align pretrain`. Defaults of shared sections are in `align_core`.

use align_core::config::{
    Config, KeyDocs, ModelSection, OptimizerSection, RunSection, ScheduleKind, ScheduleSection, checks,
};
use align_core::config::{Files, Mix, Overlong};
use align_core::documented;
use align_core::error::Problems;
use align_data::{BadRows, Batches, Length, Order};
use align_text::chatml::{LossOn, SYSTEM};
use align_train::stage::find_sources;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

documented! {
    /// `[train]`: batches and steps.
    pub struct TrainSection {
        /// Rows per optimizer step: dialogues (sft), or rows of `data.max_tokens` tokens (pretrain). Qwen
        /// report §3.1.2: 128 (sft); our choice for pretraining.
        pub batch_size: usize,
        /// Maximum tokens computed at once; a longer row is computed alone. Changes memory use, not results.
        /// Our choice.
        pub microbatch_tokens: usize,
        /// Optimizer steps, this or `epochs`: whole batches, which continue from one pass over the data into
        /// the next. Qwen report §3.1.2: 4000 (sft).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub steps: Option<u64>,
        /// Passes over the data, instead of `steps`: each visits every row once, and its last batch holds the
        /// remaining rows.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub epochs: Option<u64>,
        /// Dropout of embeddings, attention probabilities and both residual outputs. Qwen report §3.1.2: 0.1
        /// (sft).
        pub dropout: f64,
        /// The gradient norm is clipped to this. Qwen report §3.1.2 (sft); our choice for pretraining.
        pub grad_clip: f64,
        /// Seed of row order, dropout and new weights.
        pub seed: u64,
    }
}

impl TrainSection {
    /// The batches of a run over rows in this order.
    pub fn batches(&self, order: Order) -> Batches {
        Batches::new(order, self.batch_size, Length::new(self.steps, self.epochs))
    }

    fn validate(&self, problems: &mut Problems) {
        checks::at_least_one(problems, "train.batch_size", self.batch_size as u64);
        checks::at_least_one(problems, "train.microbatch_tokens", self.microbatch_tokens as u64);
        if self.steps == Some(0) || self.epochs == Some(0) {
            problems.push(if self.steps == Some(0) { "train.steps" } else { "train.epochs" }, "must be at least 1");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push("train.dropout", "must be at least 0 and below 1");
        }
        checks::above_zero(problems, "train.grad_clip", self.grad_clip);
    }
}

documented! {
    /// `[data]` of sft: dialogues.
    pub struct SftData {
        /// Dialogues to train on (JSONL, a JSON array, CSV, TSV, also .gz and .zst; Parquet): files, folders
        /// or patterns.
        pub train: Files,
        /// Weighted sources instead of `train`: `[[data.mix]]` entries of `path` and `weight`. Rows are drawn
        /// in proportion to the weights; an epoch has as many rows as all files together.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub mix: Vec<Mix>,
        /// Held-out dialogues; each file is measured separately, a folder as one set.
        pub eval: Files,
        /// Longest dialogue, in tokens. Qwen report §3.1.2.
        pub max_tokens: usize,
        /// System text for a dialogue that has none. "" inserts none; "template" inserts what the
        /// checkpoint's chat template would.
        pub system: String,
        /// Which tokens have loss: "assistant" (the answers and their end tokens; Qwen report §3.1.2) or
        /// "qwen-finetune" (also the structure of every turn, as in Qwen's published finetune.py).
        pub loss_on: LossOn,
        /// Shuffle the rows; false takes them in file order, batch by batch.
        pub shuffle: bool,
        /// Dialogues longer than `max_tokens`: "drop", or "truncate" on the right; counted either way.
        pub overlong: Overlong,
        /// Bad rows: "error" names them and refuses the data; "skip" leaves them out, counted and named.
        pub bad_rows: BadRows,
        /// Where tokenized data is cached between runs: a folder, "off", or "auto" (`$XDG_CACHE_HOME/align`,
        /// else `~/.cache/align`, for files of at least 32 MB, compressed 1.6 MB). Entries unused for a
        /// month are removed.
        pub cache: String,
    }
}

documented! {
    /// `[data]` of pretraining: plain text.
    pub struct PretrainData {
        /// Documents to train on: {"text"} rows (JSONL, a JSON array, CSV, TSV, also .gz and .zst; Parquet)
        /// or .txt files, each one document: files, folders or patterns.
        pub train: Files,
        /// Weighted sources instead of `train`: `[[data.mix]]` entries of `path` and `weight`. Rows are drawn
        /// in proportion to the weights; an epoch has as many rows as all files together.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub mix: Vec<Mix>,
        /// Held-out documents; each file is measured separately, a folder as one set.
        pub eval: Files,
        /// Documents are packed into rows of this many tokens; each document attends to itself only. Qwen
        /// report §2.4.
        pub max_tokens: usize,
        /// Shuffle documents before they are packed, and rows; false keeps the order of the files.
        pub shuffle: bool,
        /// Documents longer than a row: "drop", or "truncate" on the right; counted either way. When absent,
        /// they continue in the next row.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub overlong: Option<Overlong>,
        /// Bad rows: "error" names them and refuses the data; "skip" leaves them out, counted and named.
        pub bad_rows: BadRows,
        /// Where tokenized data is cached between runs: a folder, "off", or "auto" (`$XDG_CACHE_HOME/align`,
        /// else `~/.cache/align`, for files of at least 32 MB, compressed 1.6 MB). Entries unused for a
        /// month are removed.
        pub cache: String,
    }
}

/// The `[data]` section of a stage: the keys that all kinds of data have.
pub trait DataSection: std::fmt::Debug + Clone + PartialEq + Serialize + DeserializeOwned {
    /// The keys with their documentation.
    const KEYS: KeyDocs;

    /// `train`, `mix` and `eval`.
    fn sources(&self) -> (&Files, &[Mix], &Files);

    /// `train`, `mix` and `eval`, to be resolved to files.
    fn sources_mut(&mut self) -> (&mut Files, &mut [Mix], &mut Files);

    /// `max_tokens`.
    fn max_tokens(&self) -> usize;

    /// `cache`.
    fn cache(&self) -> &str;
}

macro_rules! data_section {
    ($($section:ty),*) => { $(impl DataSection for $section {
        const KEYS: KeyDocs = Self::DOCS;

        fn sources(&self) -> (&Files, &[Mix], &Files) {
            (&self.train, &self.mix, &self.eval)
        }

        fn sources_mut(&mut self) -> (&mut Files, &mut [Mix], &mut Files) {
            (&mut self.train, &mut self.mix, &mut self.eval)
        }

        fn max_tokens(&self) -> usize {
            self.max_tokens
        }

        fn cache(&self) -> &str {
            &self.cache
        }
    })* };
}
data_section!(SftData, PretrainData);

/// The config of a stage that trains a language model: `align sft` and `align pretrain` differ in their data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "sections document themselves")]
pub struct LmConfig<D> {
    pub model: ModelSection,
    pub data: D,
    pub train: TrainSection,
    pub optimizer: OptimizerSection,
    pub schedule: ScheduleSection,
    pub run: RunSection,
}

/// The config of `align sft`.
pub type SftConfig = LmConfig<SftData>;

/// The config of `align pretrain`.
pub type PretrainConfig = LmConfig<PretrainData>;

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            data: SftData {
                train: Files::default(),
                mix: Vec::new(),
                eval: Files::default(),
                max_tokens: 2048,
                system: SYSTEM.to_owned(),
                loss_on: LossOn::Assistant,
                shuffle: true,
                overlong: Overlong::Drop,
                bad_rows: BadRows::Error,
                cache: "auto".to_owned(),
            },
            train: TrainSection {
                batch_size: 128,
                microbatch_tokens: 8192,
                steps: Some(4000),
                epochs: None,
                dropout: 0.1,
                grad_clip: 1.0,
                seed: 0,
            },
            optimizer: OptimizerSection::new(2e-6, 0.1),
            schedule: ScheduleSection::new(ScheduleKind::Constant, 1430),
            run: RunSection::default(),
        }
    }
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            data: PretrainData {
                train: Files::default(),
                mix: Vec::new(),
                eval: Files::default(),
                max_tokens: 2048,
                shuffle: true,
                overlong: None,
                bad_rows: BadRows::Error,
                cache: "auto".to_owned(),
            },
            train: TrainSection {
                batch_size: 128,
                microbatch_tokens: 8192,
                steps: None,
                epochs: Some(1),
                dropout: 0.0,
                grad_clip: 1.0,
                seed: 0,
            },
            optimizer: OptimizerSection::new(3e-4, 0.1),
            schedule: ScheduleSection::new(ScheduleKind::Cosine, 0),
            run: RunSection::default(),
        }
    }
}

impl<D: DataSection> Config for LmConfig<D>
where
    Self: Default,
{
    const EITHER: &'static [(&'static str, &'static str)] = &[("train.steps", "train.epochs"), ScheduleSection::EITHER];

    fn docs() -> Vec<(&'static str, KeyDocs)> {
        vec![
            ("model", ModelSection::DOCS),
            ("data", D::KEYS),
            ("train", TrainSection::DOCS),
            ("optimizer", OptimizerSection::DOCS),
            ("schedule", ScheduleSection::DOCS),
            ("run", RunSection::DOCS),
        ]
    }

    fn find_files(&mut self) {
        let (train, mix, eval) = self.data.sources_mut();
        find_sources(train, mix, eval);
    }

    fn validate(&self, problems: &mut Problems) {
        let (train, mix, _) = self.data.sources();
        self.model.validate(problems);
        checks::sources(problems, train, mix);
        if self.data.max_tokens() < 2 {
            problems.push("data.max_tokens", "must be at least 2: one input token, one target");
        }
        if self.data.cache().is_empty() {
            problems.push("data.cache", "must be \"auto\", \"off\" or a folder");
        }
        self.train.validate(problems);
        self.optimizer.validate(problems);
        self.schedule.validate(problems);
        self.run.validate(problems);
    }
}

/// The sections that the training loop reads.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "sections document themselves")]
pub struct Sections {
    pub model: ModelSection,
    pub train: TrainSection,
    pub optimizer: OptimizerSection,
    pub schedule: ScheduleSection,
    pub run: RunSection,
}

impl Sections {
    /// The sections of a config.
    pub fn new<D>(config: &LmConfig<D>) -> Self {
        Self {
            model: config.model.clone(),
            train: config.train.clone(),
            optimizer: config.optimizer.clone(),
            schedule: config.schedule.clone(),
            run: config.run.clone(),
        }
    }
}

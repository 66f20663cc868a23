//! The settings of an examination.

use std::path::PathBuf;

use align_text::chatml::ChatFormat;

use crate::rewards::{MissingEnd, Normalize};
use crate::rollout::Reading;

/// The settings and data of the examination.
pub(super) struct Setup {
    pub(super) prompts: Vec<Vec<i64>>,
    pub(super) max_tokens: usize,
    pub(super) seed: u64,
    pub(super) temperature: f64,
    /// Whether log-probabilities are renormalised over the recorded nucleus.
    pub(super) nucleus: bool,
    pub(super) missing_end: (MissingEnd, f64),
    pub(super) normalize: Normalize,
    /// Whether the value model is initialised from the reward model.
    pub(super) shares_value: bool,
    /// Whether policy and reference compute in one dtype.
    pub(super) same_dtype: bool,
    /// The tolerance of log-probabilities of different batch shapes.
    pub(super) tolerance: f64,
    pub(super) end_id: i64,
    /// How the reward model reads responses.
    pub(super) reading: Reading,
    /// What is assumed about reward models without align.json, by config key.
    pub(super) assumed: Vec<(&'static str, String)>,
    pub(super) pad_id: i64,
    pub(super) format: ChatFormat,
    /// The folder of the policy, with its chat template.
    pub(super) folder: PathBuf,
}

//! `[schedule]`, shared by pretraining, sft and rm.

use serde::{Deserialize, Serialize};

use crate::documented;
use crate::error::Problems;

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays at the peak.
    Constant,
    /// Falls in a straight line.
    Linear,
    /// Falls along half a cosine.
    Cosine,
}

documented! {
    /// `[schedule]`: the learning rate over the steps.
    pub struct ScheduleSection {
        /// After the warm-up: "constant", "linear" or "cosine".
        pub kind: ScheduleKind,
        /// Steps in which the rate rises from 0 to the peak: lr·(s+1)/warmup_steps at step s = 0, 1, …
        pub warmup_steps: u64,
        /// The final rate of "linear" and "cosine", as a fraction of the peak. Qwen report §2.4
        /// (pretraining).
        pub min_lr_ratio: f64,
    }
}

impl ScheduleSection {
    /// A schedule whose decaying kinds end at a tenth of the peak.
    pub fn new(kind: ScheduleKind, warmup_steps: u64) -> Self {
        Self { kind, warmup_steps, min_lr_ratio: 0.1 }
    }

    /// Adds the mistakes in this section to `problems`.
    pub fn validate(&self, problems: &mut Problems) {
        if !(0.0..=1.0).contains(&self.min_lr_ratio) {
            problems.push("schedule.min_lr_ratio", "must be from 0 to 1");
        }
    }
}

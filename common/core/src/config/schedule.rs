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

/// The learning rate during the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WarmupKind {
    /// Rises in a straight line.
    #[default]
    Linear,
    /// Rises along half a cosine.
    Cosine,
}

documented! {
    /// `[schedule]`: the learning rate over the steps.
    pub struct ScheduleSection {
        /// After the warm-up: "constant", "linear" or "cosine".
        pub kind: ScheduleKind,
        /// Steps of the warm-up, this or `warmup_ratio`. Qwen report §3.1.2: 1430 (sft).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub warmup_steps: Option<u64>,
        /// The warm-up as a fraction of the run's steps (those of `train.epochs`, too), instead of
        /// `warmup_steps`; a fraction of a step counts as a step. Qwen report §4.1, §4.2: 0.03 (Code-Qwen).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub warmup_ratio: Option<f64>,
        /// How the rate rises from 0 to the peak in a warm-up of w steps, at step s = 0, 1, …: "linear",
        /// lr·(s+1)/w, or "cosine", lr·(1 − cos(π·(s+1)/w))/2. Qwen report §4.2: a cosine (Code-Qwen-Chat).
        pub warmup_kind: WarmupKind,
        /// The final rate of "linear" and "cosine", as a fraction of the peak. Qwen report §2.4
        /// (pretraining).
        pub min_lr_ratio: f64,
    }
}

impl ScheduleSection {
    /// The keys of which a config has one, for `Config::EITHER`.
    pub const EITHER: (&'static str, &'static str) = ("schedule.warmup_steps", "schedule.warmup_ratio");

    /// A schedule with a linear warm-up, whose decaying kinds end at a tenth of the peak.
    pub fn new(kind: ScheduleKind, warmup_steps: u64) -> Self {
        let (warmup_steps, warmup_kind) = (Some(warmup_steps), WarmupKind::Linear);
        Self { kind, warmup_steps, warmup_ratio: None, warmup_kind, min_lr_ratio: 0.1 }
    }

    /// Starts at the peak.
    pub fn remove_warmup(&mut self) {
        (self.warmup_steps, self.warmup_ratio) = (Some(0), None);
    }

    /// Adds the mistakes in this section to `problems`.
    pub fn validate(&self, problems: &mut Problems) {
        for (key, fraction) in [("warmup_ratio", self.warmup_ratio), ("min_lr_ratio", Some(self.min_lr_ratio))] {
            if fraction.is_some_and(|fraction| !(0.0..=1.0).contains(&fraction)) {
                problems.push(format!("schedule.{key}"), "must be from 0 to 1");
            }
        }
    }
}

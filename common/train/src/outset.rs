//! What is said of a run before its first step, by a run and its `--dry-run`, by `plan` and by `doctor`.

use align_core::progress::Progress;

/// What a run begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outset {
    /// What the models are before it.
    pub starts_from: String,
    /// What does not fit together.
    pub warnings: Vec<String>,
}

impl Outset {
    /// The warnings as lines.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.warnings.iter().map(|warning| format!("warning: {warning}"))
    }

    /// Shows the warnings, apart from what stands before them.
    pub(crate) fn warn(&self, progress: &mut dyn Progress) {
        if !self.warnings.is_empty() {
            progress.note("");
        }
        self.lines().for_each(|line| progress.note(&line));
    }
}

//! What is reported of a run before its first step, by the run and its `--dry-run`, by `plan` and by
//! `doctor`.

use align_core::progress::Progress;

/// The initial models of a run and the warnings about its config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outset {
    /// The initial models.
    pub starts_from: String,
    /// Settings that do not fit each other or the data.
    pub warnings: Vec<String>,
}

impl Outset {
    /// The warnings as lines.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.warnings.iter().map(|warning| format!("warning: {warning}"))
    }

    /// Shows the warnings after an empty line.
    pub(crate) fn warn(&self, progress: &mut dyn Progress) {
        if !self.warnings.is_empty() {
            progress.note("");
        }
        self.lines().for_each(|line| progress.note(&line));
    }
}

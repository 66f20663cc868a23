//! How long-running work reports its progress. Libraries print nothing: they call a [`Progress`], and the
//! binary draws it.

/// Receives the progress of long-running work.
pub trait Progress {
    /// Work of `total` units starts; 0 means that the total is not known.
    fn begin(&mut self, what: &str, total: u64);
    /// Work of `total` bytes starts.
    fn begin_bytes(&mut self, what: &str, total: u64) {
        self.begin(what, total);
    }
    /// `n` more units are done; `note` is a few words on the latest, such as the loss.
    fn advance(&mut self, n: u64, note: &str);
    /// The work that began last has ended.
    fn end(&mut self);
    /// Prints a line that stays on the screen: a warning or an intermediate result.
    fn note(&mut self, line: &str);
}

/// Ignores progress; for tests and for `--json`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _n: u64, _note: &str) {}
    fn end(&mut self) {}
    fn note(&mut self, _line: &str) {}
}

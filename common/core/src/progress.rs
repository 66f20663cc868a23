//! How long-running work tells where it is. Libraries print nothing: they call a [`Progress`], and the binary draws it.

/// A listener to long-running work.
pub trait Progress {
    /// Work of `total` units starts; `total` 0 means that the end is not known.
    fn begin(&mut self, what: &str, total: u64);
    /// Work of `total` bytes starts.
    fn begin_bytes(&mut self, what: &str, total: u64) {
        self.begin(what, total);
    }
    /// `n` more units are done; `note` is a few words on the latest, such as the loss.
    fn advance(&mut self, n: u64, note: &str);
    /// The work that began last has ended.
    fn end(&mut self);
    /// A line that stays: something unusual, or a result on the way.
    fn note(&mut self, line: &str);
}

/// Listens to nothing; for tests and for `--json`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _n: u64, _note: &str) {}
    fn end(&mut self) {}
    fn note(&mut self, _line: &str) {}
}

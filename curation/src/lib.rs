//! Selects the rows of a data set to train on: removes duplicates ([`mod@dedup`]), removes rows that overlap
//! an evaluation set ([`mod@decontaminate`]), and draws a balanced sample ([`mod@sample`]).
//!
//! Rows are streamed once or twice: prepared in all threads, then processed in order, so that the output
//! depends on the input only. Kept and removed rows go to a [`Sink`]; this crate writes no results. Texts are
//! compared by their [`words`].
//!
//! ```
//! use align_curation::words::{normalized, words};
//!
//! // Compatibility forms, case and white space are normalised.
//! let text = normalized("Ｔhe  CAPITAL of\nFrance?");
//! assert_eq!(text, "the capital of france?");
//! assert_eq!(words(&text).collect::<Vec<_>>(), ["the", "capital", "of", "france"]);
//! // In scripts without spaces, a character is a word.
//! assert_eq!(words("好的。").collect::<Vec<_>>(), ["好", "的"]);
//! ```

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use align_core::error::Result;
use align_data::{BadRows, RawRow, RowLocation};
use serde::Serialize;

pub mod decontaminate;
pub mod dedup;
mod near;
pub mod sample;
pub mod words;

pub use decontaminate::decontaminate;
pub use dedup::dedup;
pub use sample::sample;

/// The files to choose from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The files, in the order in which they are read.
    pub files: &'a [PathBuf],
    /// What happens to bad rows.
    pub bad_rows: BadRows,
}

/// Receives the kept and the removed rows, in order.
pub trait Sink {
    /// Receives a kept row, as this line (without the line break).
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep(&mut self, line: &[u8]) -> Result<()>;

    /// Receives a removed row.
    ///
    /// # Errors
    /// When it cannot be written.
    fn remove(&mut self, removed: &Removed) -> Result<()>;
}

/// A removed row, with the reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Removed {
    /// `file:line`.
    pub row: String,
    /// The row in its file, from 0.
    pub index: u64,
    /// Why it was removed.
    #[serde(flatten)]
    pub reason: Reason,
}

/// Why a row was removed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason")]
pub enum Reason {
    /// A kept row has the same normalised text.
    #[serde(rename = "exact copy")]
    ExactCopy {
        /// The kept row.
        of: String,
    },
    /// A kept row has nearly the same words.
    #[serde(rename = "near copy")]
    NearCopy {
        /// The kept row; the most similar of several.
        of: String,
        /// The Jaccard similarity: the number of common shingles divided by that of the union.
        jaccard: f64,
    },
    /// A sequence of words also occurs in an evaluation set.
    #[serde(rename = "overlap")]
    Overlap {
        /// The row of the evaluation set.
        with: String,
        /// The words.
        words: String,
    },
    /// The row cannot be read.
    #[serde(rename = "bad row")]
    Bad {
        /// What is wrong, and what was expected.
        what: String,
    },
}

impl Reason {
    /// The reason's name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::ExactCopy { .. } => "exact copy",
            Reason::NearCopy { .. } => "near copy",
            Reason::Overlap { .. } => "overlap",
            Reason::Bad { .. } => "bad row",
        }
    }
}

/// Statistics of a file's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileCounts {
    /// The file.
    pub file: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// The kept ones.
    pub kept: u64,
    /// The removed ones, by the name of the reason.
    pub removed: BTreeMap<&'static str, u64>,
}

/// Counts rows and forwards them to a sink.
struct CountingSink<'a> {
    sink: &'a mut dyn Sink,
    files: Vec<FileCounts>,
    /// The current file. A file that is given twice is counted separately.
    last: Option<Arc<Path>>,
}

impl<'a> CountingSink<'a> {
    fn new(sink: &'a mut dyn Sink) -> Self {
        Self { sink, files: Vec::new(), last: None }
    }

    fn keep(&mut self, row: &RawRow) -> Result<()> {
        self.file(&row.location).kept += 1;
        self.sink.keep(&row.line())
    }

    fn remove(&mut self, location: &RowLocation, reason: Reason) -> Result<()> {
        *self.file(location).removed.entry(reason.name()).or_default() += 1;
        self.sink.remove(&Removed { row: location.to_string(), index: location.index, reason })
    }

    /// Counts a row, and returns the counts of its file.
    fn file(&mut self, location: &RowLocation) -> &mut FileCounts {
        if !self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &location.file)) {
            self.last = Some(Arc::clone(&location.file));
            let file = location.file.to_path_buf();
            self.files.push(FileCounts { file, rows: 0, kept: 0, removed: BTreeMap::new() });
        }
        let counts = self.files.last_mut().expect("a file was just added");
        counts.rows += 1;
        counts
    }
}

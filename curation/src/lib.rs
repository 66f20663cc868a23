//! Which rows of a data set to train on: none twice ([`mod@dedup`]), none that an evaluation knows ([`mod@decontaminate`]), and of many a
//! balanced few ([`mod@sample`]).
//!
//! Rows pass through once or twice, prepared in all threads and judged in order, so that what comes out is a function of what goes in.
//! What is kept or removed goes to a [`Sink`]; nothing is written here. Texts are compared by their [`words`].
//!
//! ```
//! use align_curation::words::{normalized, words};
//!
//! let text = normalized("Ｔhe  CAPITAL of\nFrance?"); // compatibility forms, case and white space say nothing
//! assert_eq!(text, "the capital of france?");
//! assert_eq!(words(&text).collect::<Vec<_>>(), ["the", "capital", "of", "france"]);
//! // Where a script has no spaces, a character is a word.
//! assert_eq!(words("好的。").collect::<Vec<_>>(), ["好", "的"]);
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use align_core::error::Result;
use align_data::{BadRows, Place, RawRow};
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
    /// In the order in which their rows are looked at.
    pub files: &'a [PathBuf],
    /// What becomes of rows that cannot be read.
    pub bad_rows: BadRows,
}

/// Takes what is kept and what is removed, in the order of the rows.
pub trait Sink {
    /// A row stays, as this line (without its end).
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep(&mut self, line: &[u8]) -> Result<()>;

    /// A row goes.
    ///
    /// # Errors
    /// When it cannot be written.
    fn remove(&mut self, removed: &Removed) -> Result<()>;
}

/// A row that goes, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Removed {
    /// `file:line`.
    pub row: String,
    /// The row in its file, from 0.
    pub index: u64,
    /// Why it goes.
    #[serde(flatten)]
    pub reason: Reason,
}

/// Why a row goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason")]
pub enum Reason {
    /// A row that is kept has the same normalised text.
    #[serde(rename = "exact copy")]
    ExactCopy {
        /// The row that is kept.
        of: String,
    },
    /// A row that is kept has nearly the same words.
    #[serde(rename = "near copy")]
    NearCopy {
        /// The row that is kept: of several the one most like it.
        of: String,
        /// Shingles that both have, over shingles that either has.
        jaccard: f64,
    },
    /// Words in a row that an evaluation has, too.
    #[serde(rename = "overlap")]
    Overlap {
        /// The evaluation's row.
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

/// What became of a file's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileCounts {
    /// The file.
    pub file: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Those that stay.
    pub kept: u64,
    /// Those that go, by the reason's name.
    pub removed: BTreeMap<&'static str, u64>,
}

/// Counts on the way to a sink.
struct Judged<'a> {
    sink: &'a mut dyn Sink,
    files: Vec<FileCounts>,
    /// The file counted last. One that is given twice is counted twice.
    last: Option<Arc<Path>>,
}

impl<'a> Judged<'a> {
    fn new(sink: &'a mut dyn Sink) -> Self {
        Self { sink, files: Vec::new(), last: None }
    }

    fn keep(&mut self, row: &RawRow) -> Result<()> {
        self.file(&row.place).kept += 1;
        self.sink.keep(&row.line())
    }

    fn remove(&mut self, place: &Place, reason: Reason) -> Result<()> {
        *self.file(place).removed.entry(reason.name()).or_default() += 1;
        self.sink.remove(&Removed { row: place.to_string(), index: place.index, reason })
    }

    /// The counts of a row's file, with the row.
    fn file(&mut self, place: &Place) -> &mut FileCounts {
        if !self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &place.file)) {
            self.last = Some(Arc::clone(&place.file));
            let file = place.file.to_path_buf();
            self.files.push(FileCounts { file, rows: 0, kept: 0, removed: BTreeMap::new() });
        }
        let counts = self.files.last_mut().expect("a file was just added");
        counts.rows += 1;
        counts
    }
}

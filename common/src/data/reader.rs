//! Files to rows, whole: every row of a kind, and what is wrong with the others, named by file and line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::raw::{Place, RawRows};
use super::records::{Kind, Record};
use crate::error::{Problem, Problems, Result};

/// Bad rows named one by one, per file.
const MAX_NAMED: usize = 20;

/// What becomes of rows that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRows {
    /// They are refused.
    #[default]
    Error,
    /// They are left out, counted and named.
    Skip,
}

/// The rows of one or several files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// In the order of the files and their rows.
    pub records: Vec<(Place, Record)>,
    /// The rows left out.
    pub skipped: Vec<Problem>,
}

/// Reads files whole. Which format a file has shows in its content; `.txt` is one document.
///
/// # Errors
/// [`crate::error::Error::Invalid`] with every file and, unless they are to be skipped, every row that cannot be used.
pub fn read(files: &[PathBuf], kind: Kind, bad_rows: BadRows) -> Result<Rows> {
    let mut rows = Rows::default();
    let mut problems = Problems::new();
    for file in files {
        let Some((records, bad)) = problems.absorb(read_file(file, kind, bad_rows))? else { continue };
        rows.skipped.extend(bad.judge(file, Some(kind), records.len(), &mut problems));
        rows.records.extend(records);
    }
    problems.into_result()?;
    Ok(rows)
}

fn read_file(file: &Path, kind: Kind, bad_rows: BadRows) -> Result<(Vec<(Place, Record)>, Bad)> {
    let (mut records, mut bad) = (Vec::new(), Bad::new(bad_rows));
    for row in RawRows::open(file, Some(kind))? {
        let row = row?;
        match row.record(kind) {
            Ok(record) => records.push((row.place, record)),
            Err(what) => bad.push(&row.place, &what),
        }
    }
    Ok((records, bad))
}

/// The bad rows of one file.
pub(super) struct Bad {
    bad_rows: BadRows,
    named: Vec<Problem>,
    num_unnamed: usize,
}

impl Bad {
    pub(super) fn new(bad_rows: BadRows) -> Self {
        Self { bad_rows, named: Vec::new(), num_unnamed: 0 }
    }

    pub(super) fn push(&mut self, place: &Place, what: &str) {
        if self.bad_rows == BadRows::Error && self.named.len() == MAX_NAMED {
            self.num_unnamed += 1;
        } else {
            self.named.push(Problem { place: place.to_string(), what: what.to_owned() });
        }
    }

    /// Whether there is one, and it is not to be skipped.
    pub(super) fn refuses(&self) -> bool {
        self.bad_rows == BadRows::Error && !self.named.is_empty()
    }

    /// Makes problems of the rows, or gives them back where they are skipped; then it is a problem that no row is good.
    pub(super) fn judge(
        self,
        file: &Path,
        kind: Option<Kind>,
        num_good: usize,
        problems: &mut Problems,
    ) -> Vec<Problem> {
        if self.bad_rows == BadRows::Skip {
            if num_good == 0 {
                let first = self.named.first().map(|problem| format!(" ({problem})")).unwrap_or_default();
                problems.push(file.display(), format!("every row is bad{first}, expected {}", name(kind)));
            }
            return self.named;
        }
        self.named.into_iter().for_each(|problem| problems.push(problem.place, problem.what));
        if self.num_unnamed > 0 {
            let more = self.num_unnamed;
            problems.push(
                file.display(),
                format!("{more} more rows like these, expected none; bad_rows = \"skip\" leaves them out"),
            );
        }
        Vec::new()
    }
}

/// What a file's rows are called.
pub(super) fn name(kind: Option<Kind>) -> String {
    kind.map_or_else(|| "rows".to_owned(), |kind| format!("{} rows", kind.name()))
}

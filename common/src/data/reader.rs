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
        let read = read_file(file, kind);
        let Some(mut read) = problems.absorb(read)? else { continue };
        judge(file, kind.name(), read.records.len(), &mut read.skipped, bad_rows, &mut problems);
        rows.records.append(&mut read.records);
        rows.skipped.append(&mut read.skipped);
    }
    problems.into_result()?;
    Ok(rows)
}

/// One file; bad rows are under `skipped`.
fn read_file(file: &Path, kind: Kind) -> Result<Rows> {
    let mut rows = Rows::default();
    for row in RawRows::open(file, Some(kind))? {
        let row = row?;
        match row.record(kind) {
            Ok(record) => rows.records.push((row.place, record)),
            Err(what) => rows.skipped.push(Problem { place: row.place.to_string(), what }),
        }
    }
    Ok(rows)
}

/// Makes problems of a file's bad rows, the first by name and the rest by number; where they are skipped, of a file in which no
/// row is good.
pub(super) fn judge(
    file: &Path,
    name: &str,
    num_good: usize,
    bad: &mut Vec<Problem>,
    bad_rows: BadRows,
    problems: &mut Problems,
) {
    if bad_rows == BadRows::Error {
        let unnamed = bad.len().saturating_sub(MAX_NAMED);
        for problem in bad.drain(..).take(MAX_NAMED) {
            problems.push(problem.place, problem.what);
        }
        if unnamed > 0 {
            problems.push(
                file.display(),
                format!("{unnamed} more rows like these, expected none; bad_rows = \"skip\" leaves them out"),
            );
        }
    } else if num_good == 0 {
        let first = bad.first().map(|problem| format!(" ({problem})")).unwrap_or_default();
        problems.push(file.display(), format!("every row is bad{first}, expected {name} rows"));
    }
}

//! Reading the rows of files, with every bad row in one error.

use std::path::PathBuf;

use align_core::error::{Problem, Problems, Result};
use align_data::RawRows;
use serde_json::Value;

/// Reads every row of files; `parsed(location, value)` makes an entry of it. `expected` says what the rows of
/// a file without any should have.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every bad row.
pub(crate) fn read<T>(
    files: &[PathBuf],
    expected: &str,
    parsed: impl Fn(String, &Value) -> std::result::Result<T, String>,
) -> Result<Vec<T>> {
    let (mut rows, mut problems) = (Vec::new(), Problems::new());
    for file in files {
        let before = rows.len();
        let Some(raw) = problems.absorb(RawRows::open(file, None))? else { continue };
        for row in raw {
            let Some(row) = problems.absorb(row)? else { break };
            match row.value().and_then(|value| parsed(row.location.to_string(), &value)) {
                Ok(entry) => rows.push(entry),
                Err(what) => problems.push_problem(Problem::of_row(&row.location, what)),
            }
        }
        if problems.is_empty() && rows.len() == before {
            problems.push(file.display(), format!("no rows, expected rows with {expected}"));
        }
    }
    problems.into_result().map(|()| rows)
}

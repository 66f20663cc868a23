//! A benchmark's files: where they are, and their rows.

use std::path::{Path, PathBuf};

use align_core::error::{Error, Problem, Problems, Result};
use align_data::RawRows;
use serde::de::DeserializeOwned;

/// The folders in which a benchmark is looked for: that of its name, and the data folder itself.
fn folders(data: &Path, benchmark: &str) -> [PathBuf; 2] {
    [data.join(benchmark), data.to_owned()]
}

/// The first of `names` (paths below the benchmark's folder) that is there.
///
/// # Errors
/// When none is.
pub(crate) fn file(data: &Path, benchmark: &str, names: &[&str]) -> Result<PathBuf> {
    let candidates =
        folders(data, benchmark).into_iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    candidates.clone().find(|file| file.is_file()).ok_or_else(|| missing(data, benchmark, names))
}

/// The folder that has one of `names` (paths below the benchmark's folder). `inside`: further folders below
/// it where they may be, as archives have them.
///
/// # Errors
/// When there is none.
pub(crate) fn folder(data: &Path, benchmark: &str, inside: &[&str], names: &[String]) -> Result<PathBuf> {
    let candidates = folders(data, benchmark).into_iter().flat_map(|folder| {
        [String::new()]
            .into_iter()
            .chain(inside.iter().map(|name| (*name).to_owned()))
            .map(move |name| folder.join(name))
    });
    let found = candidates.clone().find(|folder| names.iter().any(|name| folder.join(name).exists()));
    found.ok_or_else(|| missing(data, benchmark, &names.iter().take(1).map(String::as_str).collect::<Vec<_>>()))
}

fn missing(data: &Path, benchmark: &str, names: &[&str]) -> Error {
    let what = format!(
        "has no {}, expected {benchmark}'s files in {} or {}; docs/tasks.md shows each benchmark's layout",
        names.join(" or "),
        data.join(benchmark).display(),
        data.display()
    );
    Error::invalid(format!("--data {}", data.display()), what)
}

/// A row and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Row<T> {
    /// `file:line`.
    pub(crate) location: String,
    /// Its index in the file, from 0.
    pub(crate) index: usize,
    /// What it holds.
    pub(crate) value: T,
}

/// The rows of a file: JSON Lines, a JSON array or Parquet. Rows that are not a `T` are reported together.
///
/// # Errors
/// When the file cannot be read, and for every bad row.
pub(crate) fn rows<T: DeserializeOwned>(file: &Path) -> Result<Vec<Row<T>>> {
    let (mut rows, mut problems) = (Vec::new(), Problems::new());
    for (index, row) in RawRows::open(file, None)?.enumerate() {
        let row = row?;
        let read = row.value().and_then(|value| {
            serde_json::from_value(value).map_err(|error| format!("{error}; expected a row as docs/tasks.md shows it"))
        });
        match read {
            Ok(value) => rows.push(Row { location: row.location.to_string(), index, value }),
            Err(what) => problems.push_problem(Problem::of_row(&row.location, what)),
        }
    }
    problems.into_result()?;
    Ok(rows)
}

/// The columns of a CSV file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Columns {
    /// The file has no header, and this many columns.
    Unnamed(usize),
    /// The file has a header with these names, and perhaps others.
    Named(&'static [&'static str]),
}

/// The rows of a CSV file: the fields of `columns`, in that order. A record may have more fields than
/// [`Columns::Named`] asks for.
///
/// # Errors
/// When the file cannot be read, when a column is missing, and for every bad row.
pub(crate) fn csv(file: &Path, columns: Columns) -> Result<Vec<Row<Vec<String>>>> {
    let location = file.display();
    let bytes = std::fs::read(file).map_err(|error| {
        Error::invalid(&location, format!("cannot be read: {error}; expected a file of the benchmark"))
    })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let named = matches!(columns, Columns::Named(_));
    let mut reader = csv::ReaderBuilder::new().has_headers(named).flexible(true).from_reader(bytes);
    let (indices, num_fields) = match columns {
        Columns::Unnamed(num) => ((0..num).collect::<Vec<_>>(), Some(num)),
        Columns::Named(names) => {
            let header = reader.headers().map_err(|error| Error::invalid(&location, error))?.clone();
            let mut problems = Problems::new();
            let mut index = |name: &&str| {
                let found = header.iter().position(|column| column.trim() == *name);
                if found.is_none() {
                    problems.push(&location, format!("has no column `{name}`, expected {}", names.join(", ")));
                }
                found
            };
            let indices = names.iter().filter_map(&mut index).collect();
            problems.into_result()?;
            (indices, None)
        }
    };
    let (mut rows, mut problems) = (Vec::new(), Problems::new());
    for (index, record) in reader.into_records().enumerate() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                problems.push(&location, format!("{error}; expected CSV in UTF-8"));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let here = format!("{location}:{line}");
        if num_fields.is_some_and(|num| record.len() != num) {
            let expected = num_fields.unwrap_or_default();
            problems.push_problem(Problem::of_row(here, format!("has {} fields, expected {expected}", record.len())));
            continue;
        }
        let fields: Option<Vec<String>> = indices.iter().map(|index| record.get(*index).map(str::to_owned)).collect();
        match fields {
            Some(value) => rows.push(Row { location: here, index, value }),
            None => {
                let what = format!("has {} fields, expected as many as the header", record.len());
                problems.push_problem(Problem::of_row(here, what));
            }
        }
    }
    if rows.is_empty() && problems.is_empty() {
        problems.push(&location, "has no rows, expected questions");
    }
    problems.into_result()?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn csv_with_and_without_header() {
        let file = write("\u{feff}id,question,A\n0,\"one, \"\"two\"\"\nthree\",x\n1,four,\n");
        let rows = csv(file.path(), Columns::Named(&["question", "A"])).unwrap();
        let values: Vec<_> = rows.iter().map(|row| (row.index, row.value.join("|"))).collect();
        assert_eq!(values, [(0, "one, \"two\"\nthree|x".to_owned()), (1, "four|".to_owned())]);
        assert!(rows[1].location.ends_with(":4"), "{}", rows[1].location);

        let file = write("q,A\nr,B\n");
        assert_eq!(csv(file.path(), Columns::Unnamed(2)).unwrap().len(), 2);
    }

    #[test]
    fn every_bad_record_and_column_is_reported() {
        let file = write("q,A,B\nr,C\ns,D\nt,E,F\n");
        let error = csv(file.path(), Columns::Unnamed(3)).unwrap_err().to_string();
        assert!(error.contains(":2: has 2 fields, expected 3; the same in 1 more row: "), "{error}");
        let error = csv(file.path(), Columns::Named(&["q", "D", "E"])).unwrap_err().to_string();
        assert!(error.contains("no column `D`") && error.contains("no column `E`"), "{error}");
        let error = csv(write("q,A\n").path(), Columns::Named(&["q"])).unwrap_err().to_string();
        assert!(error.contains("has no rows"), "{error}");
    }

    #[test]
    fn a_missing_file_names_where_it_was_looked_for() {
        let data = tempfile::tempdir().unwrap();
        let error = file(data.path(), "gsm8k", &["test.jsonl", "gsm8k_test.jsonl"]).unwrap_err().to_string();
        assert!(error.contains("has no test.jsonl or gsm8k_test.jsonl, expected gsm8k's files in "), "{error}");
    }
}

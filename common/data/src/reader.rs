//! Reads whole files into rows of one kind. Bad rows are reported with file and line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::raw::RawRows;
use super::records::{Kind, Parsed, Record, name_of_rows};
use super::row::RowLocation;
use super::typed::{TypedRow, typed};
use align_core::error::{Problem, Problems, Result};

/// The maximum number of distinct causes of bad rows kept per file; a message shows fewer.
const MAX_CAUSES: usize = 32;

/// What happens to bad rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRows {
    /// They are an error.
    #[default]
    Error,
    /// They are skipped, counted and listed.
    Skip,
}

/// The rows of one or several files.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T = Record> {
    /// In the order of the files and their rows.
    pub records: Vec<(RowLocation, T)>,
    /// The rows that were skipped.
    pub skipped: Vec<Problem>,
    /// Keys that were not read, with the number of rows that have them.
    pub unread: Unread,
}

/// Keys of rows that are not read, with the number of rows that have each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Unread(BTreeMap<String, u64>);

/// The maximum number of distinct keys that are counted separately.
const MAX_KEYS: usize = 64;

impl Unread {
    /// Counts the keys of a row.
    pub fn count(&mut self, keys: &[String]) {
        keys.iter().for_each(|key| self.add_to(key, 1));
    }

    /// Adds the keys of other rows.
    pub fn add(&mut self, other: &Unread) {
        other.0.iter().for_each(|(key, count)| self.add_to(key, *count));
    }

    fn add_to(&mut self, key: &str, count: u64) {
        let is_separate = self.0.len() < MAX_KEYS || self.0.contains_key(key);
        *self.0.entry(if is_separate { key.to_owned() } else { "other keys".to_owned() }).or_default() += count;
    }

    /// One line with the most frequent keys, each with its number of rows.
    pub fn line(&self) -> String {
        const SHOWN: usize = 10;
        let mut keys: Vec<_> = self.0.iter().collect();
        keys.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut shown: Vec<String> =
            keys.iter().take(SHOWN).map(|(key, count)| format!("{key} ({count} rows)")).collect();
        if keys.len() > SHOWN {
            shown.push(format!("{} more", keys.len() - SHOWN));
        }
        shown.join(", ")
    }

    /// Whether every key was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads whole files. The format is recognised by the content, except for `.txt` (one document), `.csv` and
/// `.tsv`, which are recognised by name.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every bad file and, unless `bad_rows` skips them, every bad
/// row.
pub fn read(files: &[PathBuf], kind: Kind, bad_rows: BadRows) -> Result<Rows> {
    read_kind(files, kind, bad_rows, &|_, record| Ok(record))
}

/// As [`read`], for a type of row. `prepare` converts each row, and a row for which it fails is a bad row.
///
/// # Errors
/// As [`read`].
pub fn read_rows<R: TypedRow, T>(
    files: &[PathBuf],
    bad_rows: BadRows,
    prepare: &dyn Fn(&RowLocation, R) -> Parsed<T>,
) -> Result<Rows<T>> {
    read_kind(files, R::KIND, bad_rows, &|location, record| prepare(location, typed(record)?))
}

fn read_kind<T>(
    files: &[PathBuf],
    kind: Kind,
    bad_rows: BadRows,
    prepare: &dyn Fn(&RowLocation, Record) -> Parsed<T>,
) -> Result<Rows<T>> {
    let mut rows = Rows { records: Vec::new(), skipped: Vec::new(), unread: Unread::default() };
    let mut problems = Problems::new();
    for file in files {
        let Some((records, unread, bad)) = problems.absorb(read_file(file, kind, bad_rows, prepare))? else { continue };
        rows.unread.add(&unread);
        rows.skipped.extend(bad.report(file, Some(kind), records.len(), &mut problems));
        rows.records.extend(records);
    }
    problems.into_result()?;
    Ok(rows)
}

type ReadFile<T> = (Vec<(RowLocation, T)>, Unread, Bad);

fn read_file<T>(
    file: &Path,
    kind: Kind,
    bad_rows: BadRows,
    prepare: &dyn Fn(&RowLocation, Record) -> Parsed<T>,
) -> Result<ReadFile<T>> {
    let (mut records, mut unread, mut bad) = (Vec::new(), Unread::default(), Bad::new(bad_rows));
    for row in RawRows::open(file, Some(kind))? {
        let row = row?;
        let read = row.record(kind).and_then(|read| Ok((prepare(&row.location, read.record)?, read.unread)));
        match read {
            Ok((record, keys)) => {
                unread.count(&keys);
                records.push((row.location, record));
            }
            Err(what) => bad.push(&row.location, &what),
        }
    }
    Ok((records, unread, bad))
}

/// The bad rows of one file: all of them if they are skipped, otherwise one per cause, with the others
/// grouped under it.
pub(super) struct Bad {
    bad_rows: BadRows,
    named: Vec<Problem>,
    /// The cause of each group.
    causes: Vec<Option<String>>,
    num_unnamed: usize,
}

impl Bad {
    pub(super) fn new(bad_rows: BadRows) -> Self {
        Self { bad_rows, named: Vec::new(), causes: Vec::new(), num_unnamed: 0 }
    }

    pub(super) fn push(&mut self, location: &RowLocation, what: &str) {
        let problem = Problem::of_row(location, what);
        if self.bad_rows == BadRows::Skip {
            return self.named.push(problem);
        }
        let cause = problem.cause();
        match self.causes.iter().position(|known| *known == cause) {
            Some(at) => self.named[at].merge(problem),
            None if self.causes.len() == MAX_CAUSES => self.num_unnamed += 1,
            None => {
                self.causes.push(cause);
                self.named.push(problem);
            }
        }
    }

    /// Whether there is a bad row that is an error.
    pub(super) fn refuses(&self) -> bool {
        self.bad_rows == BadRows::Error && !self.named.is_empty()
    }

    /// Reports the rows as problems, or returns them if they are skipped. It is a problem if all rows are
    /// bad.
    pub(super) fn report(
        self,
        file: &Path,
        kind: Option<Kind>,
        num_good: usize,
        problems: &mut Problems,
    ) -> Vec<Problem> {
        if self.bad_rows == BadRows::Skip {
            if num_good == 0 {
                let first = self.named.first().map(|problem| format!(" ({problem})")).unwrap_or_default();
                problems.push(file.display(), format!("every row is bad{first}, expected {}", name_of_rows(kind)));
            }
            return self.named;
        }
        self.named.into_iter().for_each(|problem| problems.push_problem(problem));
        if self.num_unnamed > 0 {
            problems.push(file.display(), format!("{} more bad rows, expected none", self.num_unnamed));
        }
        Vec::new()
    }
}

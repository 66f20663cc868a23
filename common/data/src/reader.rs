//! Files to rows, whole: every row of a kind, and what is wrong with the others, named by file and line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::raw::{Parsed, Place, RawRows};
use super::records::{Kind, Record};
use super::typed::{TypedRow, typed};
use align_core::error::{Problem, Problems, Result};

/// Ways of being bad that are told apart in a file; a message shows fewer.
const MAX_CAUSES: usize = 32;

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
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T = Record> {
    /// In the order of the files and their rows.
    pub records: Vec<(Place, T)>,
    /// The rows left out.
    pub skipped: Vec<Problem>,
    /// Keys that nothing read, with the number of rows that have them.
    pub unread: Unread,
}

/// Keys of rows that nothing reads, and how many rows have each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Unread(BTreeMap<String, u64>);

/// Keys that are told apart.
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
        let is_told = self.0.len() < MAX_KEYS || self.0.contains_key(key);
        *self.0.entry(if is_told { key.to_owned() } else { "other keys".to_owned() }).or_default() += count;
    }

    /// The keys as one line: the most frequent ones, each with its number of rows.
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

/// Reads files whole. Which format a file has shows in its content; `.txt` is one document, `.csv` and `.tsv` are told by their names.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every file and, unless they are to be skipped, every row that cannot be used.
pub fn read(files: &[PathBuf], kind: Kind, bad_rows: BadRows) -> Result<Rows> {
    read_kind(files, kind, bad_rows, &|_, record| Ok(record))
}

/// As [`read`], by the rows' type; `prepare` makes of each row what is needed, and a row that it refuses is a bad one.
///
/// # Errors
/// As [`read`].
pub fn read_rows<R: TypedRow, T>(
    files: &[PathBuf],
    bad_rows: BadRows,
    prepare: &dyn Fn(&Place, R) -> Parsed<T>,
) -> Result<Rows<T>> {
    read_kind(files, R::KIND, bad_rows, &|place, record| prepare(place, typed(record)?))
}

fn read_kind<T>(
    files: &[PathBuf],
    kind: Kind,
    bad_rows: BadRows,
    prepare: &dyn Fn(&Place, Record) -> Parsed<T>,
) -> Result<Rows<T>> {
    let mut rows = Rows { records: Vec::new(), skipped: Vec::new(), unread: Unread::default() };
    let mut problems = Problems::new();
    for file in files {
        let Some((records, unread, bad)) = problems.absorb(read_file(file, kind, bad_rows, prepare))? else { continue };
        rows.unread.add(&unread);
        rows.skipped.extend(bad.judge(file, Some(kind), records.len(), &mut problems));
        rows.records.extend(records);
    }
    problems.into_result()?;
    Ok(rows)
}

type ReadFile<T> = (Vec<(Place, T)>, Unread, Bad);

fn read_file<T>(
    file: &Path,
    kind: Kind,
    bad_rows: BadRows,
    prepare: &dyn Fn(&Place, Record) -> Parsed<T>,
) -> Result<ReadFile<T>> {
    let (mut records, mut unread, mut bad) = (Vec::new(), Unread::default(), Bad::new(bad_rows));
    for row in RawRows::open(file, Some(kind))? {
        let row = row?;
        let read = row.record(kind).and_then(|read| Ok((prepare(&row.place, read.record)?, read.unread)));
        match read {
            Ok((record, keys)) => {
                unread.count(&keys);
                records.push((row.place, record));
            }
            Err(what) => bad.push(&row.place, &what),
        }
    }
    Ok((records, unread, bad))
}

/// The bad rows of one file: all of them where they are skipped, otherwise one a cause, which stands for the others.
pub(super) struct Bad {
    bad_rows: BadRows,
    named: Vec<Problem>,
    /// Causes of the rows that stand for others.
    causes: Vec<Option<String>>,
    num_unnamed: usize,
}

impl Bad {
    pub(super) fn new(bad_rows: BadRows) -> Self {
        Self { bad_rows, named: Vec::new(), causes: Vec::new(), num_unnamed: 0 }
    }

    pub(super) fn push(&mut self, place: &Place, what: &str) {
        let problem = Problem::of_row(place, what);
        if self.bad_rows == BadRows::Skip {
            return self.named.push(problem);
        }
        let cause = problem.cause();
        match self.causes.iter().position(|known| *known == cause) {
            Some(at) => self.named[at].take_in(problem),
            None if self.causes.len() == MAX_CAUSES => self.num_unnamed += 1,
            None => {
                self.causes.push(cause);
                self.named.push(problem);
            }
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
        self.named.into_iter().for_each(|problem| problems.push_problem(problem));
        if self.num_unnamed > 0 {
            problems.push(file.display(), format!("{} more bad rows, expected none", self.num_unnamed));
        }
        Vec::new()
    }
}

/// What a file's rows are called.
pub(super) fn name(kind: Option<Kind>) -> String {
    kind.map_or_else(|| "rows".to_owned(), |kind| format!("{} rows", kind.name()))
}

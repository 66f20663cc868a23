//! Files to rows: JSON Lines, a JSON array, plain text; each also compressed with gzip or zstd. Records are bounded, and so is what a
//! compressed file may grow to; whatever is wrong is named by file and line.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::records::{self, Kind, Record};
use super::source::{Source, Step, Stop, name, open};
use crate::error::{Error, Problem, Problems, Result};

/// The largest record, in bytes of the uncompressed file.
pub(super) const MAX_RECORD_BYTES: usize = 16 << 20;
/// Bad rows named one by one, per file.
const MAX_NAMED: usize = 20;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as it was given.
    pub file: PathBuf,
    /// The row in its file, from 0; blank lines do not count.
    pub index: u64,
    /// The line on which the row begins, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

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
/// [`Error::Invalid`] with every file and, unless they are to be skipped, every row that cannot be used.
pub fn read(files: &[PathBuf], kind: Kind, bad_rows: BadRows) -> Result<Rows> {
    let mut rows = Rows::default();
    let mut problems = Problems::new();
    for file in files {
        let read = read_file(file, kind);
        let Some(mut read) = problems.absorb(read)? else { continue };
        if bad_rows == BadRows::Error {
            let unnamed = read.skipped.len().saturating_sub(MAX_NAMED);
            for problem in read.skipped.drain(..).take(MAX_NAMED) {
                problems.push(problem.place, problem.what);
            }
            if unnamed > 0 {
                problems.push(
                    file.display(),
                    format!("{unnamed} more rows like these, expected none; bad_rows = \"skip\" leaves them out"),
                );
            }
        } else if read.records.is_empty() {
            let first = read.skipped.first().map(|problem| format!(" ({problem})")).unwrap_or_default();
            problems.push(file.display(), format!("every row is bad{first}, expected {} rows", kind.name()));
        }
        rows.records.append(&mut read.records);
        rows.skipped.append(&mut read.skipped);
    }
    problems.into_result()?;
    Ok(rows)
}

/// One file; bad rows are under `skipped`.
fn read_file(file: &Path, kind: Kind) -> Result<Rows> {
    let mut reader = RowReader { file, kind, rows: Rows::default(), index: 0 };
    let mut source = open(file)?;
    reader.text(&mut source).map_err(|stop| stop.at(file, source.line))?;
    if reader.index == 0 {
        return Err(Error::invalid(file.display(), format!("an empty file, expected {} rows", kind.name())));
    }
    Ok(reader.rows)
}

struct RowReader<'a> {
    file: &'a Path,
    kind: Kind,
    rows: Rows,
    index: u64,
}

impl RowReader<'_> {
    fn text(&mut self, source: &mut Source) -> Step<()> {
        if name(self.file).ends_with(".txt") {
            return self.document(source);
        }
        match source.first_byte()? {
            None => Ok(()),
            Some(b'[') => self.array(source),
            Some(_) => self.lines(source),
        }
    }

    /// JSON Lines; blank lines are passed over.
    fn lines(&mut self, source: &mut Source) -> Step<()> {
        while source.first_byte()?.is_some() {
            let line = source.line;
            let bytes = source.take_while(|byte| byte != b'\n')?;
            self.json(bytes, line, None);
        }
        Ok(())
    }

    /// The elements of one JSON array, cut at commas outside strings and brackets.
    fn array(&mut self, source: &mut Source) -> Step<()> {
        source.consume(1)?;
        let mut first = true;
        loop {
            match source.first_byte()? {
                Some(b']') if first || self.index > 0 => {
                    source.consume(1)?;
                    return match source.first_byte()? {
                        None => Ok(()),
                        Some(_) => Err(Stop::Wrong("text after the end of the array, expected nothing".to_owned())),
                    };
                }
                None => return Err(Stop::Wrong("the array does not end, expected `]`".to_owned())),
                _ => first = false,
            }
            let line = source.line;
            let mut cut = Cut::default();
            let bytes = source.take_while(|byte| cut.inside(byte))?;
            self.json(bytes, line, Some(self.index));
            if source.first_byte()? == Some(b',') {
                source.consume(1)?;
                if source.first_byte()? == Some(b']') {
                    return Err(Stop::Wrong("a comma before the end of the array, expected a row".to_owned()));
                }
            }
        }
    }

    /// Plain text: the file is one document.
    fn document(&mut self, source: &mut Source) -> Step<()> {
        let first = source.line;
        let Some(bytes) = source.take_while(|_| true)? else {
            let what = format!(
                "a document of more than {} MB, expected at most that: split it, or make it `text` rows",
                MAX_RECORD_BYTES >> 20
            );
            return Err(Stop::File(what));
        };
        source.line = first;
        if self.kind != Kind::Text {
            return Err(Stop::File(format!(
                "plain text, expected a {} row a line: {}",
                self.kind.name(),
                self.kind.shapes()
            )));
        }
        let lines_before = |at: usize| first + bytes[..at].iter().filter(|&&byte| byte == b'\n').count() as u64;
        if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
            source.line = lines_before(at);
            return Err(Stop::Wrong("a NUL byte, expected text".to_owned()));
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                source.line = first + error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() as u64;
                return Err(Stop::Wrong(not_utf8(error.as_bytes(), at)));
            }
        };
        if !text.trim().is_empty() {
            self.add(first, Ok(Record::Text(text)));
        }
        Ok(())
    }

    fn json(&mut self, bytes: Option<Vec<u8>>, line: u64, element: Option<u64>) {
        let parsed = match bytes {
            None => Err(format!("a record of more than {} MB, expected at most that", MAX_RECORD_BYTES >> 20)),
            Some(bytes) => parse(self.kind, &bytes),
        };
        // Elements of an array may share a line: there the row's number is told as well.
        let named = parsed.map_err(|what| element.map_or(what.clone(), |index| format!("row {index}: {what}")));
        self.add(line, named);
    }

    fn add(&mut self, line: u64, parsed: std::result::Result<Record, String>) {
        let place = Place { file: self.file.to_owned(), index: self.index, line };
        self.index += 1;
        match parsed {
            Ok(record) => self.rows.records.push((place, record)),
            Err(what) => self.rows.skipped.push(Problem { place: place.to_string(), what }),
        }
    }
}

fn parse(kind: Kind, bytes: &[u8]) -> std::result::Result<Record, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    if text.contains('\0') {
        return Err("a NUL byte, expected text".to_owned());
    }
    let row = serde_json::from_str(text)
        .map_err(|error| format!("not JSON ({error}), expected one object a line or an array of objects"))?;
    records::parse(kind, row)
}

fn not_utf8(bytes: &[u8], at: usize) -> String {
    format!("byte 0x{:02x} is not UTF-8, expected UTF-8 text", bytes[at])
}

/// Where an element of an array ends: at a comma or bracket that belongs to the array itself.
#[derive(Default)]
struct Cut {
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl Cut {
    fn inside(&mut self, byte: u8) -> bool {
        if self.in_string {
            (self.in_string, self.escaped) = match byte {
                _ if self.escaped => (true, false),
                b'\\' => (true, true),
                b'"' => (false, false),
                _ => (true, false),
            };
            return true;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b',' | b']' if self.depth == 0 => return false,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        true
    }
}

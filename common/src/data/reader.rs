//! Files to rows: JSON Lines, a JSON array, plain text; each also compressed with gzip. Records are bounded, and so is what a
//! compressed file may grow to; whatever is wrong is named by file and line.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::records::{self, Kind, Record};
use crate::error::{Error, Problem, Problems, Result};

/// The largest record, in bytes of the uncompressed file.
const MAX_RECORD_BYTES: usize = 16 << 20;
/// A compressed file may grow to this many bytes …
const MAX_GROWN_BYTES: u64 = 256 << 20;
/// … or to this many times its size, whichever is more. Text grows less than twentyfold, the worst that gzip can hold 1032-fold.
const MAX_GROWTH: u64 = 100;
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
    let mut source = open(file)?;
    let mut reader = RowReader { file, kind, rows: Rows::default(), index: 0 };
    let plain_text = name(file).ends_with(".txt");
    let result = if plain_text {
        reader.document(&mut source)
    } else {
        source.first_byte().and_then(|first| match first {
            None => Ok(()),
            Some(b'[') => reader.array(&mut source),
            Some(_) => reader.lines(&mut source),
        })
    };
    result.map_err(|error| error.at(file, source.line))?;
    if reader.index == 0 {
        return Err(Error::invalid(file.display(), format!("an empty file, expected {} rows", kind.name())));
    }
    Ok(reader.rows)
}

/// The file's name in lower case, without the ending of a compressed file.
fn name(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.strip_suffix(".gz").unwrap_or(&name).to_owned()
}

fn open(file: &Path) -> Result<Source<'_>> {
    let refuse = |what: &str| Err(Error::invalid(file.display(), what));
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return refuse("no such file, expected data"),
        Err(error) => return Err(Error::io(file)(error)),
    };
    if metadata.is_dir() {
        return refuse("a folder, expected a file");
    }
    let mut bytes = BufReader::with_capacity(1 << 16, File::open(file).map_err(Error::io(file))?);
    let head = bytes.fill_buf().map_err(Error::io(file))?;
    match head {
        [0x1f, 0x8b, ..] => {
            let limit = MAX_GROWN_BYTES.max(metadata.len().saturating_mul(MAX_GROWTH));
            let grown = BufReader::with_capacity(1 << 16, MultiGzDecoder::new(bytes));
            Source::new(Box::new(grown), limit)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return refuse("compressed with zstd, expected plain or gzip: zstd -d FILE"),
        [b'P', b'A', b'R', b'1', ..] => return refuse("a Parquet file, expected JSON Lines: pandas.read_parquet(FILE).to_json(…, orient=\"records\", lines=True)"),
        _ if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz")) && !head.is_empty() => {
            return refuse("not compressed with gzip, expected what its name says");
        }
        _ => Source::new(Box::new(bytes), u64::MAX),
    }
    .map_err(|error| error.at(file, 1))
}

/// Why a file cannot be read on.
enum Stop {
    /// What is wrong, at the line the source has come to.
    Wrong(String),
    /// What is wrong with the whole file.
    File(String),
    Io(io::Error),
}

impl Stop {
    fn at(self, file: &Path, line: u64) -> Error {
        match self {
            Stop::Wrong(what) => Error::invalid(format!("{}:{line}", file.display()), what),
            Stop::File(what) => Error::invalid(file.display(), what),
            Stop::Io(source) => Error::Io { path: file.to_owned(), source },
        }
    }
}

type Step<T> = std::result::Result<T, Stop>;

/// The bytes of a file, decompressed, with the line they have come to.
struct Source<'a> {
    bytes: Box<dyn BufRead + 'a>,
    line: u64,
    consumed: u64,
    limit: u64,
}

impl<'a> Source<'a> {
    fn new(bytes: Box<dyn BufRead + 'a>, limit: u64) -> Step<Self> {
        let mut source = Self { bytes, line: 1, consumed: 0, limit };
        // A byte-order mark is not content. Only three bytes are asked for, which any buffer that holds text has.
        let head = source.peek()?;
        let (bom, utf16) =
            (head.starts_with(&[0xef, 0xbb, 0xbf]), head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]));
        if utf16 {
            return Err(Stop::Wrong("UTF-16, expected UTF-8".to_owned()));
        }
        if bom {
            source.bytes.consume(3);
        }
        Ok(source)
    }

    /// What is buffered; empty at the end.
    fn peek(&mut self) -> Step<&[u8]> {
        loop {
            match self.bytes.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    return Err(Stop::Wrong(format!("damaged or cut off gzip data ({error}), expected a whole file")));
                }
                Err(error) => return Err(Stop::Io(error)),
            }
        }
        // Filled above: the second call only hands out the buffer.
        self.bytes.fill_buf().map_err(Stop::Io)
    }

    fn consume(&mut self, count: usize) -> Step<()> {
        self.bytes.consume(count);
        self.consumed += count as u64;
        if self.consumed > self.limit {
            return Err(Stop::File(format!(
                "grows to more than {} MB when decompressed, expected at most {MAX_GROWTH} times its size",
                self.limit >> 20
            )));
        }
        Ok(())
    }

    /// Skips white space; the byte after it, which stays.
    fn first_byte(&mut self) -> Step<Option<u8>> {
        loop {
            let head = self.peek()?;
            let count = head.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(head.len());
            let next = head.get(count).copied();
            let (ended, num_lines) = (head.is_empty(), head[..count].iter().filter(|&&byte| byte == b'\n').count());
            self.line += num_lines as u64;
            self.consume(count)?;
            if ended || next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Takes bytes for as long as `wanted` says. What does not fit into a record is dropped: then `None`.
    fn take_while(&mut self, mut wanted: impl FnMut(u8) -> bool) -> Step<Option<Vec<u8>>> {
        let (mut taken, mut fits) = (Vec::new(), true);
        loop {
            let head = self.peek()?;
            if head.is_empty() {
                break;
            }
            let count = head.iter().position(|&byte| !wanted(byte)).unwrap_or(head.len());
            let (done, num_lines) = (count < head.len(), head[..count].iter().filter(|&&byte| byte == b'\n').count());
            fits &= taken.len() + count <= MAX_RECORD_BYTES;
            if fits {
                taken.extend_from_slice(&head[..count]);
            }
            self.line += num_lines as u64;
            self.consume(count)?;
            if done {
                break;
            }
        }
        Ok(fits.then_some(taken))
    }
}

struct RowReader<'a> {
    file: &'a Path,
    kind: Kind,
    rows: Rows,
    index: u64,
}

impl RowReader<'_> {
    /// JSON Lines; blank lines are passed over.
    fn lines(&mut self, source: &mut Source<'_>) -> Step<()> {
        while source.first_byte()?.is_some() {
            let line = source.line;
            let bytes = source.take_while(|byte| byte != b'\n')?;
            self.json(bytes, line, None);
        }
        Ok(())
    }

    /// The elements of one JSON array, cut at commas outside strings and brackets.
    fn array(&mut self, source: &mut Source<'_>) -> Step<()> {
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
    fn document(&mut self, source: &mut Source<'_>) -> Step<()> {
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

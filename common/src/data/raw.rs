//! The rows of a file as they stand in it, one after the other: JSON Lines, a JSON array, plain text, each also compressed with gzip or
//! zstd; and Parquet. Records are bounded, and so is what a compressed file may grow to; whatever is wrong is named by file and line, in
//! a table by file and row.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::reader;
use super::records::{self, Kind, ReadRow};
use super::source::{Opened, Source, Step, Stop, name, open};
use super::table::Table;
use crate::error::Result;

/// The largest record, in bytes of the uncompressed file.
pub(super) const MAX_RECORD_BYTES: usize = 16 << 20;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as it was given.
    pub file: Arc<Path>,
    /// The row in its file, from 0; blank lines do not count.
    pub index: u64,
    /// The line on which the row begins, from 1; 0 in a table, which has none.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: row {}", self.file.display(), self.index),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

/// A row as it stands in its file.
#[derive(Debug)]
pub struct RawRow {
    /// Where it stands.
    pub place: Place,
    content: Content,
    /// Elements of an array may share a line: there the row's number is told as well.
    numbered: bool,
}

#[derive(Debug)]
enum Content {
    Json(Vec<u8>),
    Document(String),
    TooLong,
}

/// What a row holds, or what is wrong with it and what was expected, as one line.
pub type Parsed<T> = std::result::Result<T, String>;

impl RawRow {
    /// The row as JSON; a document is the row `{"text": …}`.
    ///
    /// # Errors
    /// What is wrong with it and what was expected, as one line.
    pub fn value(&self) -> Parsed<Value> {
        let value = match &self.content {
            Content::Json(bytes) => parse(bytes),
            Content::Document(text) => Ok(json!({ "text": text })),
            Content::TooLong => {
                Err(format!("a record of more than {} MB, expected at most that", MAX_RECORD_BYTES >> 20))
            }
        };
        value.map_err(|what| self.named(what))
    }

    /// The row as a stage needs it.
    ///
    /// # Errors
    /// As [`Self::value`], and what is wrong with its shape.
    pub fn record(&self, kind: Kind) -> Parsed<ReadRow> {
        let value = self.value()?;
        let text = match &self.content {
            Content::Json(bytes) => bytes,
            Content::Document(_) | Content::TooLong => &Vec::new(),
        };
        records::parse_text(kind, &value, text).map_err(|what| self.named(what))
    }

    /// The row as one line of JSON Lines, without its end: of such a file as it stands, byte for byte.
    pub fn line(&self) -> Cow<'_, [u8]> {
        match &self.content {
            // Within JSON a line break is white space: strings have none.
            Content::Json(bytes) if self.numbered => {
                bytes.trim_ascii().iter().map(|byte| if b"\r\n".contains(byte) { b' ' } else { *byte }).collect()
            }
            Content::Json(bytes) => bytes.into(),
            Content::Document(text) => json!({ "text": text }).to_string().into_bytes().into(),
            Content::TooLong => Cow::Borrowed(&[]),
        }
    }

    /// Bytes that it takes in memory.
    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Json(bytes) => bytes.len(),
            Content::Document(text) => text.len(),
            Content::TooLong => 0,
        }
    }

    fn named(&self, what: String) -> String {
        if self.numbered { format!("row {}: {what}", self.place.index) } else { what }
    }
}

/// The rows of a file, one after the other; a damaged file ends with an error.
pub struct RawRows {
    file: Arc<Path>,
    kind: Option<Kind>,
    bytes: Bytes,
    num_rows: u64,
    /// Whether nothing is left.
    over: bool,
}

enum Bytes {
    /// JSON Lines; blank lines are passed over.
    Lines(Source),
    /// The elements of one JSON array, cut at commas outside strings and brackets.
    Array(Source),
    /// Plain text: the file is one document.
    Document(Source),
    /// Parquet.
    Table(Box<Table>),
}

impl RawRows {
    /// Opens a file. Which format it has shows in its content; `.txt` is one document. `kind` is what its rows are to be, where
    /// that is known: it goes into what is said of the file as a whole.
    ///
    /// # Errors
    /// [`crate::error::Error::Invalid`] when it cannot be read at all.
    pub fn open(file: &Path, kind: Option<Kind>) -> Result<Self> {
        let bytes = match open(file)? {
            Opened::Table(table) => Bytes::Table(Table::open(table).map_err(|stop| stop.at(file, 0))?.into()),
            Opened::Text(source) if name(file).ends_with(".txt") => Bytes::Document(source),
            Opened::Text(mut source) => match source.first_byte().map_err(|stop| stop.at(file, source.line))? {
                Some(b'[') => {
                    source.consume(1).map_err(|stop| stop.at(file, source.line))?;
                    Bytes::Array(source)
                }
                _ => Bytes::Lines(source),
            },
        };
        Ok(Self { file: file.into(), kind, bytes, num_rows: 0, over: false })
    }

    /// Bytes read so far of the file as it is stored.
    pub fn position(&self) -> u64 {
        match &self.bytes {
            Bytes::Lines(source) | Bytes::Array(source) | Bytes::Document(source) => source.position(),
            Bytes::Table(table) => table.position(),
        }
    }

    fn step(&mut self) -> Step<Option<RawRow>> {
        let found = match &mut self.bytes {
            _ if self.over => return Ok(None),
            Bytes::Lines(source) => line(source)?,
            Bytes::Array(source) => element(source)?,
            Bytes::Document(_) if self.num_rows > 0 => None,
            Bytes::Document(source) => document(source, self.kind)?,
            Bytes::Table(table) => table.next()?.map(|row| (0, row.map_or(Content::TooLong, Content::Json))),
        };
        let Some((line, content)) = found else {
            self.over = true;
            return match self.num_rows {
                0 => Err(Stop::File(format!("an empty file, expected {}", reader::name(self.kind)))),
                _ => Ok(None),
            };
        };
        let place = Place { file: Arc::clone(&self.file), index: self.num_rows, line };
        self.num_rows += 1;
        Ok(Some(RawRow { place, content, numbered: matches!(self.bytes, Bytes::Array(_)) }))
    }

    /// The line that reading has come to.
    fn current_line(&self) -> u64 {
        match &self.bytes {
            Bytes::Lines(source) | Bytes::Array(source) | Bytes::Document(source) => source.line,
            Bytes::Table(_) => 0,
        }
    }
}

fn line(source: &mut Source) -> Step<Option<(u64, Content)>> {
    if source.first_byte()?.is_none() {
        return Ok(None);
    }
    let line = source.line;
    let bytes = source.take_while(|byte| byte != b'\n')?;
    Ok(Some((line, bytes.map_or(Content::TooLong, Content::Json))))
}

fn element(source: &mut Source) -> Step<Option<(u64, Content)>> {
    match source.first_byte()? {
        Some(b']') => {
            source.consume(1)?;
            return match source.first_byte()? {
                None => Ok(None),
                Some(_) => Err(Stop::Wrong("text after the end of the array, expected nothing".to_owned())),
            };
        }
        None => return Err(Stop::Wrong("the array does not end, expected `]`".to_owned())),
        Some(_) => {}
    }
    let line = source.line;
    let mut cut = Cut::default();
    let bytes = source.take_while(|byte| cut.inside(byte))?;
    if source.first_byte()? == Some(b',') {
        source.consume(1)?;
        if source.first_byte()? == Some(b']') {
            return Err(Stop::Wrong("a comma before the end of the array, expected a row".to_owned()));
        }
    }
    Ok(Some((line, bytes.map_or(Content::TooLong, Content::Json))))
}

fn document(source: &mut Source, kind: Option<Kind>) -> Step<Option<(u64, Content)>> {
    let first = source.line;
    let Some(bytes) = source.take_while(|_| true)? else {
        let what = format!(
            "a document of more than {} MB, expected at most that: split it, or make it `text` rows",
            MAX_RECORD_BYTES >> 20
        );
        return Err(Stop::File(what));
    };
    source.line = first;
    if let Some(kind) = kind.filter(|kind| *kind != Kind::Text) {
        let what = format!("plain text, expected a {} row a line: {}", kind.name(), kind.shapes());
        return Err(Stop::File(what));
    }
    let lines_before = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        source.line += lines_before(&bytes[..at]);
        return Err(Stop::Wrong("a NUL byte, expected text".to_owned()));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            source.line += lines_before(&error.as_bytes()[..at]);
            return Err(Stop::Wrong(not_utf8(error.as_bytes(), at)));
        }
    };
    Ok((!text.trim().is_empty()).then_some((first, Content::Document(text))))
}

impl Iterator for RawRows {
    type Item = Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        self.over |= step.is_err();
        step.map_err(|stop| stop.at(&self.file, self.current_line())).transpose()
    }
}

fn parse(bytes: &[u8]) -> Parsed<Value> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    if text.contains('\0') {
        return Err("a NUL byte, expected text".to_owned());
    }
    serde_json::from_str(text)
        .map_err(|error| format!("not JSON ({error}), expected one object a line or an array of objects"))
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

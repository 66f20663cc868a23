//! The rows of a file as they stand in it, one after the other: JSON Lines, a JSON array, plain text, CSV and TSV, each also compressed
//! with gzip or zstd; and Parquet. Records are bounded, and so is what a compressed file may grow to; whatever is wrong is named by file
//! and line, in Parquet by file and row.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::delimited::Delimited;
use super::files::quoted;
use super::json::{self, Depth, not_utf8};
use super::reader;
use super::records::{self, Kind, ReadRow};
use super::source::{Opened, Source, Step, Stop, count_lines, name, open};
use super::table::Table;
use align_core::error::Result;

/// The largest record, in bytes of the uncompressed file.
pub(super) const MAX_RECORD_BYTES: usize = 16 << 20;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as it was given.
    pub file: Arc<Path>,
    /// The row in its file, from 0; blank lines do not count.
    pub index: u64,
    /// The line on which the row begins, from 1; 0 in Parquet, which has none.
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

/// What stands in a row's place.
#[derive(Debug)]
pub(super) enum Content {
    /// A JSON text.
    Json(Vec<u8>),
    /// A text.
    Document(String),
    /// More than a record may have.
    TooLong,
    /// No row: what is wrong, and what was expected.
    Bad(String),
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
            Content::Json(bytes) => json::parse(bytes, self.place.line),
            Content::Document(text) => Ok(json!({ "text": text })),
            Content::TooLong => {
                Err(format!("a record of more than {} MB, expected at most that", MAX_RECORD_BYTES >> 20))
            }
            Content::Bad(what) => Err(what.clone()),
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
            Content::Document(_) | Content::TooLong | Content::Bad(_) => &Vec::new(),
        };
        records::parse_text(kind, &value, text).map_err(|what| self.named(what))
    }

    /// The row as one line of JSON Lines, without its end: of such a file as it stands, byte for byte.
    pub fn line(&self) -> Cow<'_, [u8]> {
        match &self.content {
            // Within JSON a line break is white space: strings have none.
            Content::Json(bytes) if self.numbered || bytes.contains(&b'\n') => {
                bytes.trim_ascii().iter().map(|byte| if b"\r\n".contains(byte) { b' ' } else { *byte }).collect()
            }
            Content::Json(bytes) => bytes.into(),
            Content::Document(text) => json!({ "text": text }).to_string().into_bytes().into(),
            Content::TooLong | Content::Bad(_) => Cow::Borrowed(&[]),
        }
    }

    /// Bytes that it takes in memory.
    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Json(bytes) => bytes.len(),
            Content::Document(text) => text.len(),
            Content::TooLong => 0,
            Content::Bad(what) => what.len(),
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
    /// Rows that were read to see what the file is.
    ahead: VecDeque<(u64, Content)>,
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
    /// CSV or TSV.
    Delimited(Box<Delimited>),
    /// Parquet.
    Table(Box<Table>),
}

impl RawRows {
    /// Opens a file. Which format it has shows in its content; `.txt` is one document, and `.csv` and `.tsv` are told by their names.
    /// `kind` is what its rows are to be, where that is known: it goes into what is said of the file as a whole.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] when it cannot be read at all.
    pub fn open(file: &Path, kind: Option<Kind>) -> Result<Self> {
        let mut ahead = VecDeque::new();
        let bytes = match open(file)? {
            Opened::Table(table) => Bytes::Table(Table::open(table).map_err(|stop| stop.at(file, 0))?.into()),
            Opened::Text(mut source) => match format_by_name(file) {
                "txt" => Bytes::Document(source),
                "csv" => Bytes::Delimited(Delimited::open(source, b',').map_err(|stop| stop.at(file, 1))?.into()),
                "tsv" => Bytes::Delimited(Delimited::open(source, b'\t').map_err(|stop| stop.at(file, 1))?.into()),
                _ if source.first_byte().map_err(|stop| stop.at(file, source.line))? == Some(b'[') => {
                    source.consume(1).map_err(|stop| stop.at(file, source.line))?;
                    Bytes::Array(source)
                }
                _ => {
                    ahead = first_rows(&mut source, file).map_err(|stop| stop.at(file, source.line))?;
                    Bytes::Lines(source)
                }
            },
        };
        Ok(Self { file: file.into(), kind, bytes, ahead, num_rows: 0, over: false })
    }

    /// Bytes read so far of the file as it is stored.
    pub fn position(&self) -> u64 {
        match &self.bytes {
            Bytes::Lines(source) | Bytes::Array(source) | Bytes::Document(source) => source.position(),
            Bytes::Delimited(table) => table.position(),
            Bytes::Table(table) => table.position(),
        }
    }

    fn step(&mut self) -> Step<Option<RawRow>> {
        let found = match &mut self.bytes {
            _ if self.over => return Ok(None),
            _ if !self.ahead.is_empty() => self.ahead.pop_front(),
            Bytes::Lines(source) => line(source)?,
            Bytes::Array(source) => element(source)?,
            Bytes::Document(_) if self.num_rows > 0 => None,
            Bytes::Document(source) => document(source, self.kind)?,
            Bytes::Delimited(table) => table.next()?,
            Bytes::Table(table) => table.next()?.map(|row| (0, row.map_or(Content::TooLong, Content::Json))),
        };
        let Some((line, content)) = found else {
            self.over = true;
            return match self.num_rows {
                0 => Err(Stop::File(format!("{}, expected {}", self.without_rows(), reader::name(self.kind)))),
                _ => Ok(None),
            };
        };
        let place = Place { file: Arc::clone(&self.file), index: self.num_rows, line };
        self.num_rows += 1;
        Ok(Some(RawRow { place, content, numbered: matches!(self.bytes, Bytes::Array(_)) }))
    }

    /// What a file is that has no row.
    fn without_rows(&self) -> &'static str {
        match &self.bytes {
            Bytes::Table(_) => "a Parquet file of 0 rows",
            Bytes::Delimited(table) if table.has_header() => "a header without rows",
            Bytes::Array(_) => "an empty array",
            _ => "an empty file",
        }
    }

    /// The line that reading has come to.
    fn current_line(&self) -> u64 {
        match &self.bytes {
            Bytes::Lines(source) | Bytes::Array(source) | Bytes::Document(source) => source.line,
            Bytes::Delimited(table) => table.current_line(),
            Bytes::Table(_) => 0,
        }
    }
}

/// The format that a file has by its name alone, whatever is in it: `txt`, `csv` or `tsv`; "" of any other.
pub fn format_by_name(file: &Path) -> &'static str {
    let name = name(file);
    ["txt", "csv", "tsv"].into_iter().find(|ending| name.ends_with(&format!(".{ending}"))).unwrap_or_default()
}

/// The first lines of what may be JSON Lines. One object over several lines, and nothing behind it, is a row like any other; several
/// such objects, and an object that holds the rows, are refused.
fn first_rows(source: &mut Source, file: &Path) -> Step<VecDeque<(u64, Content)>> {
    let Some((line_number, first)) = line(source)? else { return Ok(VecDeque::new()) };
    let Content::Json(mut object) = first else { return Ok([(line_number, first)].into()) };
    if json::opens_object(&object) {
        match line(source)? {
            Some((number, Content::Json(second))) if json::is_object(&second) => {
                return Ok([(line_number, Content::Json(object)), (number, Content::Json(second))].into());
            }
            Some((_, Content::Json(second))) => {
                object.push(b'\n');
                object.extend(second);
            }
            Some((_, other)) => return Ok([(line_number, other)].into()),
            None => {}
        }
        object = match rest_of_object(source, object)? {
            Some(object) => object,
            None => return Ok([(line_number, Content::TooLong)].into()),
        };
        if source.first_byte()?.is_some() {
            let what = format!(
                "pretty-printed JSON, objects over several lines, expected one object a line; convert it: jq -c . {} > rows.jsonl",
                quoted(file)
            );
            return Err(Stop::File(what));
        }
    } else if source.first_byte()?.is_some() {
        return Ok([(line_number, Content::Json(object))].into());
    }
    if let Some((key, program, num_rows)) = json::rows_within(&object) {
        let what = format!(
            "one object that holds rows under `{key}` ({num_rows}), expected one object a line or an array of objects; \
             convert it: jq -c '{program}' {} > rows.jsonl",
            quoted(file)
        );
        return Err(Stop::File(what));
    }
    Ok([(line_number, Content::Json(object))].into())
}

/// The object that `begun` begins, to its last bracket; `None` where it is longer than a record may be.
fn rest_of_object(source: &mut Source, begun: Vec<u8>) -> Step<Option<Vec<u8>>> {
    let mut depth = Depth::default();
    begun.iter().for_each(|byte| depth.pass(*byte));
    let mut is_open = depth.brackets > 0;
    let rest = source.take_while(|byte| {
        let wanted = is_open;
        depth.pass(byte);
        is_open = depth.brackets > 0;
        wanted
    })?;
    if is_open {
        return Err(Stop::Wrong("an object over several lines that does not end, expected `}`".to_owned()));
    }
    let within = |rest: &Vec<u8>| begun.len() + rest.len() < MAX_RECORD_BYTES;
    Ok(rest.filter(within).map(|rest| [begun, rest].concat()))
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
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        source.line += count_lines(&bytes[..at]);
        return Err(Stop::Wrong("a NUL byte, expected text".to_owned()));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            source.line += count_lines(&error.as_bytes()[..at]);
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

/// Where an element of an array ends: at a comma or bracket that belongs to the array itself.
#[derive(Default)]
struct Cut(Depth);

impl Cut {
    fn inside(&mut self, byte: u8) -> bool {
        let ends = !self.0.in_string && self.0.brackets == 0 && b",]".contains(&byte);
        if !ends {
            self.0.pass(byte);
        }
        !ends
    }
}

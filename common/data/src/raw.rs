//! Iterates over the raw rows of a file: JSON Lines, a JSON array, plain text, CSV and TSV (each also
//! compressed with gzip or zstd), and Parquet. The sizes of records and of decompressed files are limited.
//! Mistakes are reported with file and line, in Parquet with file and row.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::delimited::Delimited;
use super::foreign::quoted;
use super::json::{self, Depth, not_utf8};
use super::records::{Kind, name_of_rows};
use super::row::Content;
use super::source::{MAX_RECORD_BYTES, Opened, ReadError, ReadResult, Source, count_lines, name, open};
use super::table::Table;
use align_core::error::Result;

pub use super::records::Parsed;
pub use super::row::{RawRow, RowLocation};

/// An iterator over the rows of a file. A damaged file ends with an error.
pub struct RawRows {
    file: Arc<Path>,
    kind: Option<Kind>,
    bytes: Bytes,
    /// Rows that were read to recognise the format.
    ahead: VecDeque<(u64, Content)>,
    num_rows: u64,
    /// Whether the iterator has ended.
    over: bool,
}

enum Bytes {
    /// JSON Lines; blank lines are skipped.
    Lines(Source),
    /// The elements of one JSON array, split at commas outside strings and brackets.
    Array(Source),
    /// Plain text: the file is one document.
    Document(Source),
    /// CSV or TSV.
    Delimited(Box<Delimited>),
    /// Parquet.
    Table(Box<Table>),
}

impl RawRows {
    /// Opens a file. The format is recognised by the content, except for `.txt` (one document), `.csv` and
    /// `.tsv`, which are recognised by name. `kind` is the expected kind of rows, if known; messages about
    /// the file name it.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] when it cannot be read at all.
    pub fn open(file: &Path, kind: Option<Kind>) -> Result<Self> {
        let mut ahead = VecDeque::new();
        let bytes = match open(file)? {
            Opened::Table(table) => Bytes::Table(Table::open(table).map_err(|error| error.at(file, 0))?.into()),
            Opened::Text(mut source) => match format_by_name(file) {
                "txt" => Bytes::Document(source),
                "csv" => Bytes::Delimited(Delimited::open(source, b',').map_err(|error| error.at(file, 1))?.into()),
                "tsv" => Bytes::Delimited(Delimited::open(source, b'\t').map_err(|error| error.at(file, 1))?.into()),
                _ if source.first_byte().map_err(|error| error.at(file, source.line))? == Some(b'[') => {
                    source.consume(1).map_err(|error| error.at(file, source.line))?;
                    Bytes::Array(source)
                }
                _ => {
                    ahead = first_rows(&mut source, file).map_err(|error| error.at(file, source.line))?;
                    Bytes::Lines(source)
                }
            },
        };
        Ok(Self { file: file.into(), kind, bytes, ahead, num_rows: 0, over: false })
    }

    /// The number of bytes of the stored file read so far.
    pub fn position(&self) -> u64 {
        match &self.bytes {
            Bytes::Lines(source) | Bytes::Array(source) | Bytes::Document(source) => source.position(),
            Bytes::Delimited(table) => table.position(),
            Bytes::Table(table) => table.position(),
        }
    }

    fn next_row(&mut self) -> ReadResult<Option<RawRow>> {
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
                0 => Err(ReadError::File(format!("{}, expected {}", self.without_rows(), name_of_rows(self.kind)))),
                _ => Ok(None),
            };
        };
        let location = RowLocation { file: Arc::clone(&self.file), index: self.num_rows, line };
        self.num_rows += 1;
        Ok(Some(RawRow { location, content, numbered: matches!(self.bytes, Bytes::Array(_)) }))
    }

    /// Describes a file without rows.
    fn without_rows(&self) -> &'static str {
        match &self.bytes {
            Bytes::Table(_) => "a Parquet file of 0 rows",
            Bytes::Delimited(table) if table.has_header() => "a header without rows",
            Bytes::Array(_) => "an empty array",
            _ => "an empty file",
        }
    }

    /// The current line.
    fn current_line(&self) -> u64 {
        match &self.bytes {
            Bytes::Lines(source) | Bytes::Array(source) | Bytes::Document(source) => source.line,
            Bytes::Delimited(table) => table.current_line(),
            Bytes::Table(_) => 0,
        }
    }
}

/// The format that is recognised by name: `txt`, `csv` or `tsv`; "" for any other.
pub fn format_by_name(file: &Path) -> &'static str {
    let name = name(file);
    ["txt", "csv", "tsv"].into_iter().find(|ending| name.ends_with(&format!(".{ending}"))).unwrap_or_default()
}

/// Reads the first rows of what may be JSON Lines. A single object over several lines is accepted as one row.
/// Several such objects, or one object that contains the rows, are refused.
fn first_rows(source: &mut Source, file: &Path) -> ReadResult<VecDeque<(u64, Content)>> {
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
                "pretty-printed JSON, objects over several lines, expected one object per line; convert it: jq -c . {} > rows.jsonl",
                quoted(file)
            );
            return Err(ReadError::File(what));
        }
    } else if source.first_byte()?.is_some() {
        return Ok([(line_number, Content::Json(object))].into());
    }
    if let Some((key, program, num_rows)) = json::rows_within(&object) {
        let what = format!(
            "one object with rows under `{key}` ({num_rows}), expected one object per line or an array of objects; \
             convert it: jq -c '{program}' {} > rows.jsonl",
            quoted(file)
        );
        return Err(ReadError::File(what));
    }
    Ok([(line_number, Content::Json(object))].into())
}

/// Reads the rest of the object that begins with `begun`; `None` if it is above the size limit.
fn rest_of_object(source: &mut Source, begun: Vec<u8>) -> ReadResult<Option<Vec<u8>>> {
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
        return Err(ReadError::Line("an object over several lines that does not end, expected `}`".to_owned()));
    }
    let within = |rest: &Vec<u8>| begun.len() + rest.len() < MAX_RECORD_BYTES;
    Ok(rest.filter(within).map(|rest| [begun, rest].concat()))
}

fn line(source: &mut Source) -> ReadResult<Option<(u64, Content)>> {
    if source.first_byte()?.is_none() {
        return Ok(None);
    }
    let line = source.line;
    let bytes = source.take_while(|byte| byte != b'\n')?;
    Ok(Some((line, bytes.map_or(Content::TooLong, Content::Json))))
}

fn element(source: &mut Source) -> ReadResult<Option<(u64, Content)>> {
    match source.first_byte()? {
        Some(b']') => {
            source.consume(1)?;
            return match source.first_byte()? {
                None => Ok(None),
                Some(_) => Err(ReadError::Line("text after the end of the array, expected nothing".to_owned())),
            };
        }
        None => return Err(ReadError::Line("the array does not end, expected `]`".to_owned())),
        Some(_) => {}
    }
    let line = source.line;
    let mut scanner = ArrayScanner::default();
    let bytes = source.take_while(|byte| scanner.is_inside(byte))?;
    if source.first_byte()? == Some(b',') {
        source.consume(1)?;
        if source.first_byte()? == Some(b']') {
            return Err(ReadError::Line("a comma before the end of the array, expected a row".to_owned()));
        }
    }
    Ok(Some((line, bytes.map_or(Content::TooLong, Content::Json))))
}

fn document(source: &mut Source, kind: Option<Kind>) -> ReadResult<Option<(u64, Content)>> {
    let first = source.line;
    let Some(bytes) = source.take_while(|_| true)? else {
        let what = format!(
            "a document of more than {} MB, expected at most that: split it, or turn it into `text` rows",
            MAX_RECORD_BYTES >> 20
        );
        return Err(ReadError::File(what));
    };
    source.line = first;
    if let Some(kind) = kind.filter(|kind| *kind != Kind::Text) {
        let what = format!("plain text, expected one {} row per line: {}", kind.name(), kind.shapes());
        return Err(ReadError::File(what));
    }
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        source.line += count_lines(&bytes[..at]);
        return Err(ReadError::Line("a NUL byte, expected text".to_owned()));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            source.line += count_lines(&error.as_bytes()[..at]);
            return Err(ReadError::Line(not_utf8(error.as_bytes(), at)));
        }
    };
    Ok((!text.trim().is_empty()).then_some((first, Content::Document(text))))
}

impl Iterator for RawRows {
    type Item = Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        self.over |= row.is_err();
        row.map_err(|error| error.at(&self.file, self.current_line())).transpose()
    }
}

/// Finds the end of an array element: a comma or bracket that belongs to the array itself.
#[derive(Default)]
struct ArrayScanner(Depth);

impl ArrayScanner {
    fn is_inside(&mut self, byte: u8) -> bool {
        let ends = !self.0.in_string && self.0.brackets == 0 && b",]".contains(&byte);
        if !ends {
            self.0.pass(byte);
        }
        !ends
    }
}

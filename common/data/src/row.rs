//! A row as it is in its file: its location, and its content before it is parsed.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::json;
use super::records::{self, Kind, Parsed, ReadRow};
use super::source::MAX_RECORD_BYTES;

/// The location of a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowLocation {
    /// The file, as it was given.
    pub file: Arc<Path>,
    /// The index of the row in its file, from 0; blank lines do not count.
    pub index: u64,
    /// The line on which the row begins, from 1; 0 in Parquet, which has none.
    pub line: u64,
}

impl fmt::Display for RowLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: row {}", self.file.display(), self.index),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

/// A row before it is parsed.
#[derive(Debug)]
pub struct RawRow {
    /// Its location.
    pub location: RowLocation,
    pub(super) content: Content,
    /// Whether messages include the row's index: elements of an array may share a line.
    pub(super) numbered: bool,
}

/// The content of a row.
#[derive(Debug)]
pub(super) enum Content {
    /// A JSON text.
    Json(Vec<u8>),
    /// A text.
    Document(String),
    /// A record above the size limit.
    TooLong,
    /// Not a valid row: what is wrong, and what was expected.
    Bad(String),
}

impl RawRow {
    /// The row as JSON; a document is the row `{"text": …}`.
    ///
    /// # Errors
    /// What is wrong with it and what was expected, as one line.
    pub fn value(&self) -> Parsed<Value> {
        let value = match &self.content {
            Content::Json(bytes) => json::parse(bytes, self.location.line),
            Content::Document(text) => Ok(json!({ "text": text })),
            Content::TooLong => {
                Err(format!("a record of more than {} MB, expected at most that", MAX_RECORD_BYTES >> 20))
            }
            Content::Bad(what) => Err(what.clone()),
        };
        value.map_err(|what| self.named(what))
    }

    /// The row as a record of a kind.
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

    /// The row as one line of JSON Lines, without the line break. Rows of JSON Lines are returned byte for
    /// byte.
    pub fn line(&self) -> Cow<'_, [u8]> {
        match &self.content {
            // A line break in JSON is white space: strings cannot contain one.
            Content::Json(bytes) if self.numbered || bytes.contains(&b'\n') => {
                bytes.trim_ascii().iter().map(|byte| if b"\r\n".contains(byte) { b' ' } else { *byte }).collect()
            }
            Content::Json(bytes) => bytes.into(),
            Content::Document(text) => json!({ "text": text }).to_string().into_bytes().into(),
            Content::TooLong | Content::Bad(_) => Cow::Borrowed(&[]),
        }
    }

    /// Its size in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Json(bytes) => bytes.len(),
            Content::Document(text) => text.len(),
            Content::TooLong => 0,
            Content::Bad(what) => what.len(),
        }
    }

    fn named(&self, what: String) -> String {
        if self.numbered { format!("row {}: {what}", self.location.index) } else { what }
    }
}

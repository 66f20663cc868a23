//! Typed rows: a caller that reads prompts gets prompts, without matching on [`Record`].

use super::records::{Comparison, Kind, Parsed, Record, parse};
use super::row::RawRow;
use align_text::chatml::Dialogue;
use serde_json::Value;

/// A row of one [`Kind`].
pub trait TypedRow: Sized {
    /// The kind.
    const KIND: Kind;

    /// Converts a record; `None` if it is of another kind.
    fn from_record(record: Record) -> Option<Self>;
}

/// A dialogue with answers that are trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Chat(pub Dialogue);

/// A dialogue to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt(pub Dialogue);

/// A document.
#[derive(Debug, Clone, PartialEq)]
pub struct Text(pub String);

/// Dialogues whose last answers are scored.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// A whole dialogue.
    One(Dialogue),
    /// One prompt with each of its answers, at least one: whole dialogues.
    Several(Vec<Dialogue>),
}

impl TypedRow for Chat {
    const KIND: Kind = Kind::Chat;

    fn from_record(record: Record) -> Option<Self> {
        if let Record::Chat(dialogue) = record { Some(Self(dialogue)) } else { None }
    }
}

impl TypedRow for Prompt {
    const KIND: Kind = Kind::Prompt;

    fn from_record(record: Record) -> Option<Self> {
        if let Record::Prompt(dialogue) = record { Some(Self(dialogue)) } else { None }
    }
}

impl TypedRow for Comparison {
    const KIND: Kind = Kind::Comparison;

    fn from_record(record: Record) -> Option<Self> {
        if let Record::Comparison(comparison) = record { Some(comparison) } else { None }
    }
}

impl TypedRow for Text {
    const KIND: Kind = Kind::Text;

    fn from_record(record: Record) -> Option<Self> {
        if let Record::Text(text) = record { Some(Self(text)) } else { None }
    }
}

impl TypedRow for Response {
    const KIND: Kind = Kind::Response;

    fn from_record(record: Record) -> Option<Self> {
        match record {
            Record::Response(dialogue) => Some(Self::One(dialogue)),
            Record::Responses(dialogues) => Some(Self::Several(dialogues)),
            _ => None,
        }
    }
}

/// As [`TypedRow::from_record`], with a message as the error.
pub(super) fn typed<T: TypedRow>(record: Record) -> Parsed<T> {
    T::from_record(record).ok_or_else(|| format!("a row of another kind, expected {}", T::KIND.shapes()))
}

/// As [`parse`], for a type of row. Also returns the keys that were not read.
///
/// # Errors
/// As [`parse`].
pub fn parse_row<T: TypedRow>(row: &Value) -> Parsed<(T, Vec<String>)> {
    let read = parse(T::KIND, row)?;
    Ok((typed(read.record)?, read.unread))
}

impl RawRow {
    /// The row as a type, and its keys that were not read.
    ///
    /// # Errors
    /// As [`RawRow::record`].
    pub fn read<T: TypedRow>(&self) -> Parsed<(T, Vec<String>)> {
        let read = self.record(T::KIND)?;
        Ok((typed(read.record)?, read.unread))
    }
}

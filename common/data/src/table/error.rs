//! Why a table, or a row of it, cannot be read.

use std::fmt;
use std::io;

use parquet::errors::ParquetError;

use super::super::source::ReadError;

/// Why a row cannot be written.
pub(super) enum RowError {
    /// It is above the record size limit.
    TooLong,
    /// The file cannot be read further.
    Damaged(ParquetError),
}

impl From<ParquetError> for RowError {
    fn from(error: ParquetError) -> Self {
        RowError::Damaged(error)
    }
}

pub(super) type RowResult<T> = Result<T, RowError>;

pub(super) fn contradiction() -> RowError {
    RowError::Damaged(damaged("its columns contradict each other"))
}

/// A message of our own, carried through the library's error type.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// An error with a complete message: what is wrong and what was expected.
pub(super) fn refused(what: String) -> ParquetError {
    ParquetError::External(Box::new(Refused(what)))
}

pub(super) fn damaged(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

/// Adds the column's name to an error.
pub(super) fn within(column: &str, error: ParquetError) -> ParquetError {
    let column = clipped(column);
    match error {
        ParquetError::External(inner) => match inner.downcast::<Refused>() {
            Ok(inner) => refused(format!("column `{column}`: {inner}")),
            Err(other) => ParquetError::External(other),
        },
        error => ParquetError::General(format!("column `{column}`: {}", library_message(&error))),
    }
}

/// The library's message, on one line.
fn library_message(error: &ParquetError) -> String {
    let text = error.to_string();
    clipped(text.strip_prefix("Parquet error: ").unwrap_or(&text))
}

/// Data is untrusted: a message quotes little of it, on one line.
fn clipped(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(160).collect()
}

pub(super) fn read_error(error: ParquetError) -> ReadError {
    let expected = "expected a whole file";
    match error {
        ParquetError::External(inner) => match inner.downcast::<Refused>() {
            Ok(refused) => ReadError::File(refused.0),
            Err(inner) => match inner.downcast::<io::Error>() {
                Ok(error) if error.kind() != io::ErrorKind::UnexpectedEof => ReadError::Io(*error),
                Ok(_) => ReadError::File(format!("damaged or cut off Parquet data (it ends early), {expected}")),
                Err(other) => {
                    ReadError::File(format!("damaged Parquet data ({}), {expected}", clipped(&other.to_string())))
                }
            },
        },
        error => ReadError::File(format!("damaged or cut off Parquet data ({}), {expected}", library_message(&error))),
    }
}

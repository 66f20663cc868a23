//! Assembles rows from columns, and writes each as one line of JSON. Null fields are left out.

use std::ops::Range;

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::errors::ParquetError;
use parquet::schema::types::Type;

use super::super::source::MAX_RECORD_BYTES;
use super::column::Column;
use super::error::{RowError, RowResult, contradiction, refused, within};
use super::pages::MAX_VALUES;

/// A part of a row.
#[derive(Debug)]
pub(super) struct Node {
    /// Its columns.
    columns: Range<usize>,
    /// The minimum definition level at which it is present.
    level: i16,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Value,
    /// Fields, each with its name as JSON and a colon.
    Object(Vec<(Vec<u8>, Node)>),
    /// Elements. Each but the first begins at this repetition level.
    List(Box<Node>, i16),
}

impl Node {
    /// The root: the row itself.
    pub(super) fn row(schema: &Type) -> Result<Self, ParquetError> {
        Self::required(schema, 0, 0, &mut 0)
    }

    fn new(field: &Type, level: i16, repeated: i16, next: &mut usize) -> Result<Self, ParquetError> {
        match field.get_basic_info().repetition() {
            Repetition::REQUIRED => Self::required(field, level, repeated, next),
            Repetition::OPTIONAL => Self::required(field, level + 1, repeated, next),
            // A repeated field without an enclosing list group is a list that is never null.
            Repetition::REPEATED => {
                let start = *next;
                let element = Self::required(field, level + 1, repeated + 1, next)?;
                Ok(Self { columns: start..*next, level, shape: Shape::List(element.into(), repeated + 1) })
            }
        }
    }

    fn required(field: &Type, level: i16, repeated: i16, next: &mut usize) -> Result<Self, ParquetError> {
        let start = *next;
        let shape = if field.is_primitive() {
            *next += 1;
            Shape::Value
        } else if let Some(inner) = repeated_group(field) {
            let element = if is_element(inner) {
                Self::required(inner, level + 1, repeated + 1, next)?
            } else {
                Self::new(&inner.get_fields()[0], level + 1, repeated + 1, next)?
            };
            Shape::List(element.into(), repeated + 1)
        } else {
            let named = field.get_fields().iter().map(|field| {
                let name = serde_json::json!(field.name());
                Ok((format!("{name}:").into_bytes(), Self::new(field, level, repeated, next)?))
            });
            Shape::Object(named.collect::<Result<_, ParquetError>>()?)
        };
        if start == *next {
            return Err(refused(format!("`{}` has no columns, expected at least one", field.name())));
        }
        Ok(Self { columns: start..*next, level, shape })
    }

    /// Appends the JSON of the columns' current values; false if the value is null.
    pub(super) fn write(&self, columns: &mut [Column], out: &mut Vec<u8>) -> RowResult<bool> {
        let (level, repeated) = columns[self.columns.start].peek()?;
        for column in &columns[self.columns.clone()] {
            if column.peek()?.1 != repeated {
                return Err(contradiction());
            }
        }
        if level < self.level {
            self.pass(level, columns)?;
            return Ok(false);
        }
        match &self.shape {
            Shape::Value => return columns[self.columns.start].write(out),
            Shape::Object(fields) => {
                let open = out.len();
                for (name, field) in fields {
                    let start = out.len();
                    out.push(if start == open { b'{' } else { b',' });
                    out.extend_from_slice(name);
                    if !field.write(columns, out)? {
                        out.truncate(start);
                    }
                }
                if out.len() == open {
                    out.push(b'{');
                }
                out.push(b'}');
            }
            Shape::List(..) if level == self.level => {
                self.pass(level, columns)?;
                out.extend_from_slice(b"[]");
            }
            Shape::List(element, begins) => {
                out.push(b'[');
                loop {
                    if !element.write(columns, out)? {
                        out.extend_from_slice(b"null");
                    }
                    if out.len() > MAX_RECORD_BYTES {
                        return Err(RowError::TooLong);
                    }
                    match columns[self.columns.start].next_repeated() {
                        Some(repeated) if repeated > *begins => return Err(contradiction()),
                        Some(repeated) if repeated == *begins => out.push(b','),
                        _ => break,
                    }
                }
                out.push(b']');
            }
        }
        Ok(true)
    }

    /// Skips a null or empty value: each of its columns has one level, the same for all.
    fn pass(&self, level: i16, columns: &mut [Column]) -> RowResult<()> {
        for column in &mut columns[self.columns.clone()] {
            if column.peek()?.0 != level {
                return Err(contradiction());
            }
            column.at += 1;
        }
        Ok(())
    }
}

/// The repeated group within a list or map.
fn repeated_group(field: &Type) -> Option<&Type> {
    let info = field.get_basic_info();
    let converted =
        matches!(info.converted_type(), ConvertedType::LIST | ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE);
    let logical = matches!(info.logical_type_ref(), Some(LogicalType::List | LogicalType::Map));
    match field.get_fields() {
        [inner] if (converted || logical) && inner.get_basic_info().repetition() == Repetition::REPEATED => Some(inner),
        _ => None,
    }
}

/// Whether a list's repeated group is the element itself, or a wrapper around it.
///
/// Source: <https://github.com/apache/parquet-format/blob/master/LogicalTypes.md>, "Backward-compatibility
/// rules".
fn is_element(inner: &Type) -> bool {
    if inner.is_primitive() {
        return true;
    }
    match inner.get_fields() {
        [only] if only.get_basic_info().repetition() != Repetition::REPEATED => {
            inner.name() == "array" || inner.name().ends_with("_tuple")
        }
        _ => true,
    }
}

/// Appends the next row as one line of JSON. The columns must be at the end of the previous row.
pub(super) fn next_row(row: &Node, columns: &mut [Column], out: &mut Vec<u8>) -> RowResult<()> {
    let mut num_values = 0;
    for column in columns.iter_mut() {
        let filled = column.fill().map_err(|error| within(column.name(), error));
        num_values += filled?;
    }
    if num_values > MAX_VALUES {
        return Err(RowError::TooLong);
    }
    row.write(columns, out)?;
    if out.len() > MAX_RECORD_BYTES {
        return Err(RowError::TooLong);
    }
    if columns.iter().all(Column::is_over) { Ok(()) } else { Err(contradiction()) }
}

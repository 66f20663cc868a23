//! The columns of a row group: the levels and values of one row at a time, and each value as JSON.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::schema::types::{ColumnDescPtr, Type};

use super::super::source::MAX_RECORD_BYTES;
use super::error::{RowError, RowResult, contradiction, damaged};
use super::pages::Pages;

/// A column of a row group, with its values of the current row.
pub(super) struct Column {
    name: String,
    values: Box<dyn Values>,
    max_level: i16,
    repeats: bool,
    /// Definition and repetition levels, if the column has any.
    levels: Vec<i16>,
    repeated: Vec<i16>,
    num_levels: usize,
    /// The indices of the next level and value.
    pub(super) at: usize,
    next_value: usize,
    /// The number of values in the pages of the current row.
    row_values: Arc<AtomicU64>,
}

impl Column {
    pub(super) fn new(descriptor: &ColumnDescPtr, pages: Pages, row_values: Arc<AtomicU64>) -> Self {
        let form = Form::of(descriptor.self_type());
        let reader = get_column_reader(descriptor.clone(), Box::new(pages));
        Self {
            name: descriptor.path().string(),
            values: values(reader, form),
            max_level: descriptor.max_def_level(),
            repeats: descriptor.max_rep_level() > 0,
            levels: Vec::new(),
            repeated: Vec::new(),
            num_levels: 0,
            at: 0,
            next_value: 0,
            row_values,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Advances to the next row and returns its number of values and nulls.
    pub(super) fn fill(&mut self) -> Result<u64, ParquetError> {
        (self.at, self.next_value) = (0, 0);
        self.levels.clear();
        self.repeated.clear();
        self.row_values.store(0, Ordering::Relaxed);
        let (rows, levels) = self.values.read(&mut self.levels, &mut self.repeated)?;
        self.num_levels = levels;
        if rows != 1 || (self.repeats && self.repeated.first() != Some(&0)) {
            return Err(damaged("it has fewer rows than the file says"));
        }
        Ok(levels as u64)
    }

    /// Whether the row was read completely.
    pub(super) fn is_over(&self) -> bool {
        self.at == self.num_levels
    }

    /// The next definition and repetition level.
    pub(super) fn peek(&self) -> RowResult<(i16, i16)> {
        if self.at >= self.num_levels {
            return Err(contradiction());
        }
        let level = self.levels.get(self.at).copied().unwrap_or(self.max_level);
        Ok((level, self.repeated.get(self.at).copied().unwrap_or(0)))
    }

    pub(super) fn next_repeated(&self) -> Option<i16> {
        self.repeated.get(self.at).copied()
    }

    pub(super) fn write(&mut self, out: &mut Vec<u8>) -> RowResult<bool> {
        let written = self.values.write(self.next_value, out)?;
        (self.at, self.next_value) = (self.at + 1, self.next_value + 1);
        Ok(written)
    }
}

/// The values of a column of any type.
trait Values {
    /// Reads the values of one row; returns the numbers of rows and levels.
    fn read(&mut self, levels: &mut Vec<i16>, repeated: &mut Vec<i16>) -> Result<(usize, usize), ParquetError>;
    /// Appends a value as JSON; false if JSON cannot represent it.
    fn write(&self, index: usize, out: &mut Vec<u8>) -> RowResult<bool>;
}

/// `write` appends one value as JSON.
struct Typed<T: DataType, W> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
    write: W,
}

impl<T: DataType, W: Fn(&T::T, &mut Vec<u8>) -> RowResult<bool>> Values for Typed<T, W> {
    fn read(&mut self, levels: &mut Vec<i16>, repeated: &mut Vec<i16>) -> Result<(usize, usize), ParquetError> {
        self.values.clear();
        // Release the memory of a long row.
        self.values.shrink_to(1 << 10);
        let (rows, _, levels) = self.reader.read_records(1, Some(levels), Some(repeated), &mut self.values)?;
        Ok((rows, levels))
    }

    fn write(&self, index: usize, out: &mut Vec<u8>) -> RowResult<bool> {
        (self.write)(self.values.get(index).ok_or_else(contradiction)?, out)
    }
}

fn values(reader: ColumnReader, form: Form) -> Box<dyn Values> {
    fn typed<T: DataType>(
        reader: ColumnReaderImpl<T>,
        write: impl Fn(&T::T, &mut Vec<u8>) -> RowResult<bool> + 'static,
    ) -> Box<dyn Values> {
        Box::new(Typed { reader, values: Vec::new(), write })
    }
    match reader {
        ColumnReader::BoolColumnReader(reader) => typed(reader, |value, out| Ok(shown(value, out))),
        ColumnReader::Int32ColumnReader(reader) => {
            typed(reader, move |value, out| Ok(form.integer((*value).into(), u64::from(*value as u32), out)))
        }
        ColumnReader::Int64ColumnReader(reader) => {
            typed(reader, move |value, out| Ok(form.integer(*value, *value as u64, out)))
        }
        ColumnReader::FloatColumnReader(reader) => typed(reader, |value, out| Ok(number(f64::from(*value), out))),
        ColumnReader::DoubleColumnReader(reader) => typed(reader, |value, out| Ok(number(*value, out))),
        ColumnReader::ByteArrayColumnReader(reader) => typed(reader, move |value, out| form.text(value, out)),
        // Timestamps of old files and numbers of unusual width do not occur in text data.
        ColumnReader::Int96ColumnReader(reader) => typed(reader, |_, _| Ok(false)),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => typed(reader, |_, _| Ok(false)),
    }
}

/// How the bytes of a value are interpreted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Plain,
    Unsigned,
    /// A decimal number with this many digits after the point.
    Decimal(usize),
    Text,
    /// Bytes that may be text: old writers do not annotate it.
    Bytes,
    /// A type without a JSON equivalent.
    Other,
}

impl Form {
    fn of(column: &Type) -> Self {
        let info = column.get_basic_info();
        let bytes = column.get_physical_type() == parquet::basic::Type::BYTE_ARRAY;
        match (info.logical_type_ref(), info.converted_type()) {
            (Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _)
            | (None, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => Form::Text,
            (None, ConvertedType::NONE) if bytes => Form::Bytes,
            _ if bytes => Form::Other,
            (_, ConvertedType::DECIMAL) => match column {
                Type::PrimitiveType { scale, .. } if (0..=18).contains(scale) => Form::Decimal(*scale as usize),
                _ => Form::Other,
            },
            (_, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64) => {
                Form::Unsigned
            }
            _ => Form::Plain,
        }
    }

    fn integer(self, value: i64, unsigned: u64, out: &mut Vec<u8>) -> bool {
        match self {
            Form::Unsigned => shown(&unsigned, out),
            Form::Decimal(scale) if scale > 0 => {
                let (sign, digits) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
                let unit = 10_u64.pow(scale as u32);
                shown(&format_args!("{sign}{}.{:0scale$}", digits / unit, digits % unit), out)
            }
            Form::Other => false,
            _ => shown(&value, out),
        }
    }

    /// Bytes that are not UTF-8 are found when the row is parsed, as in any other file.
    fn text(self, value: &ByteArray, out: &mut Vec<u8>) -> RowResult<bool> {
        let bytes = value.data();
        if self == Form::Other || (self == Form::Bytes && std::str::from_utf8(bytes).is_err()) {
            return Ok(false);
        }
        if out.len() + bytes.len() > MAX_RECORD_BYTES {
            return Err(RowError::TooLong);
        }
        quote(bytes, out);
        Ok(true)
    }
}

fn shown(value: &impl std::fmt::Display, out: &mut Vec<u8>) -> bool {
    write!(out, "{value}").expect("memory can be written to");
    true
}

/// Appends a finite number. JSON has no infinity, and tables use NaN for missing numbers.
fn number(value: f64, out: &mut Vec<u8>) -> bool {
    value.is_finite() && shown(&serde_json::json!(value), out)
}

/// Appends these bytes as a JSON string.
fn quote(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => write!(out, "\\u{byte:04x}").expect("memory can be written to"),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

//! Tables: Parquet, row by row. The library decodes schema, levels and values; what it is handed is bounded before ([`thrift`] looks at
//! the footer, [`pages`] at every page), and one row at a time becomes a line of JSON ([`rows`]).

mod pages;
mod rows;
#[cfg(test)]
mod tests;
mod thrift;

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};

use super::source::{Step, Stop};
use pages::{Counts, Pages};
use rows::{Column, Halt, Node};

/// The first and last bytes of a Parquet file.
pub(super) const MAGIC: &[u8; 4] = b"PAR1";
/// Schema and places of all columns. A thousand row groups of ten columns have some three.
const MAX_FOOTER_BYTES: u64 = 16 << 20;
/// A row counts as many bytes at least towards what a file may grow to: a billion empty rows fit into a few bytes.
const MIN_ROW_BYTES: u64 = 32;

/// A Parquet file on its way.
pub(super) struct Table {
    file: Arc<File>,
    metadata: ParquetMetaData,
    row: Node,
    counts: Arc<Counts>,
    /// Bytes of the rows so far.
    grown: u64,
    /// The row group that is next, the columns of the one before it, and its rows that are left.
    next_group: usize,
    columns: Vec<Column>,
    rows_left: u64,
}

impl Table {
    pub(super) fn open(file: File) -> Step<Self> {
        let metadata = file.metadata().map_err(Stop::Io)?;
        if !metadata.is_file() {
            return Err(Stop::File(
                "a Parquet file from a pipe, expected its name: it is read from its end".to_owned(),
            ));
        }
        let size = metadata.len();
        guarded(|| {
            let footer = read_footer(&file, size)?;
            thrift::check_footer(&footer).map_err(|_| damaged("its footer contradicts itself"))?;
            let metadata = ParquetMetaDataReader::decode_metadata(&footer)?;
            let row = Node::row(metadata.file_metadata().schema())?;
            let counts = Arc::new(Counts::new(size));
            check_groups(&metadata, size, &counts)?;
            let file = Arc::new(file);
            Ok(Self { file, metadata, row, counts, grown: 0, next_group: 0, columns: Vec::new(), rows_left: 0 })
        })
    }

    /// Bytes read so far of the file as it is stored.
    pub(super) fn position(&self) -> u64 {
        self.counts.stored()
    }

    /// The next row as one line of JSON; an empty one is larger than a record may be.
    pub(super) fn next(&mut self) -> Step<Option<Option<Vec<u8>>>> {
        guarded(|| {
            while self.rows_left == 0 {
                let Some(group) = self.metadata.row_groups().get(self.next_group) else { return Ok(None) };
                if group.num_rows() == 0 {
                    self.next_group += 1;
                    continue;
                }
                self.columns.clear();
                self.columns = group.columns().iter().map(|chunk| self.column(chunk)).collect::<Result<_, _>>()?;
                self.rows_left =
                    u64::try_from(group.num_rows()).map_err(|_| damaged("a row group of less than no rows"))?;
                self.next_group += 1;
            }
            self.rows_left -= 1;
            let mut line = Vec::new();
            match rows::next_row(&self.row, &mut self.columns, &mut line) {
                Ok(()) => {}
                Err(Halt::TooLong) => return Ok(Some(None)),
                Err(Halt::Damaged(error)) => return Err(error),
            }
            self.grown += MIN_ROW_BYTES.max(line.len() as u64);
            self.counts.check_growth(self.grown)?;
            Ok(Some(Some(line)))
        })
    }

    fn column(&self, chunk: &ColumnChunkMetaData) -> Result<Column, ParquetError> {
        let descriptor = chunk.column_descr_ptr();
        let row_values = Arc::new(AtomicU64::new(0));
        let (file, counts) = (Arc::clone(&self.file), Arc::clone(&self.counts));
        let pages = Pages::new(file, place(chunk), chunk.compression(), &descriptor, counts, Arc::clone(&row_values));
        Ok(Column::new(&descriptor, pages.map_err(|error| within(&descriptor.path().string(), error))?, row_values))
    }
}

/// Metadata, their size, and the magic bytes are what a file ends with.
fn read_footer(file: &File, size: u64) -> Result<Vec<u8>, ParquetError> {
    let mut tail = [0; 8];
    let before = size.checked_sub(12).ok_or_else(|| damaged("it is too short"))?;
    file.read_exact_at(&mut tail, size - 8)?;
    if tail[4..] != *MAGIC {
        return Err(damaged("it does not end as it begins"));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if length > before {
        return Err(damaged("its footer is longer than itself"));
    }
    if length > MAX_FOOTER_BYTES {
        let most = MAX_FOOTER_BYTES >> 20;
        return Err(refused(format!(
            "a footer of more than {most} MB, expected at most that: write it with larger row groups"
        )));
    }
    let mut footer = vec![0; length as usize];
    file.read_exact_at(&mut footer, size - 8 - length)?;
    Ok(footer)
}

/// First and last byte of a column.
fn place(chunk: &ColumnChunkMetaData) -> (u64, u64) {
    // Some writers spell "no dictionary" as 0.
    let start = chunk.dictionary_page_offset().filter(|&at| at > 0).unwrap_or(chunk.data_page_offset());
    let start = start.min(chunk.data_page_offset()).max(0) as u64;
    (start, start.saturating_add(chunk.compressed_size().max(0) as u64))
}

/// What the file says of its size, before anything is read of it.
fn check_groups(metadata: &ParquetMetaData, size: u64, counts: &Counts) -> Result<(), ParquetError> {
    let (mut num_rows, mut num_bytes) = (0_u64, 0_u64);
    for group in metadata.row_groups() {
        let count = |number: i64| u64::try_from(number).map_err(|_| damaged("a row group of a negative size"));
        num_rows = num_rows.saturating_add(count(group.num_rows())?);
        // Of a group without rows writers say that its columns lie at byte 0.
        if group.num_rows() == 0 {
            continue;
        }
        for chunk in group.columns() {
            num_bytes = num_bytes.saturating_add(count(chunk.uncompressed_size())?);
            let (start, end) = place(chunk);
            if start < MAGIC.len() as u64 || end > size {
                let error = damaged("it lies outside the file");
                return Err(within(&chunk.column_path().string(), error));
            }
        }
    }
    counts.check_growth(num_bytes)?;
    counts.check_growth(num_rows.saturating_mul(MIN_ROW_BYTES))
}

/// What is said of a file in place of the library's words.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What is wrong and what was expected.
fn refused(what: String) -> ParquetError {
    ParquetError::External(Box::new(Refused(what)))
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

/// Names the column.
fn within(column: &str, error: ParquetError) -> ParquetError {
    let column = clipped(column);
    match error {
        ParquetError::External(inner) => match inner.downcast::<Refused>() {
            Ok(inner) => refused(format!("column `{column}`: {inner}")),
            Err(other) => ParquetError::External(other),
        },
        error => ParquetError::General(format!("column `{column}`: {}", words(&error))),
    }
}

/// The library's words, on one line.
fn words(error: &ParquetError) -> String {
    let text = error.to_string();
    clipped(text.strip_prefix("Parquet error: ").unwrap_or(&text))
}

/// Data comes from strangers: a message quotes little of it, on one line.
fn clipped(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(160).collect()
}

fn stop(error: ParquetError) -> Stop {
    let expected = "expected a whole file";
    match error {
        ParquetError::External(inner) => match inner.downcast::<Refused>() {
            Ok(refused) => Stop::File(refused.0),
            Err(inner) => match inner.downcast::<io::Error>() {
                Ok(error) if error.kind() != io::ErrorKind::UnexpectedEof => Stop::Io(*error),
                Ok(_) => Stop::File(format!("damaged or cut off Parquet data (it ends early), {expected}")),
                Err(other) => Stop::File(format!("damaged Parquet data ({}), {expected}", clipped(&other.to_string()))),
            },
        },
        error => Stop::File(format!("damaged or cut off Parquet data ({}), {expected}", words(&error))),
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is one that the file being read is to blame for; nobody needs to be told.
pub fn panic_is_expected() -> bool {
    GUARDED.get()
}

/// The library asserts some of what a file says of itself: a damaged file may panic it.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Step<T> {
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    done.unwrap_or_else(|_| Err(damaged("its parts contradict each other"))).map_err(stop)
}

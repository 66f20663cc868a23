//! Parquet tables, row by row. The parquet crate decodes schema, levels and values, but its input is checked
//! and limited first ([`thrift`] checks the footer, [`pages`] every page). Each row becomes a line of JSON
//! ([`rows`], of the values of each [`mod@column`]).

mod column;
mod error;
mod pages;
mod rows;
#[cfg(test)]
mod tests;
mod thrift;

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};

use super::source::{PARQUET_MAGIC, ReadError, ReadResult};
use column::Column;
use error::{RowError, damaged, read_error, refused, within};
use pages::{Counts, Pages};
use rows::Node;

/// The limit for the footer: the schema and the offsets of all columns. A thousand row groups of ten columns
/// need about 3 MB.
const MAX_FOOTER_BYTES: u64 = 16 << 20;
/// Each row counts at least this many bytes towards the decompression limit: a billion empty rows fit into a
/// few bytes.
const MIN_ROW_BYTES: u64 = 32;

/// A Parquet file that is being read.
pub(super) struct Table {
    file: Arc<File>,
    metadata: ParquetMetaData,
    row: Node,
    counts: Arc<Counts>,
    /// The number of bytes of the rows so far.
    decompressed: u64,
    /// The next row group, and the columns and remaining rows of the current one.
    next_group: usize,
    columns: Vec<Column>,
    rows_left: u64,
}

impl Table {
    pub(super) fn open(file: File) -> ReadResult<Self> {
        let metadata = file.metadata().map_err(ReadError::Io)?;
        if !metadata.is_file() {
            return Err(ReadError::File(
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
            Ok(Self { file, metadata, row, counts, decompressed: 0, next_group: 0, columns: Vec::new(), rows_left: 0 })
        })
    }

    /// Bytes read so far of the file as it is stored.
    pub(super) fn position(&self) -> u64 {
        self.counts.stored()
    }

    /// The next row as one line of JSON; `Some(None)` is a row above the record size limit.
    pub(super) fn next(&mut self) -> ReadResult<Option<Option<Vec<u8>>>> {
        guarded(|| {
            while self.rows_left == 0 {
                let Some(group) = self.metadata.row_groups().get(self.next_group) else { return Ok(None) };
                if group.num_rows() == 0 {
                    self.next_group += 1;
                    continue;
                }
                self.columns.clear();
                self.columns = group.columns().iter().map(|chunk| self.column(chunk)).collect::<Result<_, _>>()?;
                self.rows_left = u64::try_from(group.num_rows())
                    .map_err(|_| damaged("a row group with a negative number of rows"))?;
                self.next_group += 1;
            }
            self.rows_left -= 1;
            let mut line = Vec::new();
            match rows::next_row(&self.row, &mut self.columns, &mut line) {
                Ok(()) => {}
                Err(RowError::TooLong) => return Ok(Some(None)),
                Err(RowError::Damaged(error)) => return Err(error),
            }
            self.decompressed += MIN_ROW_BYTES.max(line.len() as u64);
            self.counts.check_limit(self.decompressed)?;
            Ok(Some(Some(line)))
        })
    }

    fn column(&self, chunk: &ColumnChunkMetaData) -> Result<Column, ParquetError> {
        let descriptor = chunk.column_descr_ptr();
        let row_values = Arc::new(AtomicU64::new(0));
        let (file, counts) = (Arc::clone(&self.file), Arc::clone(&self.counts));
        let pages =
            Pages::new(file, byte_range(chunk), chunk.compression(), &descriptor, counts, Arc::clone(&row_values));
        Ok(Column::new(&descriptor, pages.map_err(|error| within(&descriptor.path().string(), error))?, row_values))
    }
}

/// Reads the metadata. A file ends with the metadata, their size, and the magic bytes.
fn read_footer(file: &File, size: u64) -> Result<Vec<u8>, ParquetError> {
    let mut tail = [0; 8];
    let before = size.checked_sub(12).ok_or_else(|| damaged("it is too short"))?;
    file.read_exact_at(&mut tail, size - 8)?;
    if tail[4..] != *PARQUET_MAGIC {
        return Err(damaged("the magic bytes at its end are missing"));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if length > before {
        return Err(damaged("its footer is longer than the file"));
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

/// The byte range of a column.
fn byte_range(chunk: &ColumnChunkMetaData) -> (u64, u64) {
    // Some writers write 0 for "no dictionary".
    let start = chunk.dictionary_page_offset().filter(|&at| at > 0).unwrap_or(chunk.data_page_offset());
    let start = start.min(chunk.data_page_offset()).max(0) as u64;
    (start, start.saturating_add(chunk.compressed_size().max(0) as u64))
}

/// Checks the sizes in the metadata before any column is read.
fn check_groups(metadata: &ParquetMetaData, size: u64, counts: &Counts) -> Result<(), ParquetError> {
    let (mut num_rows, mut num_bytes) = (0_u64, 0_u64);
    for group in metadata.row_groups() {
        let count = |number: i64| u64::try_from(number).map_err(|_| damaged("a row group of negative size"));
        num_rows = num_rows.saturating_add(count(group.num_rows())?);
        // Writers give the offset 0 for columns of groups without rows.
        if group.num_rows() == 0 {
            continue;
        }
        for chunk in group.columns() {
            num_bytes = num_bytes.saturating_add(count(chunk.uncompressed_size())?);
            let (start, end) = byte_range(chunk);
            if start < PARQUET_MAGIC.len() as u64 || end > size {
                let error = damaged("its offset is outside the file");
                return Err(within(&chunk.column_path().string(), error));
            }
        }
    }
    counts.check_limit(num_bytes)?;
    counts.check_limit(num_rows.saturating_mul(MIN_ROW_BYTES))
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caused by a damaged file and will be caught. The panic hook stays silent
/// then.
pub fn panic_is_expected() -> bool {
    GUARDED.get()
}

/// Runs library code and turns panics into errors: the library asserts properties that a damaged file can
/// violate.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> ReadResult<T> {
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    done.unwrap_or_else(|_| Err(damaged("its parts contradict each other"))).map_err(read_error)
}

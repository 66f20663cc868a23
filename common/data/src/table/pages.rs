//! Reads and decompresses the pages of a column one at a time, with size limits. The library's own reader has
//! no limits.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::schema::types::ColumnDescriptor;

use super::super::source::{MAX_DECOMPRESSED_BYTES, MAX_RATIO, Zstd};
use super::error::{damaged, refused};
use super::thrift::{PageHeader, PageKind, Thrift};

/// The limit for pages in memory at a time, over all columns. Writers aim at 1 or 8 MB per page.
const MAX_HELD_BYTES: u64 = 256 << 20;
/// The maximum number of values in a page, a dictionary or a row. A decoded value takes up to 36 bytes.
pub(super) const MAX_VALUES: u64 = 4 << 20;
/// A header takes about thirty bytes, plus the minimum and maximum value of the page.
const HEADER_BYTES: usize = 1 << 12;
const MAX_HEADER_BYTES: usize = 1 << 20;

/// Counters shared by the columns of a file.
#[derive(Debug)]
pub(super) struct Counts {
    /// The decompression limit, in bytes.
    limit: u64,
    decompressed: AtomicU64,
    held: AtomicU64,
    stored: AtomicU64,
}

impl Counts {
    /// For a file of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let limit = MAX_DECOMPRESSED_BYTES.max(size.saturating_mul(MAX_RATIO));
        Self { limit, decompressed: AtomicU64::new(0), held: AtomicU64::new(0), stored: AtomicU64::new(0) }
    }

    /// The number of bytes of stored pages read so far.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Refuses a size above the decompression limit.
    pub(super) fn check_limit(&self, bytes: u64) -> Result<()> {
        if bytes <= self.limit {
            return Ok(());
        }
        let limit = self.limit >> 20;
        let what = format!("decompresses to more than {limit} MB, expected at most {MAX_RATIO} times its size");
        Err(refused(what))
    }

    fn hold(&self, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        self.check_limit(self.decompressed.fetch_add(bytes, Ordering::Relaxed) + bytes)?;
        if self.held.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_HELD_BYTES {
            let limit = MAX_HELD_BYTES >> 20;
            return Err(refused(format!(
                "pages of more than {limit} MB in memory at a time, expected at most that: write it with smaller row groups"
            )));
        }
        Ok(())
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// A column of a row group.
pub(super) struct Pages {
    file: Arc<File>,
    /// The byte range of the unread part.
    at: u64,
    end: u64,
    codec: Compression,
    has_levels: [bool; 2],
    /// The next page's header, if it was read already.
    header: Option<PageHeader>,
    /// The sizes of the data page and the dictionary in memory.
    held: [usize; 2],
    counts: Arc<Counts>,
    /// The number of values in the pages of the current row.
    row_values: Arc<AtomicU64>,
}

impl Pages {
    /// # Errors
    /// An unsupported compression.
    pub(super) fn new(
        file: Arc<File>,
        (at, end): (u64, u64),
        codec: Compression,
        column: &ColumnDescriptor,
        counts: Arc<Counts>,
        row_values: Arc<AtomicU64>,
    ) -> Result<Self> {
        if !matches!(
            codec,
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_)
        ) {
            let name = codec.to_string();
            let name = name.split('(').next().unwrap_or_default();
            return Err(refused(format!("compressed with {name}, expected Snappy, gzip, zstd or nothing")));
        }
        let has_levels = [column.max_rep_level() > 0, column.max_def_level() > 0];
        Ok(Self { file, at, end, codec, has_levels, header: None, held: [0, 0], counts, row_values })
    }

    /// The header of the next page of a known type.
    fn header(&mut self) -> Result<Option<&PageHeader>> {
        while self.header.is_none() && self.at < self.end {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let read = |most: usize| {
                let bytes = self.bytes(left.min(most))?;
                PageHeader::read(&bytes).map_err(|_| damaged("a page has no header"))
            };
            let (header, size) = read(HEADER_BYTES).or_else(|_| read(MAX_HEADER_BYTES))?;
            if header.stored > left - size {
                return Err(damaged("a page is longer than its column"));
            }
            self.at += size as u64;
            self.counts.stored.fetch_add((size + header.stored) as u64, Ordering::Relaxed);
            if header.kind == PageKind::Other {
                self.at += header.stored as u64;
            } else {
                self.header = Some(header);
            }
        }
        Ok(self.header.as_ref())
    }

    fn bytes(&self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, self.at)?;
        Ok(bytes)
    }

    /// The content after a header. Its first `plain` bytes are never compressed.
    fn content(&mut self, header: &PageHeader, plain: usize, codec: Compression) -> Result<Vec<u8>> {
        if plain > header.stored || plain > header.size {
            return Err(damaged("the levels of a page are longer than the page"));
        }
        let dictionary = matches!(header.kind, PageKind::Dictionary { .. });
        let held = &mut self.held[usize::from(dictionary)];
        // Checked before anything is allocated. The stored bytes may be slightly more than the decompressed
        // ones.
        self.counts.release(std::mem::replace(held, header.size));
        self.counts.hold(header.size)?;
        if header.stored as u64 > MAX_HELD_BYTES {
            return Err(damaged("a page is longer than its content"));
        }
        let stored = self.bytes(header.stored)?;
        self.at += header.stored as u64;
        if codec == Compression::UNCOMPRESSED {
            return if stored.len() == header.size {
                Ok(stored)
            } else {
                Err(damaged("a page differs in size from its header"))
            };
        }
        let mut content = Vec::with_capacity(header.size);
        content.extend_from_slice(&stored[..plain]);
        if header.size > plain {
            decompress(codec, &stored[plain..], header.size - plain, &mut content)?;
        }
        if content.len() == header.size { Ok(content) } else { Err(damaged("a page differs in size from its header")) }
    }

    fn page(&mut self, header: &PageHeader) -> Result<Page> {
        match header.kind {
            PageKind::Data { num_values, encoding, def_encoding, rep_encoding } => {
                self.count_values(num_values)?;
                let encoding = encoding_of(encoding)?;
                let content = self.content(header, 0, self.codec)?;
                let (def_level_encoding, rep_level_encoding) = (encoding_of(def_encoding)?, encoding_of(rep_encoding)?);
                if encoding == Encoding::DELTA_LENGTH_BYTE_ARRAY {
                    let levels = [rep_level_encoding, def_level_encoding];
                    check_lengths(self.after_levels(levels, &content)?, num_values)?;
                }
                Ok(Page::DataPage {
                    buf: content.into(),
                    num_values,
                    encoding,
                    def_level_encoding,
                    rep_level_encoding,
                    statistics: None,
                })
            }
            PageKind::DataV2 { num_values, num_nulls, num_rows, encoding, def_bytes, rep_bytes, compressed } => {
                self.count_values(num_values)?;
                let encoding = encoding_of(encoding)?;
                let levels = def_bytes as usize + rep_bytes as usize;
                let codec = if compressed { self.codec } else { Compression::UNCOMPRESSED };
                let content = self.content(header, levels, codec)?;
                if encoding == Encoding::DELTA_LENGTH_BYTE_ARRAY {
                    check_lengths(&content[levels..], num_values)?;
                }
                Ok(Page::DataPageV2 {
                    buf: content.into(),
                    num_values,
                    encoding,
                    num_nulls,
                    num_rows,
                    def_levels_byte_len: def_bytes,
                    rep_levels_byte_len: rep_bytes,
                    is_compressed: false,
                    statistics: None,
                })
            }
            PageKind::Dictionary { num_values, encoding } => {
                let content = self.content(header, 0, self.codec)?;
                if num_values as usize > content.len() || u64::from(num_values) > MAX_VALUES {
                    return Err(damaged("a dictionary has fewer values than its header says"));
                }
                Ok(Page::DictionaryPage {
                    buf: content.into(),
                    num_values,
                    encoding: encoding_of(encoding)?,
                    is_sorted: false,
                })
            }
            PageKind::Other => unreachable!("skipped with its header"),
        }
    }

    /// Limits the number of values: levels take almost no space in a file, and a row may span pages.
    fn count_values(&self, num_values: u32) -> Result<()> {
        let num_values = u64::from(num_values);
        let before = self.row_values.fetch_add(num_values, Ordering::Relaxed);
        if num_values <= MAX_VALUES && before + num_values <= 2 * MAX_VALUES {
            return Ok(());
        }
        Err(refused(format!("a page or row of more than {MAX_VALUES} values, expected at most that")))
    }

    /// The content after the levels of a page of version 1.
    fn after_levels<'a>(&self, levels: [Encoding; 2], mut content: &'a [u8]) -> Result<&'a [u8]> {
        let short = || damaged("a page ends within its levels");
        for (_, encoding) in self.has_levels.into_iter().zip(levels).filter(|(has, _)| *has) {
            if encoding != Encoding::RLE {
                return Err(damaged("a new value encoding with an old level encoding"));
            }
            let (size, rest) = content.split_first_chunk().ok_or_else(short)?;
            content = rest.get(u32::from_le_bytes(*size) as usize..).ok_or_else(short)?;
        }
        Ok(content)
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.header()?;
        self.header.take().map(|header| self.page(&header)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.header()?.map(|header| {
            let (num_rows, num_levels, is_dict) = match header.kind {
                PageKind::DataV2 { num_rows, num_values, .. } => {
                    (Some(num_rows as usize), Some(num_values as usize), false)
                }
                PageKind::Data { num_values, .. } => (None, Some(num_values as usize), false),
                PageKind::Dictionary { .. } | PageKind::Other => (None, None, true),
            };
            PageMetadata { num_rows, num_levels, is_dict }
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.header()?;
        if let Some(header) = self.header.take() {
            self.at += header.stored as u64;
        }
        Ok(())
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.held.into_iter().for_each(|bytes| self.counts.release(bytes));
    }
}

/// Appends the decompressed bytes, at most `size` + 1 of them.
fn decompress(codec: Compression, stored: &[u8], size: usize, content: &mut Vec<u8>) -> Result<()> {
    let wrong = |error: io::Error| damaged(&error.to_string());
    let most = size as u64 + 1;
    match codec {
        Compression::SNAPPY => {
            if snap::raw::decompress_len(stored).ok() != Some(size) {
                return Err(damaged("a page differs in size from its header"));
            }
            let start = content.len();
            content.resize(start + size, 0);
            let written = snap::raw::Decoder::new().decompress(stored, &mut content[start..]);
            written.map_err(|error| damaged(&error.to_string()))?;
        }
        Compression::GZIP(_) => {
            MultiGzDecoder::new(stored).take(most).read_to_end(content).map_err(wrong)?;
        }
        Compression::ZSTD(_) => {
            Zstd::new(stored).take(most).read_to_end(content).map_err(wrong)?;
        }
        _ => unreachable!("refused when the column was opened"),
    }
    Ok(())
}

#[expect(deprecated, reason = "old files may encode levels this way")]
fn encoding_of(number: i64) -> Result<Encoding> {
    Ok(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        4 => Encoding::BIT_PACKED,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        // Every value may extend the previous one, so the decoded size is not bounded by the file's size.
        7 => {
            return Err(refused(
                "encoded as DELTA_BYTE_ARRAY, expected plain values, lengths or a dictionary".to_owned(),
            ));
        }
        other => return Err(damaged(&format!("there is no encoding {other}"))),
    })
}

/// Checks the count in a block of lengths (the third number of its header): the library decodes that many at
/// once.
fn check_lengths(bytes: &[u8], num_values: u32) -> Result<()> {
    let mut thrift = Thrift(bytes);
    let mut number = || thrift.varint().map_err(|_| damaged("a page ends within its lengths"));
    let (_, _, count) = (number()?, number()?, number()?);
    if count > u64::from(num_values) { Err(damaged("a page has more lengths than values")) } else { Ok(()) }
}

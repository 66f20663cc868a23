//! The bytes of a data file: decompressed, limited in size, with a line counter.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{files, foreign};
use align_core::error::{Error, Result};

/// The first and last bytes of a Parquet file.
pub(super) const PARQUET_MAGIC: &[u8; 4] = b"PAR1";
/// The largest record, in bytes of the uncompressed file.
pub(super) const MAX_RECORD_BYTES: usize = 16 << 20;
/// A compressed file may decompress to this many bytes …
pub(super) const MAX_DECOMPRESSED_BYTES: u64 = 256 << 20;
/// … or to this many times its size, whichever is more. Text has a ratio below 20; the maximum of gzip is
/// 1032.
pub(super) const MAX_RATIO: u64 = 100;
const BUFFER_BYTES: usize = 1 << 16;
/// Standard input, as a file to read.
pub const STDIN: &str = "/dev/stdin";

/// The file name in lower case, without `.gz` or `.zst`.
pub(super) fn name(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name).to_owned()
}

/// An open data file, by its first bytes.
pub(super) enum Opened {
    /// Text, decompressed.
    Text(Source),
    /// A Parquet file, which is read from its end.
    Table(File),
}

/// Opens a data file.
pub(super) fn open(file: &Path) -> Result<Opened> {
    let refuse = |what: &str| Err(Error::invalid(file.display(), what));
    let unreadable = |error: io::Error| Error::invalid(file.display(), unreadable(file, &error));
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    if metadata.is_dir() {
        return refuse(&files::nothing_found(file));
    }
    let position = Rc::new(Cell::new(0));
    let counted = Counted { bytes: open_file(file).map_err(unreadable)?, position: Rc::clone(&position) };
    let mut bytes = BufReader::with_capacity(BUFFER_BYTES, counted);
    let head = bytes.fill_buf().map_err(Error::io(file))?;
    if let Some(what) = foreign::refusal(file, &name(file), head) {
        return refuse(&what);
    }
    let named =
        |name: &str| file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(name)) && !head.is_empty();
    let limit = MAX_DECOMPRESSED_BYTES.max(metadata.len().saturating_mul(MAX_RATIO));
    let decompressed = |bytes: Box<dyn Read>| -> (Box<dyn BufRead>, u64) {
        (Box::new(BufReader::with_capacity(BUFFER_BYTES, bytes)), limit)
    };
    let (bytes, limit) = match head {
        [0x1f, 0x8b, ..] => decompressed(Box::new(MultiGzDecoder::new(bytes))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => decompressed(Box::new(Zstd::new(bytes))),
        head if head.starts_with(PARQUET_MAGIC) => return Ok(Opened::Table(bytes.into_inner().bytes)),
        _ if named("gz") => return refuse("not compressed with gzip, expected it from the file's name"),
        _ if named("zst") => return refuse("not compressed with zstd, expected it from the file's name"),
        _ if named("parquet") => return refuse("not a Parquet file, expected one from the file's name"),
        _ => (Box::new(bytes) as Box<dyn BufRead>, u64::MAX),
    };
    let mut source = Source { bytes, line: 1, consumed: 0, limit, position };
    source.begin(file).map_err(|error| error.at(file, 1))?;
    Ok(Opened::Text(source))
}

/// Why a file cannot be opened, and what was expected.
fn unreadable(file: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if std::fs::symlink_metadata(file).is_ok() => {
            "a link to a file that is not there, expected data".to_owned()
        }
        io::ErrorKind::NotFound if files::is_pattern(file) => files::nothing_found(file),
        io::ErrorKind::NotFound => "no such file, expected data".to_owned(),
        _ => format!("cannot be read ({error}), expected data"),
    }
}

/// A file that counts the bytes read.
struct Counted {
    bytes: File,
    position: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(out)?;
        self.position.set(self.position.get() + count as u64);
        Ok(count)
    }
}

/// Opens a file. Standard input may be a socket, which cannot be opened by name.
fn open_file(file: &Path) -> io::Result<File> {
    if file == Path::new(STDIN) {
        return io::stdin().as_fd().try_clone_to_owned().map(File::from);
    }
    File::open(file)
}

/// Why a file cannot be read further.
pub(super) enum ReadError {
    /// A mistake at the current line.
    Line(String),
    /// A mistake that concerns the whole file.
    File(String),
    Io(io::Error),
}

impl ReadError {
    pub(super) fn at(self, file: &Path, line: u64) -> Error {
        match self {
            ReadError::Line(what) => Error::invalid(format!("{}:{line}", file.display()), what),
            ReadError::File(what) => Error::invalid(file.display(), what),
            ReadError::Io(source) => Error::Io { path: file.to_owned(), source },
        }
    }
}

pub(super) type ReadResult<T> = std::result::Result<T, ReadError>;

/// The decompressed bytes of a file, with a line counter.
pub(super) struct Source {
    bytes: Box<dyn BufRead>,
    pub(super) line: u64,
    consumed: u64,
    limit: u64,
    position: Rc<Cell<u64>>,
}

impl Source {
    fn begin(&mut self, file: &Path) -> ReadResult<()> {
        // A byte-order mark is not content. It has three bytes, which the first buffer always contains.
        let head = self.peek()?;
        let (bom, utf16) =
            (head.starts_with(&[0xef, 0xbb, 0xbf]), head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]));
        if utf16 {
            return Err(ReadError::Line("UTF-16, expected UTF-8".to_owned()));
        }
        // A compressed file may contain an unsupported format, such as a tar archive.
        if let Some(what) = foreign::refusal(file, &name(file), head) {
            return Err(ReadError::File(what));
        }
        if head.starts_with(PARQUET_MAGIC) {
            return Err(ReadError::File(
                "a compressed Parquet file, expected an uncompressed one: decompress it".to_owned(),
            ));
        }
        if bom {
            self.bytes.consume(3);
        }
        Ok(())
    }

    /// The number of bytes of the stored file read so far.
    pub(super) fn position(&self) -> u64 {
        self.position.get()
    }

    /// The buffered bytes; empty at the end of the file.
    pub(super) fn peek(&mut self) -> ReadResult<&[u8]> {
        loop {
            match self.bytes.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    return Err(ReadError::Line(format!(
                        "damaged or cut off compressed data ({error}), expected a whole file"
                    )));
                }
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        // Filled above: the second call only returns the buffer (the borrow checker rejects returning the
        // first).
        self.bytes.fill_buf().map_err(ReadError::Io)
    }

    pub(super) fn consume(&mut self, count: usize) -> ReadResult<()> {
        self.bytes.consume(count);
        self.consumed += count as u64;
        if self.consumed > self.limit {
            return Err(ReadError::File(format!(
                "decompresses to more than {} MB, expected at most {MAX_RATIO} times its size",
                self.limit >> 20
            )));
        }
        Ok(())
    }

    /// Skips white space and returns the next byte without consuming it.
    pub(super) fn first_byte(&mut self) -> ReadResult<Option<u8>> {
        loop {
            let head = self.peek()?;
            let count = head.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(head.len());
            let next = head.get(count).copied();
            let (ended, num_lines) = (head.is_empty(), count_lines(&head[..count]));
            self.line += num_lines;
            self.consume(count)?;
            if ended || next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Skips line breaks, and so blank lines.
    pub(super) fn skip_line_ends(&mut self) -> ReadResult<()> {
        loop {
            let head = self.peek()?;
            let count = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(head.len());
            let (done, num_lines) = (count < head.len() || head.is_empty(), count_lines(&head[..count]));
            self.line += num_lines;
            self.consume(count)?;
            if done {
                return Ok(());
            }
        }
    }

    /// Takes bytes while `wanted` returns true. Returns `None`, and drops the bytes, above the record size
    /// limit.
    pub(super) fn take_while(&mut self, mut wanted: impl FnMut(u8) -> bool) -> ReadResult<Option<Vec<u8>>> {
        let (mut taken, mut fits) = (Vec::new(), true);
        loop {
            let head = self.peek()?;
            if head.is_empty() {
                break;
            }
            let count = head.iter().position(|&byte| !wanted(byte)).unwrap_or(head.len());
            let (done, num_lines) = (count < head.len(), count_lines(&head[..count]));
            fits &= taken.len() + count <= MAX_RECORD_BYTES;
            if fits {
                taken.extend_from_slice(&head[..count]);
            }
            self.line += num_lines;
            self.consume(count)?;
            if done {
                break;
            }
        }
        Ok(fits.then_some(taken))
    }
}

pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Decodes a sequence of Zstandard frames.
pub(super) struct Zstd<R> {
    compressed: R,
    frame: FrameDecoder,
    begun: bool,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(compressed: R) -> Self {
        Self { compressed, frame: FrameDecoder::new(), begun: false }
    }

    /// Begins the next frame; false if there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.compressed.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.compressed) {
                Ok(()) => {
                    self.begun = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.compressed.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.frame.can_collect() > 0 {
                return self.frame.read(out);
            }
            if self.begun && !self.frame.is_finished() {
                let step = self.frame.decode_blocks(&mut self.compressed, BlockDecodingStrategy::UptoBlocks(1));
                step.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                continue;
            }
            if self.begun
                && self
                    .frame
                    .get_checksum_from_data()
                    .is_some_and(|sum| Some(sum) != self.frame.get_calculated_checksum())
            {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum is wrong"));
            }
            if !self.begin()? {
                return Ok(0);
            }
        }
    }
}

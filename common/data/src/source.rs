//! The bytes of a data file: decompressed, bounded, and with the line they have come to.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::raw::MAX_RECORD_BYTES;
use super::{files, foreign, table};
use align_core::error::{Error, Result};

/// A compressed file may grow to this many bytes …
pub(super) const MAX_GROWN_BYTES: u64 = 256 << 20;
/// … or to this many times its size, whichever is more. Text grows less than twentyfold, the worst that gzip can hold 1032-fold.
pub(super) const MAX_GROWTH: u64 = 100;
const BUFFER_BYTES: usize = 1 << 16;
/// Standard input, as a file to read.
pub const STDIN: &str = "/dev/stdin";

/// The file's name in lower case, without the ending of a compressed file.
pub(super) fn name(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name).to_owned()
}

/// A data file, as its first bytes say.
pub(super) enum Opened {
    /// Text, decompressed.
    Text(Source),
    /// A Parquet file, which is not read from its beginning.
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
    let limit = MAX_GROWN_BYTES.max(metadata.len().saturating_mul(MAX_GROWTH));
    let grown = |bytes: Box<dyn Read>| -> (Box<dyn BufRead>, u64) {
        (Box::new(BufReader::with_capacity(BUFFER_BYTES, bytes)), limit)
    };
    let (bytes, limit) = match head {
        [0x1f, 0x8b, ..] => grown(Box::new(MultiGzDecoder::new(bytes))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => grown(Box::new(Zstd::new(bytes))),
        head if head.starts_with(table::MAGIC) => return Ok(Opened::Table(bytes.into_inner().bytes)),
        _ if named("gz") => return refuse("not compressed with gzip, expected what its name says"),
        _ if named("zst") => return refuse("not compressed with zstd, expected what its name says"),
        _ if named("parquet") => return refuse("not a Parquet file, expected what its name says"),
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

/// A file that tells how far it has been read.
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

/// Standard input may be a socket, which cannot be opened by its name.
fn open_file(file: &Path) -> io::Result<File> {
    if file == Path::new(STDIN) {
        return io::stdin().as_fd().try_clone_to_owned().map(File::from);
    }
    File::open(file)
}

/// Why a file cannot be read on.
pub(super) enum Stop {
    /// What is wrong, at the line the source has come to.
    Wrong(String),
    /// What is wrong with the whole file.
    File(String),
    Io(io::Error),
}

impl Stop {
    pub(super) fn at(self, file: &Path, line: u64) -> Error {
        match self {
            Stop::Wrong(what) => Error::invalid(format!("{}:{line}", file.display()), what),
            Stop::File(what) => Error::invalid(file.display(), what),
            Stop::Io(source) => Error::Io { path: file.to_owned(), source },
        }
    }
}

pub(super) type Step<T> = std::result::Result<T, Stop>;

/// The bytes of a file, decompressed, with the line they have come to.
pub(super) struct Source {
    bytes: Box<dyn BufRead>,
    pub(super) line: u64,
    consumed: u64,
    limit: u64,
    position: Rc<Cell<u64>>,
}

impl Source {
    fn begin(&mut self, file: &Path) -> Step<()> {
        // A byte-order mark is not content. Only three bytes are asked for, which any buffer that holds text has.
        let head = self.peek()?;
        let (bom, utf16) =
            (head.starts_with(&[0xef, 0xbb, 0xbf]), head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]));
        if utf16 {
            return Err(Stop::Wrong("UTF-16, expected UTF-8".to_owned()));
        }
        // Packed in it, too, may be what is not read: a tar archive, say.
        if let Some(what) = foreign::refusal(file, &name(file), head) {
            return Err(Stop::File(what));
        }
        if head.starts_with(table::MAGIC) {
            return Err(Stop::File("a compressed Parquet file, expected it as it is: decompress it".to_owned()));
        }
        if bom {
            self.bytes.consume(3);
        }
        Ok(())
    }

    /// Bytes read of the file as it is stored.
    pub(super) fn position(&self) -> u64 {
        self.position.get()
    }

    /// What is buffered; empty at the end.
    pub(super) fn peek(&mut self) -> Step<&[u8]> {
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
                    return Err(Stop::Wrong(format!(
                        "damaged or cut off compressed data ({error}), expected a whole file"
                    )));
                }
                Err(error) => return Err(Stop::Io(error)),
            }
        }
        // Filled above: the second call only hands out the buffer.
        self.bytes.fill_buf().map_err(Stop::Io)
    }

    pub(super) fn consume(&mut self, count: usize) -> Step<()> {
        self.bytes.consume(count);
        self.consumed += count as u64;
        if self.consumed > self.limit {
            return Err(Stop::File(format!(
                "grows to more than {} MB when decompressed, expected at most {MAX_GROWTH} times its size",
                self.limit >> 20
            )));
        }
        Ok(())
    }

    /// Skips white space; the byte after it, which stays.
    pub(super) fn first_byte(&mut self) -> Step<Option<u8>> {
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

    /// Skips the ends of lines, and with them blank lines.
    pub(super) fn skip_line_ends(&mut self) -> Step<()> {
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

    /// Takes bytes for as long as `wanted` says. What does not fit into a record is dropped: then `None`.
    pub(super) fn take_while(&mut self, mut wanted: impl FnMut(u8) -> bool) -> Step<Option<Vec<u8>>> {
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

/// Zstandard frames, one after the other.
pub(super) struct Zstd<R> {
    compressed: R,
    frame: FrameDecoder,
    begun: bool,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(compressed: R) -> Self {
        Self { compressed, frame: FrameDecoder::new(), begun: false }
    }

    /// Begins the next frame; whether there is one.
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

//! A stream of a program's: read to its end, kept in part.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;

/// Which part of a long stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    First,
    Last,
}

/// Bytes that one call of [`Stream::drain`] reads at most, so that an endless stream does not hold its reader.
const DRAINED: usize = 1 << 20;

/// The parent's end of a stream, in non-blocking mode, and what was read since [`Stream::take`].
#[derive(Debug)]
pub(crate) struct Stream {
    /// `None` after its end.
    file: Option<File>,
    kept: Vec<u8>,
    keep: Keep,
    limit: usize,
}

impl Stream {
    pub(crate) fn new(end: OwnedFd, keep: Keep, limit: usize) -> Self {
        Self { file: Some(end.into()), kept: Vec::new(), keep, limit }
    }

    /// The open file, until the stream ends.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Reads what is there, without waiting.
    pub(crate) fn drain(&mut self) {
        let mut buffer = [0; 64 << 10];
        let mut left = DRAINED;
        while let Some(file) = self.file.as_mut().filter(|_| left > 0) {
            match file.read(&mut buffer) {
                Ok(0) => self.file = None,
                Ok(length) => {
                    self.add(&buffer[..length]);
                    left = left.saturating_sub(length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.file = None,
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self.keep {
            Keep::First => {
                let room = self.limit - self.kept.len();
                self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Keep::Last => {
                self.kept.extend_from_slice(bytes);
                self.kept.drain(..self.kept.len().saturating_sub(self.limit));
            }
        }
    }

    /// What was kept since the last call, as text.
    pub(crate) fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.kept)).into_owned()
    }
}

//! Streams rows that do not fit in memory: one thread reads, all threads prepare, and results are used in
//! order.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rayon::prelude::*;

use super::raw::{Parsed, RawRow, RawRows};
use super::reader::{Bad, BadRows};
use super::records::Kind;
use align_core::error::{Problems, Result};
use align_core::progress::Progress;

/// The maximum number of rows prepared at a time. Up to three such chunks are in memory; one may exceed the
/// limit by one record.
const CHUNK_ROWS: usize = 4096;
const CHUNK_BYTES: usize = 2 << 20;

/// Files whose rows are streamed once.
pub struct Stream<'a> {
    /// The files, in order.
    pub files: &'a [PathBuf],
    /// The expected kind of rows, if known.
    pub kind: Option<Kind>,
    /// What happens to bad rows.
    pub bad_rows: BadRows,
}

/// A message of the reading thread.
enum Read {
    /// Rows, and the number of bytes of the stored file they took.
    Rows(Vec<RawRow>, u64),
    /// The end of a file, or the error that ended it.
    End(Result<()>),
}

impl Stream<'_> {
    /// Prepares every row, then calls `each` in the order of files and rows. A row to skip is passed as its
    /// error. `what` is the label of the progress bar.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] with every bad file and, unless they are skipped, every bad row.
    /// `each` may have been called for earlier rows. An error of `each` is returned immediately.
    pub fn each<T: Send>(
        &self,
        what: &str,
        progress: &mut dyn Progress,
        prepare: impl Fn(&RawRow) -> Parsed<T> + Sync,
        mut each: impl FnMut(RawRow, Parsed<T>) -> Result<()>,
    ) -> Result<()> {
        let sizes = self.files.iter().map(|file| std::fs::metadata(file).map_or(0, |metadata| metadata.len()));
        progress.begin_bytes(what, sizes.sum());
        let mut problems = Problems::new();
        let passed: Result<()> = thread::scope(|scope| {
            let (send, read) = sync_channel(1);
            scope.spawn(move || self.read(&send));
            let mut files = self.files.iter();
            let (mut bad, mut num_good) = (Bad::new(self.bad_rows), 0);
            for read in read {
                match read {
                    Read::Rows(rows, bytes) => {
                        let prepared: Vec<_> = rows.par_iter().map(&prepare).collect();
                        for (row, prepared) in rows.into_iter().zip(prepared) {
                            match &prepared {
                                Ok(_) => num_good += 1,
                                Err(what) => bad.push(&row.location, what),
                            }
                            // After an error the output is discarded, so `each` need not be called.
                            if problems.is_empty() && !bad.refuses() {
                                each(row, prepared)?;
                            }
                        }
                        progress.advance(bytes, "");
                    }
                    Read::End(ended) => {
                        let file = files.next().expect("every file ends once");
                        let bad = std::mem::replace(&mut bad, Bad::new(self.bad_rows));
                        if problems.absorb(ended)?.is_some() {
                            bad.report(file, self.kind, num_good, &mut problems);
                        }
                        num_good = 0;
                    }
                }
            }
            Ok(())
        });
        progress.end();
        passed?;
        problems.into_result()
    }

    /// Sends the rows of all files until the receiver is gone.
    fn read(&self, send: &SyncSender<Read>) {
        for file in self.files {
            let ended = self.read_file(file, send);
            if send.send(Read::End(ended)).is_err() {
                return;
            }
        }
    }

    fn read_file(&self, file: &Path, send: &SyncSender<Read>) -> Result<()> {
        let mut source = RawRows::open(file, self.kind)?;
        let (mut rows, mut size, mut position) = (Vec::new(), 0, 0);
        loop {
            let row = source.next().transpose()?;
            size += row.as_ref().map_or(0, RawRow::size);
            let over = row.is_none();
            rows.extend(row);
            if over || rows.len() == CHUNK_ROWS || size >= CHUNK_BYTES {
                let bytes = source.position() - position;
                if send.send(Read::Rows(std::mem::take(&mut rows), bytes)).is_err() || over {
                    return Ok(());
                }
                (size, position) = (0, position + bytes);
            }
        }
    }
}

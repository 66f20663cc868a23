//! The files that a labelling service appends to. A judgment is on the disk before it is acknowledged; of a
//! line that was being written when the process ended, nothing is left after the next start.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::item::Item;
use crate::judgment::{JUDGMENTS, Judgment, ReadJudgments, read_judgments};

/// The file of reservations in a labelling folder.
pub const RESERVATIONS: &str = "reservations.jsonl";

/// The file of judgments.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// The length of all acknowledged lines.
    bytes: u64,
    /// Whether a failed write could not be undone.
    is_damaged: bool,
}

impl Journal {
    /// Opens the judgments of a folder, whose lock the caller holds, and cuts off an incomplete last line.
    ///
    /// # Errors
    /// Those of [`read_judgments`], and failures of the disk.
    pub fn open(folder: &Path, items: &[Item]) -> Result<(Self, ReadJudgments)> {
        let path = folder.join(JUDGMENTS);
        let read = read_judgments(&path, items)?;
        let open = || -> io::Result<(File, u64)> {
            let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
            file.set_len(read.complete_bytes)?;
            if read.lacks_line_break {
                file.write_all(b"\n")?;
            }
            file.sync_all()?;
            File::open(folder)?.sync_all()?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(Error::io(&path))?;
        Ok((Self { path, file, bytes, is_damaged: false }, read))
    }

    /// Appends a judgment. When this returns, it is on the disk.
    ///
    /// # Errors
    /// Failures of the disk. Then the file is as before.
    pub fn append(&mut self, judgment: &Judgment) -> Result<()> {
        let line = serde_json::to_string(judgment).expect("plain data") + "\n";
        if self.is_damaged {
            let what = "an earlier write failed, and the file could not be restored; expected a restart";
            return Err(Error::Failed(format!("{}: {what}", self.path.display())));
        }
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.is_damaged = self.file.set_len(self.bytes).is_err();
            return Err(Error::io(&self.path)(error));
        }
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// One reservation, as it is kept for a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The id of the item.
    pub item: String,
    /// The annotator.
    pub annotator: String,
    /// As in a judgment.
    pub repeat: u32,
    /// The end, in seconds since 1970.
    pub until: u64,
}

/// The file of reservations. It is only as reliable as the operating system: losing a reservation costs at
/// most a judgment more than wanted.
#[derive(Debug)]
pub struct Reservations {
    path: PathBuf,
    file: File,
}

impl Reservations {
    /// Reads the reservations of a folder that hold at a time, and forgets the others.
    ///
    /// # Errors
    /// Failures of the disk. Lines that are not reservations are left out.
    pub fn open(folder: &Path, now: u64) -> Result<(Self, Vec<Reservation>)> {
        let path = folder.join(RESERVATIONS);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes.map_err(Error::io(&path))?,
        };
        let lines = text.split(|byte| *byte == b'\n');
        let read = lines.filter_map(|line| serde_json::from_slice::<Reservation>(line).ok());
        let kept: Vec<Reservation> = read.filter(|reservation| reservation.until > now).collect();
        write_atomic(&path, kept.iter().map(line_of).collect::<String>().as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path))?;
        Ok((Self { path, file }, kept))
    }

    /// Appends one.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn append(&mut self, reservation: &Reservation) -> Result<()> {
        self.file.write_all(line_of(reservation).as_bytes()).map_err(Error::io(&self.path))
    }
}

fn line_of(reservation: &Reservation) -> String {
    serde_json::to_string(reservation).expect("plain data") + "\n"
}

//! One process per folder: the lock of run folders and labelling folders.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

const LOCK: &str = ".lock";

/// A held lock. The operating system releases it however the process ends.
#[derive(Debug)]
pub struct FolderLock(File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is just being started may still share it.
        let _ = self.0.unlock();
    }
}

/// Creates the folder and takes its lock. `flag` names the option or key that gives the folder.
///
/// # Errors
/// [`Error::Invalid`] when the folder cannot be created or another process holds the lock.
pub fn lock_folder(folder: &Path, flag: &str) -> Result<FolderLock> {
    let refuse = |error: std::io::Error| Error::invalid(folder.display(), format!("cannot be used as {flag}: {error}"));
    fs::create_dir_all(folder).map_err(refuse)?;
    let path = folder.join(LOCK);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let what = format!("is in use by another process ({}); one process per folder", holder.trim());
            return Err(Error::invalid(folder.display(), what));
        }
        Err(TryLockError::Error(error)) => return Err(refuse(error)),
    }
    let holder = format!("pid {}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(Error::io(&path))?;
    Ok(FolderLock(file))
}

//! The only folder in which a program may write: fresh, and removed afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use align_core::error::{Error, Result};
use tempfile::TempDir;

/// A folder below the system's folder for temporary files, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct WorkFolder(TempDir);

impl WorkFolder {
    /// A fresh folder.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("align-sandbox-").tempdir();
        folder.map(Self).map_err(Error::io(&std::env::temp_dir()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes everything in the folder, once no program runs in it.
    ///
    /// Folders may be nested deeper than a path or a stack may be long: each is moved to the top before it is
    /// emptied.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let mut moved = 0_u64;
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let (entry, is_top) = (entry?, folder == self.path());
                if !entry.file_type()?.is_dir() {
                    fs::remove_file(entry.path())?;
                    continue;
                }
                make_accessible(&entry.path())?;
                let top = if is_top { entry.path() } else { self.unused(&mut moved) };
                if !is_top {
                    fs::rename(entry.path(), &top)?;
                }
                folders.push(top);
            }
            if folder != self.path() {
                fs::remove_dir(&folder)?;
            }
        }
        Ok(())
    }

    /// A path directly in the folder at which nothing is.
    fn unused(&self, moved: &mut u64) -> PathBuf {
        loop {
            *moved += 1;
            let path = self.path().join(format!("moved-{moved}"));
            if fs::symlink_metadata(&path).is_err() {
                return path;
            }
        }
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's folder for temporary files.
        let _ = self.clear();
    }
}

fn make_accessible(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

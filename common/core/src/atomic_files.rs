//! Atomic files and folders: a reader sees all of one, or none of it.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, Result};

/// The name prefix of files and folders that are being written or removed.
pub const TEMPORARY: &str = ".tmp-";

/// Flushes every file and folder below `folder`, and the folder itself, to the disk.
///
/// # Errors
/// [`Error::Io`] when the disk refuses.
pub fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

/// Flushes one file or folder to the disk.
fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
}

/// Flushes a file to the disk, if it exists.
///
/// # Errors
/// [`Error::Io`] when the disk refuses.
pub fn sync_if_exists(path: &Path) -> Result<()> {
    if path.exists() { sync(path) } else { Ok(()) }
}

/// Renames `from` to `to`, first removing a folder that is there, and flushes the parent.
///
/// # Errors
/// [`Error::Io`] when a rename fails.
pub fn replace_folder(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        remove_folder_atomically(to)?;
    }
    fs::rename(from, to).map_err(Error::io(to))?;
    sync(to.parent().expect("a folder inside a run"))
}

/// Removes a folder atomically: it is renamed first, so that a reader never sees a part of it.
///
/// # Errors
/// [`Error::Io`] when it cannot be renamed or removed.
pub fn remove_folder_atomically(folder: &Path) -> Result<()> {
    let name = folder.file_name().expect("a folder inside a run").to_string_lossy();
    let retired = folder.with_file_name(format!("{TEMPORARY}old-{name}"));
    remove_folder(&retired)?;
    fs::rename(folder, &retired).map_err(Error::io(folder))?;
    remove_folder(&retired)
}

/// Removes temporary files and folders that killed processes left in `folder`.
///
/// # Errors
/// [`Error::Io`] when something cannot be removed.
pub fn remove_temporaries(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY)) {
            if path.is_dir() { remove_folder(&path)? } else { fs::remove_file(&path).map_err(Error::io(&path))? }
        }
    }
    Ok(())
}

/// Removes a folder, if it exists.
///
/// # Errors
/// [`Error::Io`] when it cannot be removed.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(error)),
        _ => Ok(()),
    }
}

/// The permissions that the system gives to new files. The safetensors library writes temporary files,
/// readable by their owner only, and renames them, so the caller has to restore these permissions. Leaves an
/// empty file at `path`.
///
/// # Errors
/// [`Error::Io`] when the file cannot be created.
pub fn default_permissions(path: &Path) -> Result<fs::Permissions> {
    File::create(path).and_then(|file| file.metadata()).map(|created| created.permissions()).map_err(Error::io(path))
}

/// Writes a small file atomically: a reader sees the old or the new contents, never a part.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    let name = path.file_name().expect("a file inside a run").to_string_lossy();
    let temporary = path.with_file_name(format!("{TEMPORARY}{name}"));
    fs::write(&temporary, contents).map_err(Error::io(&temporary))?;
    sync(&temporary)?;
    fs::rename(&temporary, path).map_err(Error::io(path))?;
    sync(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// The first bytes of a Git LFS pointer: a file whose contents were never fetched.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Whether the bytes are a Git LFS pointer instead of the file's contents.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

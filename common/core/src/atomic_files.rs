//! Files and folders that appear whole or not at all.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, Result};

/// Files and folders that are being written or removed start with this.
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

/// Flushes a file to the disk, where there is one.
///
/// # Errors
/// [`Error::Io`] when the disk refuses.
pub fn sync_if_there(path: &Path) -> Result<()> {
    if path.exists() { sync(path) } else { Ok(()) }
}

/// Renames `from` to `to`, moving away a folder that stands there, and flushes the parent.
///
/// # Errors
/// [`Error::Io`] when a rename fails.
pub fn replace_folder(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        retire(to)?;
    }
    fs::rename(from, to).map_err(Error::io(to))?;
    sync(to.parent().expect("a folder inside a run"))
}

/// Removes a folder so that it never stands there in part: it is renamed first.
///
/// # Errors
/// [`Error::Io`] when it cannot be renamed or removed.
pub fn retire(folder: &Path) -> Result<()> {
    let name = folder.file_name().expect("a folder inside a run").to_string_lossy();
    let retired = folder.with_file_name(format!("{TEMPORARY}old-{name}"));
    remove_folder(&retired)?;
    fs::rename(folder, &retired).map_err(Error::io(folder))?;
    remove_folder(&retired)
}

/// Removes what killed processes left behind in `folder`.
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

/// Removes a folder, where there is one.
///
/// # Errors
/// [`Error::Io`] when it cannot be removed.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(error)),
        _ => Ok(()),
    }
}

/// The permissions that a file gets which is made as any other. The safetensors library writes temporary files, which are their owner's
/// alone, and gives them their names: they have to be given these, too. An empty file stands at `path` afterwards.
///
/// # Errors
/// [`Error::Io`] when it cannot be made.
pub fn usual_permissions(path: &Path) -> Result<fs::Permissions> {
    File::create(path).and_then(|file| file.metadata()).map(|made| made.permissions()).map_err(Error::io(path))
}

/// Writes a small file so that a reader sees the old or the new contents, never a part.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    let name = path.file_name().expect("a file inside a run").to_string_lossy();
    let temporary = path.with_file_name(format!("{TEMPORARY}{name}"));
    fs::write(&temporary, contents).map_err(Error::io(&temporary))?;
    sync(&temporary)?;
    fs::rename(&temporary, path).map_err(Error::io(path))?;
    sync(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// What a file of Git LFS begins with that was never fetched.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Whether this is what Git LFS leaves in place of a file that was not fetched.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

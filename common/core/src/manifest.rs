//! The manifest of a complete folder: the name, size and CRC-32 of every file.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The file that names a folder's files with sizes and checksums.
pub const MANIFEST: &str = "manifest.json";

/// The files of a folder at the time it was complete.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Sorted by path.
    pub files: Vec<Entry>,
}

/// A file of a manifest.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its path relative to the folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its checksum.
    pub crc32: u32,
}

/// Writes the manifest of a folder that is complete.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or the manifest not be written.
pub fn seal(folder: &Path) -> Result<()> {
    write(folder, entries(folder, None)?)
}

/// Writes a manifest of these files into a folder.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write(folder: &Path, files: Vec<Entry>) -> Result<()> {
    write_json(&folder.join(MANIFEST), &Manifest { files })
}

/// The files of the folder at `path` that differ from its manifest, with the reason.
pub fn damage(path: &Path) -> Vec<(PathBuf, String)> {
    let Some(manifest) = Manifest::read(path) else {
        return vec![(path.join(MANIFEST), "is missing or damaged".to_owned())];
    };
    let files = manifest.files.iter().map(|entry| (entry, path.join(&entry.path)));
    files.filter_map(|(entry, file)| entry.differs(&file).map(|what| (file, what))).collect()
}

impl Manifest {
    /// Reads a folder's manifest; `None` if it is missing or damaged.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()
    }
}

impl Entry {
    /// How a file differs from this entry; `None` if it does not.
    pub fn differs(&self, file: &Path) -> Option<String> {
        match digest(file) {
            Err(_) => Some("is missing or cannot be read".to_owned()),
            Ok((bytes, _)) if bytes != self.bytes => {
                Some(format!("is damaged: {bytes} bytes, expected {}", self.bytes))
            }
            Ok((_, crc32)) if crc32 != self.crc32 => Some("is damaged: its checksum differs".to_owned()),
            Ok(_) => None,
        }
    }
}

/// Every file below `folder` with its size and checksum, sorted by path, except those in the folder
/// `without`.
///
/// # Errors
/// [`Error::Io`] when one cannot be read.
pub fn entries(folder: &Path, without: Option<&str>) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    walk(folder, &mut |path| {
        let relative = path.strip_prefix(folder).expect("walk stays below the folder");
        if without.is_some_and(|without| relative.starts_with(without)) {
            return Ok(());
        }
        let (bytes, crc32) = digest(path).map_err(Error::io(path))?;
        found.push(Entry { path: relative.to_string_lossy().into_owned(), bytes, crc32 });
        Ok(())
    })?;
    found.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(found)
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() { walk(&path, visit)? } else { visit(&path)? }
    }
    Ok(())
}

/// Size and CRC-32 of a file.
fn digest(path: &Path) -> std::io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let (mut crc, mut bytes, mut buffer) = (flate2::Crc::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, crc.sum()));
        }
        bytes += read as u64;
        crc.update(&buffer[..read]);
    }
}

/// Writes a value as indented JSON.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("plain data");
    text.push('\n');
    fs::write(path, text).map_err(Error::io(path))
}

//! Checkpoints: everything a run needs to go on as if it had never stopped, in one folder that appears whole or not at all.
//!
//! `checkpoints/step-000500/` holds the models' folders as the stage wrote them, `state.safetensors` and `state.json` with
//! all that is not in the models (fp32 masters, moments, counters), and `manifest.json` with size and CRC-32 of every file.
//! A checkpoint is written beside, flushed, and renamed: a process killed at any moment leaves the previous ones and, at
//! most, a folder whose name starts with `.tmp-`, which the next process removes.

mod files;
mod tensors;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Tensor;

use crate::error::{Error, Problems, Result};

pub use files::{TEMPORARY, remove_temporaries, replace_folder, retire, sync_tree, write_whole};
pub use tensors::{read_tensors, write_tensors};

use files::remove_folder;

/// What a run saves beside its models.
#[derive(Debug)]
pub struct State {
    /// Where it was read from, for error messages.
    pub place: String,
    /// Named tensors of any kind.
    pub tensors: Vec<(String, Tensor)>,
    /// Named values.
    pub json: serde_json::Map<String, Value>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Holds nothing.
    pub fn new() -> Self {
        Self { place: "a state in memory".to_owned(), tensors: Vec::new(), json: serde_json::Map::new() }
    }

    /// Adds a value under `key`.
    ///
    /// # Panics
    /// When the value cannot be written as JSON (a map with keys that are not text).
    pub fn set(&mut self, key: &str, value: impl Serialize) {
        self.json.insert(key.to_owned(), serde_json::to_value(value).expect("states are plain data"));
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is missing or of another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.json.get(key).ok_or_else(|| Error::invalid(&self.place, format!("`{key}` is missing")))?;
        T::deserialize(value).map_err(|error| Error::invalid(&self.place, format!("`{key}`: {error}")))
    }

    /// The tensors by name.
    pub fn by_name(&self) -> HashMap<&str, &Tensor> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

const STATE_TENSORS: &str = "state.safetensors";
const STATE_JSON: &str = "state.json";
/// The file that names a folder's files with sizes and checksums.
pub(crate) const MANIFEST: &str = "manifest.json";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    path: String,
    bytes: u64,
    crc32: u32,
}

/// `step-000500`.
pub fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The complete checkpoints of `folder`, oldest first. A folder that does not exist has none.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be listed.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    numbered(folder, "")
}

/// What is named `step-…` and `ending` in `folder`, by step. A folder that does not exist has none.
pub(crate) fn numbered(folder: &Path, ending: &str) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let digits = name.strip_prefix("step-").and_then(|rest| rest.strip_suffix(ending));
        if let Some(step) = digits.and_then(|digits| digits.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes the checkpoint of `step` into `folder`: `write_models` fills subfolders of the folder it is given. Then all but the
/// newest `keep` are removed. Returns the new checkpoint's path.
///
/// # Errors
/// [`Error::Io`] when something cannot be written; the earlier checkpoints are untouched then.
pub fn save(
    folder: &Path,
    step: u64,
    state: &State,
    keep: usize,
    write_models: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let temporary = folder.join(format!("{TEMPORARY}{}", folder_name(step)));
    remove_folder(&temporary)?;
    fs::create_dir(&temporary).map_err(Error::io(&temporary))?;
    write_models(&temporary)?;
    write_tensors(&temporary.join(STATE_TENSORS), &state.tensors)?;
    write_json(&temporary.join(STATE_JSON), &Value::Object(state.json.clone()))?;
    seal(&temporary)?;
    sync_tree(&temporary)?;

    let path = folder.join(folder_name(step));
    replace_folder(&temporary, &path)?;
    let kept = list(folder)?;
    for (_, old) in &kept[..kept.len().saturating_sub(keep.max(1))] {
        retire(old)?;
    }
    Ok(path)
}

/// Writes the manifest of a folder that is complete.
pub(crate) fn seal(folder: &Path) -> Result<()> {
    write_json(&folder.join(MANIFEST), &Manifest { files: entries(folder)? })
}

/// Reads the state of the checkpoint at `path`, after comparing every file with the manifest.
///
/// # Errors
/// [`Error::Invalid`] naming every missing or damaged file.
pub fn load(path: &Path) -> Result<State> {
    verify(path)?;
    let place = path.display().to_string();
    let json = read_json(&path.join(STATE_JSON))?;
    Ok(State { place, tensors: read_tensors(&path.join(STATE_TENSORS))?, json })
}

/// Compares every file of the checkpoint at `path` with its manifest: size and CRC-32.
///
/// # Errors
/// [`Error::Invalid`] naming every missing or damaged file, and the previous checkpoint where there is one.
pub fn verify(path: &Path) -> Result<()> {
    let manifest_path = path.join(MANIFEST);
    let mut problems = Problems::new();
    match fs::read(&manifest_path).ok().and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok()) {
        None => problems.push(manifest_path.display(), format!("is missing or damaged{}", way_out(path))),
        Some(manifest) => {
            for entry in &manifest.files {
                let file = path.join(&entry.path);
                let what = match digest(&file) {
                    Err(_) => "is missing or cannot be read".to_owned(),
                    Ok((bytes, _)) if bytes != entry.bytes => {
                        format!("is damaged: {bytes} bytes, expected {}", entry.bytes)
                    }
                    Ok((_, crc32)) if crc32 != entry.crc32 => "is damaged: its checksum differs".to_owned(),
                    Ok(_) => continue,
                };
                problems.push(file.display(), format!("{what}{}", way_out(path)));
            }
        }
    }
    problems.into_result()
}

/// What to do about a damaged checkpoint.
fn way_out(path: &Path) -> String {
    let earlier = path.parent().and_then(|folder| list(folder).ok()).unwrap_or_default();
    let previous = earlier.iter().rev().find(|(_, other)| other.as_path() < path).map(|(_, other)| other.display());
    match previous {
        Some(previous) => format!("; remove {} and resume from {previous}", path.display()),
        None => format!("; remove {} and start again", path.display()),
    }
}

/// Every file below `folder` with size and checksum, in the order of their paths.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    walk(folder, &mut |path| {
        let (bytes, crc32) = digest(path).map_err(Error::io(path))?;
        let relative = path.strip_prefix(folder).expect("walk stays below the folder");
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

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("plain data");
    text.push('\n');
    fs::write(path, text).map_err(Error::io(path))
}

fn read_json(path: &Path) -> Result<serde_json::Map<String, Value>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(path.display(), error))
}

#[cfg(test)]
mod tests;

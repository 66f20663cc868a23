//! Checkpoints: everything a run needs to continue as if it had never stopped, in one folder that appears
//! atomically.
//!
//! `checkpoints/step-000500/` has the models' folders, `state.safetensors` and `state.json` with everything
//! else (fp32 masters, moments, counters), and `manifest.json` with the size and CRC-32 of every file. A
//! checkpoint is written to a temporary folder, flushed, and renamed. A process that is killed leaves the
//! previous checkpoints and at most a folder whose name starts with `.tmp-`, which the next process removes.
//!
//! A [`Snapshot`] shares memory with the model that is trained, so that another thread can write it while the
//! next step computes. The optimizer waits for a [`SnapshotLock`] before it changes that memory: until every
//! byte is handed to the operating system.

mod snapshot_lock;
mod tensors;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::Tensor;

use align_core::atomic_files::{TEMPORARY, remove_folder, remove_folder_atomically, replace_folder, sync_tree};
use align_core::error::{Error, Problems, Result};
use align_core::manifest::{self, Entry, MANIFEST, Manifest, damage, write_json};
use align_model::Models;

pub use snapshot_lock::{SnapshotGuard, SnapshotLock};
pub use tensors::{read_tensors, write_tensors};
use tensors::{sum_of_file, write_summed};

/// What a run saves besides its models.
#[derive(Debug)]
pub struct State {
    /// The path it was read from, for error messages.
    pub location: String,
    /// Named tensors of any kind.
    pub tensors: Vec<(String, Tensor)>,
    /// Named values.
    pub json: serde_json::Map<String, Value>,
    /// Guards against changes of the tensors.
    guards: Vec<SnapshotGuard>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// An empty state.
    pub fn new() -> Self {
        Self {
            location: "a state in memory".to_owned(),
            tensors: Vec::new(),
            json: serde_json::Map::new(),
            guards: Vec::new(),
        }
    }

    /// Keeps a lock locked until this state is dropped.
    pub fn hold(&mut self, guard: SnapshotGuard) {
        self.guards.push(guard);
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
        let value = self.json.get(key).ok_or_else(|| Error::invalid(&self.location, format!("`{key}` is missing")))?;
        T::deserialize(value).map_err(|error| Error::invalid(&self.location, format!("`{key}`: {error}")))
    }

    /// The tensors by name.
    pub fn by_name(&self) -> HashMap<&str, &Tensor> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

/// Everything that a checkpoint is written from. An optimizer whose tensors are in the state takes no step
/// until it is dropped.
pub struct Snapshot {
    /// The models.
    pub models: Box<dyn Models>,
    /// Everything else.
    pub state: State,
}

const STATE_TENSORS: &str = "state.safetensors";
const STATE_JSON: &str = "state.json";
/// The folder for models that did not read back as written.
pub const UNSOUND: &str = "unsound";
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

/// The entries of `folder` named `step-…` followed by `ending`, by step. A folder that does not exist has
/// none.
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

/// Writes the checkpoint of `step` into `folder`: the state, the models, and the files that `more` adds.
/// Returns the checkpoint's path.
///
/// # Errors
/// [`Error::Io`] when the state or the additional files cannot be written, [`Error::Failed`] when the state
/// does not read back as written; the checkpoint is then removed. [`Error::Models`] when a model cannot be
/// written or does not read back as intended: the checkpoint then has the full training state but no models,
/// and the faulty ones are in its folder [`UNSOUND`]. Earlier checkpoints are not changed.
pub fn save(folder: &Path, step: u64, snapshot: Snapshot, more: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let temporary = folder.join(format!("{TEMPORARY}{}", folder_name(step)));
    remove_folder(&temporary)?;
    fs::create_dir(&temporary).map_err(Error::io(&temporary))?;
    let models = match write(&temporary, snapshot, more) {
        Ok(models) => models,
        Err(error) => {
            let _ = remove_folder(&temporary); // frees space on a full disk
            return Err(error);
        }
    };
    let path = folder.join(folder_name(step));
    replace_folder(&temporary, &path)?;
    match models {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::Models { step, path, source: Box::new(source) }),
    }
}

/// Writes a checkpoint's files; the inner result is that of the models.
fn write(folder: &Path, snapshot: Snapshot, more: impl FnOnce(&Path) -> Result<()>) -> Result<Result<()>> {
    let Snapshot { models, state } = snapshot;
    let tensors = folder.join(STATE_TENSORS);
    let sum = write_summed(&tensors, &state.tensors)?;
    let written = models.write(folder);
    let json = state.json;
    drop((state.tensors, state.guards)); // from here on, the optimizer may change the tensors
    if written.is_err() {
        model_folders(folder)?.iter().try_for_each(|model| remove_folder(model))?; // frees space on a full disk
    }
    write_json(&folder.join(STATE_JSON), &Value::Object(json))?;
    more(folder)?;
    let sound = written.and_then(|()| models.check(folder));
    if sound.is_err() {
        set_models_aside(folder)?;
    }
    let files = manifest::entries(folder, Some(UNSOUND))?;
    let sum = sum_of_file(&tensors, &sum)?;
    if files.iter().any(|entry| entry.path == STATE_TENSORS && entry.crc32 != sum) {
        return Err(Error::Failed(format!(
            "{}: the file differs from what was in memory; the disk or the memory is faulty, and nothing was replaced",
            tensors.display()
        )));
    }
    manifest::write(folder, files)?;
    sync_tree(folder)?;
    Ok(sound)
}

/// The folders of the models in a checkpoint.
fn model_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() && !path.ends_with(UNSOUND) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Moves faulty models to [`UNSOUND`], so that nothing loads them but they can be inspected.
fn set_models_aside(folder: &Path) -> Result<()> {
    let (models, aside) = (model_folders(folder)?, folder.join(UNSOUND));
    if models.is_empty() {
        return Ok(());
    }
    fs::create_dir(&aside).map_err(Error::io(&aside))?;
    for model in models {
        let to = aside.join(model.file_name().expect("a folder inside a checkpoint"));
        fs::rename(&model, &to).map_err(Error::io(&to))?;
    }
    Ok(())
}

/// Whether a file is part of a model: all others are at the top level.
fn is_of_a_model(entry: &Entry) -> bool {
    entry.path.contains('/')
}

/// Whether the checkpoint at `path` has models. Only those of [`Error::Models`] have none.
pub fn has_models(path: &Path) -> bool {
    Manifest::read(path).is_some_and(|manifest| manifest.files.iter().any(is_of_a_model))
}

/// Removes all checkpoints of `folder` but the newest `keep` and `best`. A checkpoint without models does not
/// count, and stays as long as it is newer than these.
///
/// # Errors
/// [`Error::Io`] when one cannot be removed.
pub fn prune(folder: &Path, keep: usize, best: Option<u64>) -> Result<()> {
    let found = list(folder)?;
    let whole = found.iter().rev().filter(|(_, path)| has_models(path));
    let Some((oldest, _)) = whole.take(keep.max(1)).last() else { return Ok(()) };
    let old = found.iter().filter(|(step, _)| step < oldest && Some(*step) != best);
    old.into_iter().try_for_each(|(_, path)| remove_folder_atomically(path))
}

/// Copies the models of the checkpoint at `path` into the folder `to`, and compares the copies with the
/// manifest.
///
/// # Errors
/// [`Error::Invalid`] when the checkpoint is damaged, [`Error::Failed`] when it has no models, [`Error::Io`]
/// when a copy cannot be written.
pub fn copy_models(path: &Path, to: &Path) -> Result<()> {
    let manifest = Manifest::read(path).ok_or_else(|| {
        Error::invalid(path.join(MANIFEST).display(), format!("is missing or damaged{}", recovery_hint(path)))
    })?;
    if !manifest.files.iter().any(is_of_a_model) {
        return Err(Error::Failed(format!("{}: has no models, only the training state", path.display())));
    }
    for entry in manifest.files.iter().filter(|entry| is_of_a_model(entry)) {
        let (file, copy) = (path.join(&entry.path), to.join(&entry.path));
        let parent = copy.parent().expect("a file in a model's folder");
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        fs::copy(&file, &copy).map_err(Error::io(&file))?;
        if let Some(what) = entry.differs(&copy) {
            return Err(Error::Failed(format!("{}: {what}, but is a copy of {}", copy.display(), file.display())));
        }
    }
    Ok(())
}

/// Reads the state of the checkpoint at `path`, after comparing every file with the manifest.
///
/// # Errors
/// [`Error::Invalid`] naming every missing or damaged file.
pub fn load(path: &Path) -> Result<State> {
    verify(path)?;
    let location = path.display().to_string();
    let json = read_json(&path.join(STATE_JSON))?;
    Ok(State { location, tensors: read_tensors(&path.join(STATE_TENSORS))?, json, guards: Vec::new() })
}

/// Compares every file of the checkpoint at `path` with its manifest: size and CRC-32.
///
/// # Errors
/// [`Error::Invalid`] naming every missing or damaged file, and what to do about it.
pub fn verify(path: &Path) -> Result<()> {
    let damage = damage(path);
    if damage.is_empty() {
        return Ok(());
    }
    let hint = recovery_hint(path);
    let mut problems = Problems::new();
    damage.iter().for_each(|(file, what)| problems.push(file.display(), format!("{what}{hint}")));
    problems.into_result()
}

/// What to do about a damaged checkpoint: remove it, and earlier damaged ones, down to an intact one.
fn recovery_hint(path: &Path) -> String {
    let all = path.parent().and_then(|folder| list(folder).ok()).unwrap_or_default();
    let at = all.iter().position(|(_, other)| other == path).unwrap_or(0);
    let mut damaged = vec![path.display().to_string()];
    for (step, earlier) in all[..at].iter().rev() {
        if damage(earlier).is_empty() {
            let (damaged, earlier) = (damaged.join(" and "), earlier.display());
            return format!("; remove {damaged} to resume from {earlier}: --resume then continues after step {step}");
        }
        damaged.push(earlier.display().to_string());
    }
    format!(
        "; no earlier checkpoint is intact: remove {} to start again at step 0 with --resume",
        damaged.join(" and ")
    )
}

fn read_json(path: &Path) -> Result<serde_json::Map<String, Value>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(path.display(), error))
}

#[cfg(test)]
mod tests;

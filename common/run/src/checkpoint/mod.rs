//! Checkpoints: everything a run needs to go on as if it had never stopped, in one folder that appears whole or not at all.
//!
//! `checkpoints/step-000500/` holds the models' folders as the stage wrote them, `state.safetensors` and `state.json` with
//! all that is not in the models (fp32 masters, moments, counters), and `manifest.json` with size and CRC-32 of every file.
//! A checkpoint is written beside, flushed, and renamed: a process killed at any moment leaves the previous ones and, at
//! most, a folder whose name starts with `.tmp-`, which the next process removes.
//!
//! What it is written from ([`Snapshot`]) shares memory with what is trained, so that another thread can write while the next
//! step computes. A [`Gate`] before the optimiser keeps that memory as it is until every byte is with the system.

mod gate;
mod tensors;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::Tensor;

use align_core::atomic_files::{TEMPORARY, remove_folder, replace_folder, retire, sync_tree};
use align_core::error::{Error, Problems, Result};
use align_core::manifest::{self, Entry, MANIFEST, Manifest, damage, write_json};
use align_model::Models;

pub use gate::{Gate, Shut};
pub use tensors::{read_tensors, write_tensors};
use tensors::{sum_of_file, write_summed};

/// What a run saves beside its models.
#[derive(Debug)]
pub struct State {
    /// Where it was read from, for error messages.
    pub place: String,
    /// Named tensors of any kind.
    pub tensors: Vec<(String, Tensor)>,
    /// Named values.
    pub json: serde_json::Map<String, Value>,
    /// What keeps the tensors as they are.
    shut: Vec<Shut>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Holds nothing.
    pub fn new() -> Self {
        Self {
            place: "a state in memory".to_owned(),
            tensors: Vec::new(),
            json: serde_json::Map::new(),
            shut: Vec::new(),
        }
    }

    /// Keeps a gate shut for as long as this state is there.
    pub fn keep(&mut self, shut: Shut) {
        self.shut.push(shut);
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

/// All that a checkpoint is written from. No optimiser whose tensors are in the state takes a step while it is there.
pub struct Snapshot {
    /// The models.
    pub models: Box<dyn Models>,
    /// What is not in them.
    pub state: State,
}

const STATE_TENSORS: &str = "state.safetensors";
const STATE_JSON: &str = "state.json";
/// The folder in which models lie that were not read back as what was written.
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

/// Writes the checkpoint of `step` into `folder`: state, models, and what `more` adds to the folder it is given. Returns the
/// checkpoint's path.
///
/// # Errors
/// [`Error::Io`] when the state or what `more` adds cannot be written, [`Error::Failed`] when the state cannot be read back; nothing of the
/// checkpoint is left then. [`Error::Models`] when a model cannot be written or is not read back as it was to be: the checkpoint is there
/// then, with all that training goes on from and no models, and what was written of them lies in its folder [`UNSOUND`]. The earlier
/// checkpoints are untouched.
pub fn save(folder: &Path, step: u64, snapshot: Snapshot, more: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let temporary = folder.join(format!("{TEMPORARY}{}", folder_name(step)));
    remove_folder(&temporary)?;
    fs::create_dir(&temporary).map_err(Error::io(&temporary))?;
    let models = match write(&temporary, snapshot, more) {
        Ok(models) => models,
        Err(error) => {
            let _ = remove_folder(&temporary); // on a full disk, room for others
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

/// Returns what became of the models.
fn write(folder: &Path, snapshot: Snapshot, more: impl FnOnce(&Path) -> Result<()>) -> Result<Result<()>> {
    let Snapshot { models, state } = snapshot;
    let tensors = folder.join(STATE_TENSORS);
    let sum = write_summed(&tensors, &state.tensors)?;
    let written = models.write(folder);
    let json = state.json;
    drop((state.tensors, state.shut)); // from here on, what was written may change
    if written.is_err() {
        model_folders(folder)?.iter().try_for_each(|model| remove_folder(model))?; // on a full disk, room for what follows
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
            "{}: what was written is not what was in memory; the disk or the memory is not sound, and nothing was replaced",
            tensors.display()
        )));
    }
    manifest::write(folder, files)?;
    sync_tree(folder)?;
    Ok(sound)
}

/// The models' folders in that of a checkpoint.
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

/// Models that are not what they should be must not be taken for it, but whoever wants to know why may look at them.
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

/// The state and its like lie beside the models' folders.
fn is_of_a_model(entry: &Entry) -> bool {
    entry.path.contains('/')
}

/// Whether the checkpoint at `path` has models, as all have but those of [`Error::Models`].
pub fn has_models(path: &Path) -> bool {
    Manifest::read(path).is_some_and(|manifest| manifest.files.iter().any(is_of_a_model))
}

/// Removes all but the newest `keep` checkpoints of `folder`, and `best` where there is one. One without models counts for none, and
/// stays as long as it is newer than these.
///
/// # Errors
/// [`Error::Io`] when one cannot be removed.
pub fn prune(folder: &Path, keep: usize, best: Option<u64>) -> Result<()> {
    let found = list(folder)?;
    let whole = found.iter().rev().filter(|(_, path)| has_models(path));
    let Some((oldest, _)) = whole.take(keep.max(1)).last() else { return Ok(()) };
    let old = found.iter().filter(|(step, _)| step < oldest && Some(*step) != best);
    old.into_iter().try_for_each(|(_, path)| retire(path))
}

/// Copies the models of the checkpoint at `path` into the folder `to`, and compares the copies with the manifest.
///
/// # Errors
/// [`Error::Invalid`] when the checkpoint is damaged, [`Error::Failed`] when it has no models, [`Error::Io`] when a copy cannot be written.
pub fn copy_models(path: &Path, to: &Path) -> Result<()> {
    let manifest = Manifest::read(path).ok_or_else(|| {
        Error::invalid(path.join(MANIFEST).display(), format!("is missing or damaged{}", way_out(path)))
    })?;
    if !manifest.files.iter().any(is_of_a_model) {
        return Err(Error::Failed(format!("{}: holds no models, only what training goes on from", path.display())));
    }
    for entry in manifest.files.iter().filter(|entry| is_of_a_model(entry)) {
        let (file, copy) = (path.join(&entry.path), to.join(&entry.path));
        let parent = copy.parent().expect("a file in a model's folder");
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        fs::copy(&file, &copy).map_err(Error::io(&file))?;
        if let Some(what) = entry.differs(&copy) {
            return Err(Error::Failed(format!("{}: {what}, as a copy of {}", copy.display(), file.display())));
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
    let place = path.display().to_string();
    let json = read_json(&path.join(STATE_JSON))?;
    Ok(State { place, tensors: read_tensors(&path.join(STATE_TENSORS))?, json, shut: Vec::new() })
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
    let way_out = way_out(path);
    let mut problems = Problems::new();
    damage.iter().for_each(|(file, what)| problems.push(file.display(), format!("{what}{way_out}")));
    problems.into_result()
}

/// What to do about a damaged checkpoint: to remove it, and those before it that are damaged, too, down to one that is whole.
fn way_out(path: &Path) -> String {
    let all = path.parent().and_then(|folder| list(folder).ok()).unwrap_or_default();
    let at = all.iter().position(|(_, other)| other == path).unwrap_or(0);
    let mut damaged = vec![path.display().to_string()];
    for (step, earlier) in all[..at].iter().rev() {
        if damage(earlier).is_empty() {
            let (damaged, earlier) = (damaged.join(" and "), earlier.display());
            return format!("; remove {damaged} to resume from {earlier}: --resume then goes on behind step {step}");
        }
        damaged.push(earlier.display().to_string());
    }
    format!("; no earlier checkpoint is whole: remove {} to start again at step 0 with --resume", damaged.join(" and "))
}

fn read_json(path: &Path) -> Result<serde_json::Map<String, Value>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(path.display(), error))
}

#[cfg(test)]
mod tests;

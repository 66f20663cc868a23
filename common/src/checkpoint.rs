//! Checkpoints: everything a run needs to go on as if it had never stopped, in one folder that appears whole or not at all.
//!
//! `checkpoints/step-000500/` holds the models' folders as the stage wrote them, `state.safetensors` and `state.json` with
//! all that is not in the models (fp32 masters, moments, counters), and `manifest.json` with size and CRC-32 of every file.
//! A checkpoint is written beside, flushed, and renamed: a process killed at any moment leaves the previous ones and, at
//! most, a folder whose name starts with `.tmp-`, which the next process removes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::error::{Error, Problems, Result};

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

    /// The tensor named `name`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        let found = self.tensors.iter().find(|(own, _)| own == name).map(|(_, tensor)| tensor);
        found.ok_or_else(|| Error::invalid(&self.place, format!("`{name}` is missing")))
    }

    /// The tensors by name.
    pub fn by_name(&self) -> HashMap<&str, &Tensor> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

const STATE_TENSORS: &str = "state.safetensors";
const STATE_JSON: &str = "state.json";
const MANIFEST: &str = "manifest.json";
/// Folders that are being written or removed start with this.
pub const TEMPORARY: &str = ".tmp-";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    step: u64,
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
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|digits| digits.parse().ok()) {
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
    let manifest = Manifest { step, files: entries(&temporary)? };
    write_json(&temporary.join(MANIFEST), &manifest)?;
    sync_tree(&temporary)?;

    let path = folder.join(folder_name(step));
    replace_folder(&temporary, &path)?;
    let kept = list(folder)?;
    for (_, old) in &kept[..kept.len().saturating_sub(keep.max(1))] {
        retire(old)?;
    }
    Ok(path)
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

/// Writes tensors as safetensors, one copy of one tensor at a time. The bytes depend on names and values only.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), TensorView::new(tensor)));
    safetensors::serialize_to_file(views, None, path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::Io { path: path.to_owned(), source },
        other => Error::Failed(format!("{}: {other}", path.display())),
    })
}

/// Reads all tensors of a safetensors file onto the CPU.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Invalid`] when it is not a safetensors file.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the map is only read, and only until this function returns; the run folder is locked, so none of our own
    // processes changes the file meanwhile.
    #[allow(unsafe_code, reason = "a map needs no second copy of a state as large as the model")]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    let invalid = |what: &dyn std::fmt::Display| Error::invalid(path.display(), what);
    let parsed = SafeTensors::deserialize(&map).map_err(|error| invalid(&error))?;
    let mut tensors = Vec::new();
    for (name, view) in parsed.iter() {
        let kind = kind(view.dtype()).ok_or_else(|| invalid(&format!("`{name}` has dtype {:?}", view.dtype())))?;
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        tensors.push((name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?));
    }
    tensors.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(tensors)
}

const KINDS: [(Kind, Dtype); 9] = [
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Half, Dtype::F16),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::BOOL),
];

fn kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(_, other)| *other == dtype).map(|(kind, _)| *kind)
}

struct TensorView {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl TensorView {
    fn new(tensor: &Tensor) -> Self {
        let dtype = KINDS.iter().find(|(kind, _)| *kind == tensor.kind()).map(|(_, dtype)| *dtype);
        Self {
            dtype: dtype.unwrap_or_else(|| panic!("a state holds {:?}, which safetensors has not", tensor.kind())),
            shape: tensor.size().iter().map(|&size| size as usize).collect(),
            tensor: tensor.detach(),
        }
    }
}

impl View for TensorView {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        self.tensor.to_device(tch::Device::Cpu).contiguous().copy_data_u8(&mut bytes, self.tensor.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
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
pub(crate) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
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
fn retire(folder: &Path) -> Result<()> {
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

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(error)),
        _ => Ok(()),
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

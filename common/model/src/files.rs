//! The safetensors files of a folder, mapped, with their headers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use serde_json::{Map, Value};
use tch::Kind;

use super::config::ModelConfig;
use super::differences::{self, Alike, Held};
use super::folder::INDEX;
use super::spec::{Face, Spec, kind};
use super::unfound::refuse_unfound;
use align_core::atomic_files::is_lfs_pointer;
use align_core::error::{Error, Problems, Result};
use align_kernels::{HOST, tensor_bytes};

/// Weights are read from their files in parts of about this many bytes.
pub const READ_BYTES: usize = 32 << 20;

/// The safetensors files of a folder, mapped, with their headers.
pub(crate) struct Files {
    dir: PathBuf,
    files: Vec<Mapped>,
    tensors: BTreeMap<String, Entry>,
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
}

/// Where a tensor is in the files.
pub(crate) struct Entry {
    file: usize,
    range: std::ops::Range<usize>,
    dtype: Dtype,
    shape: Vec<i64>,
}

impl Files {
    /// Reads the headers of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.
    /// `None` when the folder holds no weights.
    pub(crate) fn open(dir: &Path) -> Result<Option<Self>> {
        let mut problems = Problems::new();
        let Some((paths, index)) = problems.absorb(file_names(dir))?.flatten() else {
            problems.into_result()?;
            return Ok(None);
        };
        let mut found = Files { dir: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            problems.absorb(found.add(&path))?;
        }
        problems.into_result()?;
        if let Some(index) = index {
            found.compare_with_index(&index)?;
        }
        Ok(Some(found))
    }

    /// As [`Files::open`], for a folder that must hold weights.
    pub(crate) fn require(dir: &Path) -> Result<Self> {
        let what = "holds no weights, expected model.safetensors or shards with model.safetensors.index.json";
        Self::open(dir)?.ok_or_else(|| Error::invalid(dir.display(), what))
    }

    /// The tensor, in the memory of the mapped file.
    fn tensor(&self, name: &str) -> Option<tch::Tensor> {
        let entry = self.tensors.get(name)?;
        let bytes = &self.files[entry.file].map[entry.range.clone()];
        Some(tch::Tensor::from_data_size(bytes, &entry.shape, kind(entry.dtype)?))
    }

    /// The tensor in the mapped file itself. It must not be used when this is gone.
    #[allow(unsafe_code, reason = "a copy would be as large as the model")]
    pub(crate) fn view(&self, name: &str) -> Option<tch::Tensor> {
        let entry = self.tensors.get(name)?;
        let kind = kind(entry.dtype)?;
        let bytes = &self.files[entry.file].map[entry.range.clone()];
        if !bytes.as_ptr().addr().is_multiple_of(kind.elt_size_in_bytes()) {
            return self.tensor(name);
        }
        let strides: Vec<i64> =
            (0..entry.shape.len()).map(|axis| entry.shape[axis + 1..].iter().product::<i64>()).collect();
        // SAFETY: the header's check made sure that the bytes are those of the shape and dtype; the caller
        // keeps the map.
        Some(unsafe { tch::Tensor::from_blob(bytes.as_ptr(), &entry.shape, &strides, kind, HOST) })
    }

    /// The dtype of a tensor and BLAKE3 of its bytes, of which some are held at a time.
    pub(crate) fn sum(&self, name: &str) -> Option<(Kind, blake3::Hash)> {
        let tensor = self.view(name)?;
        let mut hasher = blake3::Hasher::new();
        for part in tensor_bytes(&tensor).chunks(READ_BYTES) {
            hasher.update_rayon(part);
            self.let_go();
        }
        Some((tensor.kind(), hasher.finalize()))
    }

    /// Lets go of what was read of the mapped files; who reads on finds it again.
    #[allow(unsafe_code, reason = "no safe call lets go of mapped pages")]
    pub(crate) fn let_go(&self) {
        for file in &self.files {
            // SAFETY: the map is of a file and only read: dropped pages come back from it with the same
            // bytes. A refusal costs memory alone.
            let _ = unsafe { file.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// The dtypes of the tensors, each once.
    pub(crate) fn dtypes(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Vec::new();
        for kind in self.tensors.values().filter_map(|entry| kind(entry.dtype)) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Compares names, shapes and dtypes both ways.
    pub(crate) fn compare(&self, specs: &[Spec], face: Face, config: &ModelConfig) -> Result<()> {
        let tensors = self.tensors.iter().map(|(name, entry)| {
            let file = self.files[entry.file].path.as_path();
            (name.as_str(), Held { file, dtype: entry.dtype, shape: &entry.shape })
        });
        let held = tensors.collect();
        differences::compare(&self.dir, &held, specs, face, config)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|error| {
            Error::invalid(path.display(), format!("cannot be read ({error}), expected a safetensors file"))
        })?;
        // SAFETY: a file that another process cuts short while it is mapped would fault; checkpoints are
        // replaced by rename, which leaves the mapped one whole.
        #[allow(unsafe_code, reason = "mapping a file")]
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        if is_lfs_pointer(&map) {
            let what =
                "a Git LFS pointer in place of the weights, expected the weights themselves; fetch them: git lfs pull";
            return Err(Error::invalid(path.display(), what));
        }
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| header_error(path, &map, &error))?;
        let data = header + 8;
        for (name, info) in metadata.tensors() {
            let shape = info.shape.iter().map(|&size| size as i64).collect();
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            let entry = Entry { file: self.files.len(), range, dtype: info.dtype, shape };
            if let Some(other) = self.tensors.insert(name.clone(), entry) {
                let first = self.files[other.file].path.display();
                return Err(Error::invalid(path.display(), format!("{name} is also in {first}, expected it once")));
            }
        }
        self.files.push(Mapped { path: path.to_owned(), map });
        Ok(())
    }

    /// Every tensor is in the file that the index names.
    fn compare_with_index(&self, index: &Map<String, Value>) -> Result<()> {
        let (mut problems, mut elsewhere) = (Problems::new(), Alike::default());
        let place = self.dir.join(INDEX);
        for (name, file) in index {
            let file = file.as_str().unwrap_or_default();
            match self.tensors.get(name) {
                Some(entry) if self.files[entry.file].path.file_name().is_some_and(|found| found == file) => {}
                _ => elsewhere
                    .add(place.display(), || format!("{name} is not in {file}, expected it where the index puts it")),
            }
        }
        elsewhere.report(&mut problems);
        problems.into_result()
    }
}

const SINGLE: &str = "model.safetensors";

type Names = (Vec<PathBuf>, Option<Map<String, Value>>);

/// The files that hold the weights, with the index's map from tensor to file where there is one.
fn file_names(dir: &Path) -> Result<Option<Names>> {
    let index = dir.join(INDEX);
    if index.is_file() {
        let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|error| Error::invalid(index.display(), format!("not JSON: {error}")))?;
        let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
            return Err(Error::invalid(index.display(), "weight_map is missing, expected a map from tensor to file"));
        };
        let (mut problems, mut outside) = (Problems::new(), Alike::default());
        let mut names = BTreeSet::new();
        for (tensor, file) in map {
            match file.as_str() {
                Some(name) if is_plain(name) => {
                    names.insert(name);
                }
                _ => outside.add(index.display(), || {
                    format!("{tensor} is in {file}, expected the plain name of a file in the folder")
                }),
            }
        }
        outside.report(&mut problems);
        problems.into_result()?;
        return Ok(Some((names.into_iter().map(|name| dir.join(name)).collect(), Some(map.clone()))));
    }
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(Some((vec![single], None)));
    }
    refuse_unfound(dir)?;
    Ok(None)
}

/// The files of a folder that decide what a model made of it computes: its config, its tokenizer and its
/// weights.
///
/// # Errors
/// As [`super::inspect`] where the weights are looked for.
pub fn read_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = ["config.json", "tokenizer.json", "qwen.tiktoken"].map(|name| dir.join(name)).into();
    files.retain(|file| file.is_file());
    files.extend(file_names(dir)?.into_iter().flat_map(|(weights, _)| weights));
    Ok(files)
}

/// A file name that cannot leave its folder.
fn is_plain(name: &str) -> bool {
    let path = Path::new(name);
    path.file_name().is_some_and(|last| last == name) && name.ends_with(".safetensors") && !name.contains('\\')
}

fn header_error(path: &Path, map: &[u8], error: &SafeTensorError) -> Error {
    let what = match error {
        SafeTensorError::MetadataIncompleteBuffer
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::HeaderTooSmall => {
            format!(
                "{} bytes, not what its header promises; the file is truncated or was not written to its end",
                map.len()
            )
        }
        SafeTensorError::InvalidOffset(name) => format!("{name} overlaps another tensor or leaves a gap before it"),
        SafeTensorError::TensorInvalidInfo => "a tensor's size in bytes is not that of its shape and dtype".to_owned(),
        other => format!("not a safetensors file: {other}"),
    };
    Error::invalid(path.display(), what)
}

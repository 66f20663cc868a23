//! Weights in and out: safetensors ⇄ parameters, and the files that travel with them.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use rand::Rng;
use safetensors::tensor::{Dtype, View};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::ModelOptions;
use super::config::dtype_name;
use super::files::{Files, READ_BYTES};
use super::folder::INDEX;
use super::rounding::{Draws, rounded};
use super::spec::{Face, Init, Spec};
use align_core::atomic_files::default_permissions;
use align_core::config::ResultDtype;
use align_core::error::{Error, Result};
use align_core::random::{self, Purpose};
use align_kernels::{HOST, as_f32_slice, tensor_bytes, to_host};

/// The size above which a checkpoint is written in shards, in bytes.
const SHARD_BYTES: usize = 5_000_000_000;

/// A tensor that is learned, or was.
#[derive(Debug)]
pub struct Parameter {
    /// The checkpoint's name for it.
    pub name: String,
    /// Trainable: an fp32 leaf that requires a gradient. Frozen: in the compute dtype.
    pub tensor: Tensor,
    /// Its dtype in the file, in which it is written unless `Writing` names another.
    pub(crate) stored: Kind,
}

impl Parameter {
    /// The dtype that it has in a file which is written so.
    pub(crate) fn written_as(&self, writing: Writing) -> Kind {
        writing.dtype.unwrap_or(self.stored)
    }

    pub(crate) fn new(name: &str, tensor: &Tensor, stored: Kind, options: &ModelOptions) -> Self {
        let tensor = tensor.to_device(options.device).to_kind(options.kept()).set_requires_grad(options.trainable);
        Self { name: name.to_owned(), tensor, stored }
    }

    /// Read some rows at a time, so that of the mapped file no more than these is held beside the model.
    pub(crate) fn read(files: &Files, spec: &Spec, options: &ModelOptions) -> Self {
        let source = files.view(&spec.name).expect("the header was compared with the specs");
        let tensor = Tensor::empty(&spec.shape, (options.kept(), options.device));
        let rows = spec.shape[0];
        let bytes = source.numel() * source.kind().elt_size_in_bytes();
        let some = rows / (bytes / READ_BYTES + 1) as i64 + 1;
        for start in (0..rows).step_by(some as usize) {
            let part = |tensor: &Tensor| tensor.narrow(0, start, some.min(rows - start));
            part(&tensor).copy_(&part(&source));
            files.let_go();
        }
        let tensor = tensor.set_requires_grad(options.trainable);
        Self { name: spec.name.clone(), tensor, stored: source.kind() }
    }

    /// As [`Parameter::read`] for a frozen model that is used once, but in the mapped file itself and in its
    /// dtype: on the CPU nothing is copied, and each weight is cast where it is used.
    ///
    /// `files` must outlive every use of it.
    pub(crate) fn mapped(files: &Files, spec: &Spec, options: &ModelOptions) -> Self {
        let tensor = files.view(&spec.name).expect("the header was compared with the specs");
        Self { name: spec.name.clone(), stored: tensor.kind(), tensor: tensor.to_device(options.device) }
    }

    /// Drawn on the host, so that it depends on the seed and its index in the model alone.
    pub(crate) fn random(
        spec: &Spec,
        seed: u64,
        purpose: Purpose,
        index: u64,
        stored: Kind,
        options: &ModelOptions,
    ) -> Self {
        let tensor = match spec.init {
            Init::Constant(value) => Tensor::full(&spec.shape, value, (Kind::Float, HOST)),
            Init::Normal(deviation) => {
                let count = spec.shape.iter().product::<i64>() as usize;
                let mut stream = random::stream(seed, purpose, 0, index);
                let mut values = Vec::with_capacity(count + 1);
                while values.len() < count {
                    // Box and Muller 1958; 1 - u is never 0.
                    let radius = (-2.0 * (1.0 - stream.random::<f64>()).ln()).sqrt() * deviation;
                    let (sin, cos) = (std::f64::consts::TAU * stream.random::<f64>()).sin_cos();
                    values.extend([(radius * cos) as f32, (radius * sin) as f32]);
                }
                Tensor::from_slice(&values[..count]).view(spec.shape.as_slice())
            }
        };
        // What is written later must be what is trained from now.
        Self::new(&spec.name, &tensor.to_kind(stored), stored, options)
    }
}

const GENERATION_CONFIG: &str = "generation_config.json";
/// A folder of templates beside `chat_template.jinja`.
const TEMPLATES: &str = "additional_chat_templates";

/// What travels with the weights: tokenizer, templates, generation defaults.
#[derive(Debug, Clone, Default)]
pub struct SideFiles(Vec<(String, Vec<u8>)>);

impl SideFiles {
    /// Reads them.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder or a file cannot be read.
    pub fn capture(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.is_file() && is_side_file(name) {
                files.push((name.to_owned(), std::fs::read(&path).map_err(Error::io(&path))?));
            }
        }
        // Templates for other uses than chat, as transformers keeps them.
        let templates = dir.join(TEMPLATES);
        for entry in std::fs::read_dir(&templates).into_iter().flatten() {
            let path = entry.map_err(Error::io(&templates))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.is_file() {
                files.push((format!("{TEMPLATES}/{name}"), std::fs::read(&path).map_err(Error::io(&path))?));
            }
        }
        files.sort();
        Ok(Self(files))
    }

    /// Adds end tokens before those that generation_config.json names already; the file is created when
    /// missing.
    pub fn add_eos_token_ids(&mut self, ids: &[i64]) {
        let at = self.0.iter().position(|(name, _)| name == GENERATION_CONFIG);
        let parsed = at.and_then(|at| serde_json::from_slice::<Map<String, Value>>(&self.0[at].1).ok());
        if at.is_some() && parsed.is_none() {
            return; // a broken file is written as it is
        }
        let mut config = parsed.unwrap_or_default();
        let named: Vec<i64> = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_i64).collect(),
            Some(id) => id.as_i64().into_iter().collect(),
            None => Vec::new(),
        };
        if ids.iter().all(|id| named.contains(id)) {
            return;
        }
        let others = named.into_iter().filter(|id| !ids.contains(id));
        let all: Vec<i64> = ids.iter().copied().chain(others).collect();
        config.insert("eos_token_id".to_owned(), json!(all));
        let mut text = serde_json::to_vec_pretty(&config).expect("JSON values always serialise");
        text.push(b'\n');
        match at {
            Some(at) => self.0[at].1 = text,
            None => self.0.push((GENERATION_CONFIG.to_owned(), text)),
        }
    }

    /// Adds one, in place of one of that name.
    pub(crate) fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), bytes));
    }

    /// One that is there.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Writes them into another folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            if name.contains('/') {
                let folder = dir.join(TEMPLATES);
                std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            }
            std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    /// Whether they stand in a folder as they were written.
    pub(super) fn check(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            if std::fs::read(&path).map_err(Error::io(&path))? != *bytes {
                return Err(differs(&path, "its bytes are others"));
            }
        }
        Ok(())
    }
}

fn is_side_file(name: &str) -> bool {
    name.starts_with("tokenizer")
        || name.starts_with("chat_template")
        || name.ends_with(".tiktoken")
        || name.ends_with(".py")
        || [GENERATION_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"]
            .contains(&name)
}

/// How a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writing {
    /// The dtype of its weights; of each that of its source, where there is none.
    pub dtype: Option<Kind>,
    /// The run's seed, on which rounding to 16 bits depends.
    pub seed: u64,
}

impl Writing {
    /// How a model of this face is written by a run of this seed.
    pub fn of(dtype: ResultDtype, face: Face, seed: u64) -> Self {
        let dtype = match (dtype, face) {
            (ResultDtype::Float32, _) | (ResultDtype::Auto, Face::Scalar) => Some(Kind::Float),
            (ResultDtype::Bfloat16, _) => Some(Kind::BFloat16),
            (ResultDtype::Float16, _) => Some(Kind::Half),
            (ResultDtype::Source, _) | (ResultDtype::Auto, Face::CausalLm) => None,
        };
        Self { dtype, seed }
    }
}

/// BLAKE3 of the bytes of each parameter, as they were handed to the system.
pub(crate) type Sums = BTreeMap<String, blake3::Hash>;

/// Writes a checkpoint folder, made when missing.
pub(crate) fn write_folder(
    dir: &Path,
    parameters: &[&Parameter],
    writing: Writing,
    config: &Map<String, Value>,
    side_files: &SideFiles,
) -> Result<Sums> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let sums = write(dir, parameters, writing, SHARD_BYTES)?;
    write_json(&dir.join("config.json"), config)?;
    side_files.write(dir)?;
    Ok(sums)
}

/// Writes the parameters: one file up to `shard_bytes`, shards with an index above.
pub(crate) fn write(dir: &Path, parameters: &[&Parameter], writing: Writing, shard_bytes: usize) -> Result<Sums> {
    let mut shards: Vec<Vec<Stored>> = Vec::from([Vec::new()]);
    let (mut total, mut filled) = (0, 0);
    for (index, parameter) in parameters.iter().enumerate() {
        let stored = Stored::new(parameter, writing, index);
        if filled > 0 && filled + (&stored).data_len() > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += (&stored).data_len();
        total += (&stored).data_len();
        shards.last_mut().expect("there is always a shard").push(stored);
    }
    if let [single] = shards.as_slice() {
        return write_file(&dir.join("model.safetensors"), single);
    }
    let (mut weight_map, mut sums) = (BTreeMap::new(), Sums::new());
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        sums.extend(write_file(&dir.join(&name), shard)?);
        weight_map.extend(shard.iter().map(|stored| (stored.name.clone(), name.clone())));
    }
    write_json(&dir.join(INDEX), &json!({"metadata": {"total_size": total}, "weight_map": weight_map}))?;
    Ok(sums)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("JSON values always serialise");
    text.push('\n');
    std::fs::write(path, text).map_err(Error::io(path))
}

/// A parameter as its file will hold it; converted one at a time, while the file is written.
struct Stored {
    name: String,
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
    kind: Kind,
    draws: Draws,
    /// What became of it: the sum of its bytes, or a weight that the dtype cannot hold.
    written: Cell<Option<std::result::Result<blake3::Hash, f32>>>,
}

impl Stored {
    fn new(parameter: &Parameter, writing: Writing, index: usize) -> Self {
        let kind = parameter.written_as(writing);
        let dtype = match kind {
            Kind::BFloat16 => Dtype::BF16,
            Kind::Half => Dtype::F16,
            _ => Dtype::F32,
        };
        let shape = parameter.tensor.size().iter().map(|&size| size as usize).collect();
        let (name, tensor) = (parameter.name.clone(), parameter.tensor.detach());
        let draws = Draws { seed: writing.seed, index: index as u64 };
        Self { name, tensor, dtype, shape, kind, draws, written: Cell::new(None) }
    }

    fn misfit(&self, weight: f32) -> Error {
        let (dtype, name) = (dtype_name(self.kind), &self.name);
        Error::Failed(format!("{name} has a weight of {weight}, which is beyond the numbers of {dtype}"))
    }

    /// Its bytes in the file's dtype.
    fn bytes(&self) -> std::result::Result<Cow<'_, [u8]>, f32> {
        if self.tensor.kind() == self.kind {
            return Ok(tensor_bytes(&self.tensor));
        }
        let tensor = to_host(&self.tensor).to_kind(Kind::Float).contiguous();
        if self.kind == Kind::Float {
            return Ok(Cow::Owned(tensor_bytes(&tensor).into_owned()));
        }
        rounded(as_f32_slice(&tensor), self.kind, self.draws).map(Cow::Owned)
    }
}

impl View for &Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.bytes() {
            Ok(bytes) => {
                self.written.set(Some(Ok(blake3::Hasher::new().update_rayon(&bytes).finalize())));
                bytes
            }
            Err(weight) => {
                self.written.set(Some(Err(weight)));
                Cow::Owned(vec![0; self.data_len()]) // of a file that will not stay
            }
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.kind.elt_size_in_bytes()
    }
}

/// Written to a temporary file and renamed: a program that still maps the old file keeps it whole.
fn write_file(path: &Path, tensors: &[Stored]) -> Result<Sums> {
    let partial = path.with_extension("safetensors.partial");
    let usual = default_permissions(&partial)?;
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let views = tensors.iter().map(|stored| (stored.name.as_str(), stored));
    safetensors::serialize_to_file(views, metadata, &partial).map_err(|error| Error::Io {
        path: path.to_owned(),
        source: match error {
            safetensors::SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other),
        },
    })?;
    let mut sums = Sums::new();
    for stored in tensors {
        match stored.written.get().expect("a file is written with all its tensors") {
            Ok(sum) => sums.insert(stored.name.clone(), sum),
            Err(weight) => {
                let _ = std::fs::remove_file(&partial);
                return Err(stored.misfit(weight));
            }
        };
    }
    std::fs::set_permissions(&partial, usual).map_err(Error::io(&partial))?;
    std::fs::rename(&partial, path).map_err(Error::io(path))?;
    Ok(sums)
}

/// The written folder is wrong. The last two names of the path are reported: the folder is renamed later.
pub(super) fn differs(place: &Path, how: &str) -> Error {
    let names: Vec<_> = place.iter().map(|name| name.to_string_lossy()).collect();
    let place = names[names.len().saturating_sub(2)..].join("/");
    Error::Failed(format!(
        "{place}: what was read back is not what was written: {how}; the disk or the memory is not sound"
    ))
}

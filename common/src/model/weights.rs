//! Weights in and out: safetensors ⇄ parameters, and the files that travel with them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use rand::Rng;
use safetensors::tensor::{Dtype, View};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::ModelOptions;
use super::header::{Files, INDEX, Init, Spec};
use crate::checkpoint::usual_permissions;
use crate::error::{Error, Result};
use crate::memory;
use crate::random::{self, Purpose};

/// The size above which a checkpoint is written in shards, in bytes.
const SHARD_BYTES: usize = 5_000_000_000;

/// Weights are read from their files in parts of about this many bytes.
const READ_BYTES: usize = 32 << 20;

/// A tensor that is learned, or was.
#[derive(Debug)]
pub struct Parameter {
    /// The checkpoint's name for it.
    pub name: String,
    /// Trainable: an fp32 leaf that requires a gradient. Frozen: in the compute dtype.
    pub tensor: Tensor,
    /// The dtype it had in its file, and is written with.
    pub(crate) stored: Kind,
}

impl Parameter {
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

    /// As [`Parameter::read`] for a frozen model that is used once, but in the mapped file itself and in its dtype: on the CPU nothing
    /// is copied, and each weight is cast where it is used.
    ///
    /// `files` must outlive every use of it.
    pub(crate) fn mapped(files: &Files, spec: &Spec, options: &ModelOptions) -> Self {
        let tensor = files.view(&spec.name).expect("the header was compared with the specs");
        Self { name: spec.name.clone(), stored: tensor.kind(), tensor: tensor.to_device(options.device) }
    }

    /// Drawn on the host, so that it depends on the seed and its place in the model alone.
    pub(crate) fn random(
        spec: &Spec,
        seed: u64,
        purpose: Purpose,
        index: u64,
        stored: Kind,
        options: &ModelOptions,
    ) -> Self {
        let tensor = match spec.init {
            Init::Constant(value) => Tensor::full(&spec.shape, value, (Kind::Float, tch::Device::Cpu)),
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

    /// Makes `ends` tokens at which other programs stop, before those that generation_config.json names already; the file is made
    /// when missing.
    pub fn add_ends(&mut self, ends: &[i64]) {
        let at = self.0.iter().position(|(name, _)| name == GENERATION_CONFIG);
        let parsed = at.and_then(|at| serde_json::from_slice::<Map<String, Value>>(&self.0[at].1).ok());
        if at.is_some() && parsed.is_none() {
            return; // not ours to mend
        }
        let mut config = parsed.unwrap_or_default();
        let named: Vec<i64> = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_i64).collect(),
            Some(id) => id.as_i64().into_iter().collect(),
            None => Vec::new(),
        };
        if ends.iter().all(|end| named.contains(end)) {
            return;
        }
        let others = named.into_iter().filter(|id| !ends.contains(id));
        let all: Vec<i64> = ends.iter().copied().chain(others).collect();
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
}

fn is_side_file(name: &str) -> bool {
    name.starts_with("tokenizer")
        || name.starts_with("chat_template")
        || name.ends_with(".tiktoken")
        || name.ends_with(".py")
        || [GENERATION_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"]
            .contains(&name)
}

/// Writes a checkpoint folder, made when missing.
pub(crate) fn write_folder(
    dir: &Path,
    parameters: &[&Parameter],
    config: &Map<String, Value>,
    side_files: &SideFiles,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    write(dir, parameters, SHARD_BYTES)?;
    write_json(&dir.join("config.json"), config)?;
    side_files.write(dir)
}

/// Writes the parameters: one file up to `shard_bytes`, shards with an index above.
pub(crate) fn write(dir: &Path, parameters: &[&Parameter], shard_bytes: usize) -> Result<()> {
    let mut shards: Vec<Vec<Stored>> = Vec::from([Vec::new()]);
    let (mut total, mut filled) = (0, 0);
    for parameter in parameters {
        let stored = Stored::new(parameter);
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
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_file(&dir.join(&name), shard)?;
        weight_map.extend(shard.iter().map(|stored| (stored.name.clone(), name.clone())));
    }
    write_json(&dir.join(INDEX), &json!({"metadata": {"total_size": total}, "weight_map": weight_map}))
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
}

impl Stored {
    fn new(parameter: &Parameter) -> Self {
        let dtype = match parameter.stored {
            Kind::BFloat16 => Dtype::BF16,
            Kind::Half => Dtype::F16,
            _ => Dtype::F32,
        };
        let shape = parameter.tensor.size().iter().map(|&size| size as usize).collect();
        let tensor = parameter.tensor.detach();
        Self { name: parameter.name.clone(), tensor, dtype, shape, kind: parameter.stored }
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
        if self.tensor.kind() == self.kind {
            return memory::bytes(&self.tensor);
        }
        Cow::Owned(memory::bytes(&self.tensor.to_device(tch::Device::Cpu).to_kind(self.kind)).into_owned())
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.kind.elt_size_in_bytes()
    }
}

/// Written beside and renamed: a program that still maps the old file keeps it whole.
fn write_file(path: &Path, tensors: &[Stored]) -> Result<()> {
    let beside = path.with_extension("safetensors.partial");
    let usual = usual_permissions(&beside)?;
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let views = tensors.iter().map(|stored| (stored.name.as_str(), stored));
    safetensors::serialize_to_file(views, metadata, &beside).map_err(|error| Error::Io {
        path: path.to_owned(),
        source: match error {
            safetensors::SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other),
        },
    })?;
    std::fs::set_permissions(&beside, usual).map_err(Error::io(&beside))?;
    std::fs::rename(&beside, path).map_err(Error::io(path))
}

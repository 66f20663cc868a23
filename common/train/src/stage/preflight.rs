//! The checks of every stage before a tensor is loaded: devices, checkpoint folders, chat formats, trained
//! lengths.

use std::path::Path;

use tch::Device;

use align_core::config::{DeviceSpec, Dtype};
use align_core::error::{Problems, Result};
use align_kernels::{find_device, kind_of};
use align_model::contract::ScoreContract;
use align_model::{self as model, Face, Family, Header, ModelOptions};
use align_run::run::Input;
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Tokenizer;

/// A checked checkpoint folder: its headers match its config, and its tokenizer matches the model.
pub struct Source {
    /// Config and headers.
    pub header: Header,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The score contract that `align` wrote, for reward and value models.
    pub contract: Option<ScoreContract>,
}

/// Checks a folder's config, headers, tokenizer and score contract; all mistakes land in `problems`.
///
/// # Errors
/// Errors that are not the user's mistake.
pub fn check_source(dir: &Path, problems: &mut Problems) -> Result<Option<Source>> {
    if problems.absorb(model::check_folder(dir))?.is_none() {
        return Ok(None);
    }
    let header = problems.absorb(model::inspect(dir))?;
    let tokenizer = problems.absorb(Tokenizer::open(dir))?;
    let contract = problems.absorb(ScoreContract::read(dir))?.flatten();
    let (Some(header), Some(tokenizer)) = (header, tokenizer) else { return Ok(None) };
    if contract.as_ref().is_some_and(|contract| contract.tokenizer != tokenizer.fingerprint()) {
        problems.push(
            dir.display(),
            "the model was trained with another tokenizer than the one in its folder, expected the same; put that one back",
        );
    }
    if tokenizer.vocab_size() > header.config.vocab_size {
        let (ids, rows) = (tokenizer.vocab_size(), header.config.vocab_size);
        problems.push(
            dir.display(),
            format!("the tokenizer has {ids} ids but the model {rows} embedding rows, expected at least as many rows"),
        );
    }
    Ok(Some(Source { header, tokenizer, contract }))
}

/// As [`check_source`] for a language model with weights.
///
/// # Errors
/// As [`check_source`].
pub fn check_causal_lm(dir: &Path, problems: &mut Problems) -> Result<Option<Source>> {
    let source = check_source(dir, problems)?;
    if let Some(source) = &source {
        if source.header.face != Face::CausalLm {
            problems.push(dir.display(), "holds a reward or value model, expected a language model");
        } else if !source.header.has_weights {
            problems.push(
                dir.display(),
                "holds no weights, expected model.safetensors or shards with model.safetensors.index.json",
            );
        }
    }
    Ok(source)
}

/// The chat format of a checked folder; mistakes land in `problems`.
///
/// # Errors
/// Errors that are not the user's mistake.
pub fn check_format(
    dir: &Path,
    source: Option<&Source>,
    system: &str,
    problems: &mut Problems,
) -> Result<Option<ChatFormat>> {
    let Some(source) = source else { return Ok(None) };
    if let Err(what) = source.tokenizer.check(system) {
        problems.push("data.system", what);
        return Ok(None);
    }
    problems.absorb(ChatFormat::open(dir, &source.tokenizer, system))
}

/// Refuses training rows that are longer than a first-generation model's trained length: NTK and LogN, which
/// apply beyond it, are meant for evaluation only. `what` names the rows, `location` the setting that
/// shortens them.
pub fn check_trained_length(
    header: &Header,
    longest: usize,
    location: impl std::fmt::Display,
    what: &str,
    problems: &mut Problems,
) {
    let config = &header.config;
    if config.family == Family::Qwen && longest as i64 > config.seq_length {
        let trained = config.seq_length;
        problems.push(
            location,
            format!("{what} of {longest} tokens, expected at most the {trained} (seq_length) that the first-generation model was trained with"),
        );
    }
}

/// Adds a problem if the device under this config key is not available.
pub fn check_device(key: &str, device: DeviceSpec, problems: &mut Problems) {
    if let Err(what) = find_device(device) {
        problems.push(key, what);
    }
}

/// The device of a checked config.
///
/// # Panics
/// When the device did not pass [`check_device`].
pub fn checked_device(device: DeviceSpec) -> Device {
    find_device(device).expect("the device was checked")
}

/// How commands that only evaluate or sample load a model: on a GPU if there is one.
pub fn evaluation_options(dtype: Dtype) -> ModelOptions {
    ModelOptions {
        device: Device::cuda_if_available(),
        compute: kind_of(dtype),
        trainable: false,
        recompute_layers: false,
    }
}

/// The files of a model's folder under its config key, which must be unchanged on resume.
///
/// # Errors
/// As [`model::read_files`].
pub fn model_input(key: &str, dir: &Path) -> Result<Input> {
    Ok(Input::new(key, model::read_files(dir)?))
}

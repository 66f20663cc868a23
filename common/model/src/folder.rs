//! Whether a path is a model folder; otherwise what it is, and what to give instead.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use align_core::error::{Error, Result};

/// The file that maps tensors to shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// What is said of GGUF files.
pub(super) const GGUF: &str =
    "GGUF weights, expected safetensors in Hugging Face layout; take the checkpoint that they were made from";
const LAYOUT: &str = "config.json, model.safetensors, tokenizer.json";

/// Refuses what is no model folder, on one line.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_folder(path: &Path) -> Result<()> {
    match mistaken(path) {
        Some(what) => Err(Error::invalid(path.display(), what)),
        None => Ok(()),
    }
}

fn mistaken(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(missing(path)),
        Err(error) => return Some(format!("cannot be read ({error}), expected a model folder")),
        Ok(metadata) if !metadata.is_dir() => return Some(a_file(path)),
        Ok(_) => {}
    }
    let names = match names(path) {
        Ok(names) => names,
        Err(error) => return Some(format!("cannot be read ({error}), expected a model folder")),
    };
    let holds = |name: &str| names.iter().any(|other| other == name);
    if names.is_empty() {
        return Some(format!("an empty folder, expected a model folder ({LAYOUT})"));
    }
    if holds("adapter_config.json") {
        return Some(match holds("model.safetensors") || holds(INDEX) {
            true => "holds a LoRA adapter (adapter_config.json) beside whole weights, expected one of the two; \
                     remove adapter_config.json if the weights are the merged ones"
                .to_owned(),
            false => an_adapter(path),
        });
    }
    if holds("config.json") {
        return None;
    }
    elsewhere(path, &names)
}

/// The names in a folder, in order.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> =
        fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn missing(path: &Path) -> String {
    if fs::symlink_metadata(path).is_ok() {
        return "a link to a folder that is not there, expected a model folder".to_owned();
    }
    if let Some(name) = hub_name(path) {
        return format!(
            "no such folder, expected one on this machine: models are not downloaded; \
             fetch it once: hf download {name} --local-dir models/{}",
            name.rsplit('/').next().unwrap_or(name)
        );
    }
    format!("no such folder, expected a model folder ({LAYOUT})")
}

/// A path that is the name of a model on the hub, as `Qwen/Qwen2.5-0.5B`: of a path, the folder above would
/// be there.
fn hub_name(path: &Path) -> Option<&str> {
    let name = path.to_str()?;
    let (owner, model) = name.split_once('/')?;
    let is_plain = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
    };
    (is_plain(owner) && is_plain(model) && !Path::new(owner).exists()).then_some(name)
}

fn a_file(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".gguf", ".ggml"]) {
        return GGUF.to_owned();
    }
    if ends(&[".zip", ".tar", ".tgz", ".tar.gz"]) {
        return "an archive, expected a model folder; unpack it".to_owned();
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if parent.join("config.json").is_file() || ends(&[".safetensors"]) || name == "config.json" {
        return format!("a file, expected its folder: {}", parent.display());
    }
    format!("a file, expected a model folder ({LAYOUT})")
}

fn an_adapter(path: &Path) -> String {
    let text = fs::read_to_string(path.join("adapter_config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let base = config["base_model_name_or_path"].as_str().filter(|base| !base.is_empty());
    let base = base.map(|base| format!(" to {}", base.replace(char::is_control, " "))).unwrap_or_default();
    format!(
        "a LoRA adapter{base}, not a model, expected whole weights; merge it with peft: \
         AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(NEW), then copy the tokenizer"
    )
}

/// Of a folder without config.json, where the models are.
fn elsewhere(path: &Path, names: &[String]) -> Option<String> {
    let holds = |name: &str| names.iter().any(|other| other == name);
    let is_model = |folder: &Path| folder.join("config.json").is_file();
    if is_model(&path.join("model")) {
        let is_checkpoint = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-"));
        let what = match holds("run.json") {
            true => "a run folder",
            false if is_checkpoint => "a checkpoint folder",
            false => "holds a model folder",
        };
        let others: Vec<String> = ["value"]
            .iter()
            .filter(|name| is_model(&path.join(name)))
            .map(|name| format!(" (or the value model in it: {})", path.join(name).display()))
            .collect();
        return Some(format!("{what}, expected the model in it: {}{}", path.join("model").display(), others.concat()));
    }
    if holds("run.json") {
        return Some(match newest_checkpoint(path) {
            Some(model) => format!(
                "a run folder without a result yet, expected a model folder; finish the run with --resume, or take its newest checkpoint: {}",
                model.display()
            ),
            None => {
                "a run folder without a result or checkpoint yet, expected a model folder; finish the run".to_owned()
            }
        });
    }
    if let Some(name) = names.iter().find(|name| name.to_lowercase().ends_with(".gguf")) {
        return Some(format!("holds {name}: {GGUF}"));
    }
    let inside: Vec<PathBuf> = names.iter().map(|name| path.join(name)).filter(|folder| is_model(folder)).collect();
    let snapshots = self::names(&path.join("snapshots")).unwrap_or_default();
    let snapshot = snapshots.iter().map(|name| path.join("snapshots").join(name)).find(|folder| is_model(folder));
    match (snapshot, inside.as_slice()) {
        (Some(snapshot), _) => {
            Some(format!("a folder of the hub's cache, expected the model in it: {}", snapshot.display()))
        }
        (None, [only]) => Some(format!("holds a model folder, expected the model in it: {}", only.display())),
        (None, [first, ..]) => {
            Some(format!("holds {} model folders, expected one of them, as {}", inside.len(), first.display()))
        }
        (None, []) => None,
    }
}

fn newest_checkpoint(run: &Path) -> Option<PathBuf> {
    let checkpoints = run.join("checkpoints");
    let names = names(&checkpoints).unwrap_or_default();
    let models = names.iter().rev().map(|name| checkpoints.join(name).join("model"));
    models.into_iter().find(|model| model.join("config.json").is_file())
}

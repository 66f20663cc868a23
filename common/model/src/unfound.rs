//! A folder whose weights are not where they are looked for must not pass for one that has none: what is
//! trained then would start from new random weights.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::{GGUF, INDEX};
use align_core::error::{Error, Result};

/// Files that trainers write next to weights, and `align` next to those of a reward model.
const NO_WEIGHTS: [&str; 7] = ["training_", "optimizer", "scheduler", "rng_state", "scaler", "trainer_", "adapter_"];

const PICKLED: &str = "pickled weights are not read, expected model.safetensors; convert once with transformers: \
    AutoModelForCausalLM.from_pretrained(DIR, torch_dtype=\"auto\").save_pretrained(NEW, safe_serialization=True)";
const DEEPSPEED: &str = "a DeepSpeed checkpoint, expected model.safetensors; gather it: \
    python zero_to_fp32.py DIR NEW --safe_serialization";
const ANOTHER: &str = "weights of another framework, expected model.safetensors of PyTorch's transformers";
const NOT_WHOLE: &str = "weights that were not written or fetched to their end, expected model.safetensors";
const NO_TARGET: &str = "a link to nothing, expected the weights that it leads to";

/// Refuses a folder in which no weights are found under the names that are read, while something in it, or
/// one level below, looks like weights.
///
/// # Errors
/// [`Error::Invalid`] with what the folder holds and what to do about it; [`Error::Io`] when the folder
/// cannot be listed.
pub(super) fn refuse_unfound(dir: &Path) -> Result<()> {
    match unfound(dir)? {
        Some((path, what)) => Err(Error::invalid(path.display(), what)),
        None => Ok(()),
    }
}

fn unfound(dir: &Path) -> Result<Option<(PathBuf, String)>> {
    let names = list(dir)?;
    let ending = |ends: &[&str]| -> Vec<PathBuf> {
        let found = names.iter().filter(|name| ends_with(name, ends)).map(|name| dir.join(name));
        found.filter(|path| path.is_file()).collect()
    };
    if let [first, rest @ ..] = ending(&[".safetensors"]).as_slice() {
        let what = match rest.len() {
            0 => {
                "weights under another name, expected model.safetensors; rename it if it is the whole model".to_owned()
            }
            others => format!(
                "{} safetensors files without {INDEX}, expected the index with them; fetch the checkpoint's whole folder",
                others + 1
            ),
        };
        return Ok(Some((first.clone(), what)));
    }
    let formats: [(&[&str], &str); 3] = [
        (&[".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"], PICKLED),
        (&[".gguf", ".ggml"], GGUF),
        (&[".h5", ".msgpack", ".onnx", ".npz", ".pdparams", ".mlmodel", ".distcp"], ANOTHER),
    ];
    if let Some((path, what)) = formats.iter().find_map(|(ends, what)| Some((ending(ends).first()?.clone(), *what))) {
        return Ok(Some((path, what.to_owned())));
    }
    if names.iter().any(|name| name == "zero_to_fp32.py") {
        return Ok(Some((dir.to_owned(), DEEPSPEED.to_owned())));
    }
    if let Some(path) = names.iter().find(|name| looks_like(name)).map(|name| dir.join(name)) {
        let what = match fs::metadata(&path) {
            Err(_) => NO_TARGET,
            Ok(found) if found.is_dir() => "a folder, expected the file",
            Ok(_) => NOT_WHOLE,
        };
        return Ok(Some((path, what.to_owned())));
    }
    for folder in names.iter().map(|name| dir.join(name)).filter(|path| path.is_dir()) {
        // What cannot be listed below is none of ours.
        if let Some(name) = list(&folder).unwrap_or_default().into_iter().find(|name| looks_like(name)) {
            let what = format!("is below the given folder, which has no weights; give {}", folder.display());
            return Ok(Some((folder.join(name), what)));
        }
    }
    let scores = dir.join(crate::contract::FILE);
    let what = "is that of a reward or value model whose weights are missing, expected model.safetensors beside it";
    Ok(scores.exists().then(|| (scores, what.to_owned())))
}

/// The names in a folder, in order.
fn list(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        names.push(entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn ends_with(name: &str, ends: &[&str]) -> bool {
    let name = name.to_lowercase();
    ends.iter().any(|end| name.ends_with(end)) && !NO_WEIGHTS.iter().any(|none| name.starts_with(none))
}

/// Weights in a format that others read, or what became of a safetensors file: `.partial`, `.incomplete`,
/// `.aria2`, an index.
fn looks_like(name: &str) -> bool {
    name.to_lowercase().contains(".safetensors") || ends_with(name, &[".bin", ".pt", ".pth", ".ckpt", ".gguf"])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message for a folder with these files next to config.json and a tokenizer.
    fn said(files: &[&str]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "generation_config.json", "vocab.json"].iter().chain(files) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let (path, what) = unfound(folder.path()).unwrap()?;
        Some(format!("{}: {what}", path.display()).replace(&folder.path().display().to_string(), "DIR"))
    }

    #[test]
    fn a_config_and_a_tokenizer_alone_are_a_model_to_begin() {
        for files in [&[][..], &["README.md", "chat_template.jinja", "modeling_qwen.py", "training_args.bin"]] {
            assert_eq!(said(files), None);
        }
    }

    #[test]
    fn whatever_looks_like_weights_is_named_with_what_to_do() {
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let cases: [(&[&str], &str); 12] = [
            (&shards, "DIR/model-00001-of-00002.safetensors: 2 safetensors files without model.safetensors.index.json"),
            (&["qwen.safetensors"], "DIR/qwen.safetensors: weights under another name"),
            (&["MODEL.SAFETENSORS"], "DIR/MODEL.SAFETENSORS: weights under another name"),
            (&["model.safetensors.partial"], "DIR/model.safetensors.partial: weights that were not written"),
            (&["model.safetensors.aria2"], "DIR/model.safetensors.aria2: weights that were not written"),
            (&["pytorch_model-00001-of-00002.bin"], "pickled weights"),
            (&["pytorch_model.bin.index.json"], "pickled weights"),
            (&["consolidated.00.pth", "optimizer.pt"], "DIR/consolidated.00.pth: pickled weights"),
            (&["qwen2-0_5b-q4_k_m.gguf"], "GGUF weights"),
            (&["checkpoint-500/model.safetensors"], "DIR/checkpoint-500/model.safetensors: is below"),
            (&["zero_to_fp32.py", "global_step9/mp_rank_00_model_states.pt"], "DIR: a DeepSpeed checkpoint"),
            (&["align.json"], "DIR/align.json: is that of a reward or value model whose weights are missing"),
        ];
        for (files, expected) in cases {
            let said = said(files).unwrap_or_else(|| panic!("{files:?} passed for a model to begin"));
            assert!(said.contains(expected), "{files:?}: {said}");
        }
        assert!(said(&["sub/model.safetensors"]).unwrap().ends_with("give DIR/sub"));
    }

    #[test]
    fn a_broken_link_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../blobs/0123", folder.path().join("model.safetensors")).unwrap();
        let said = refuse_unfound(folder.path()).unwrap_err().to_string();
        assert!(said.contains("model.safetensors: a link to nothing"), "{said}");
    }
}

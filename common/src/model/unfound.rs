//! A folder whose weights are not where they are looked for must not pass for one that has none: what is trained then would start from
//! new random weights.

use std::fs;
use std::path::{Path, PathBuf};

use super::header::INDEX;
use crate::error::{Error, Result};

/// What the format's name is followed by where a file was not written or loaded to its end, or is an index.
const FORMAT: &str = ".safetensors";
/// Ends of the names of files that hold weights in other formats.
const ENDS: [&str; 14] = [
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".distcp",
    ".gguf",
    ".ggml",
    ".h5",
    ".msgpack",
    ".npz",
    ".onnx",
    ".pdparams",
    ".mlmodel",
];

/// Files with such an end that hold none.
const OTHERS: [&str; 2] = ["training_args.bin", "training_pairs.bin"];

/// How many are named.
const NAMED: usize = 3;

/// Refuses a folder in which nothing is found under the names that are read, while something in it, or one level below, looks like
/// weights.
///
/// # Errors
/// [`Error::Invalid`] with what lies there and what to do about it; [`Error::Io`] when the folder cannot be listed.
pub(super) fn refuse_unfound(dir: &Path) -> Result<()> {
    let found = look_alikes(dir)?;
    let scores = dir.join(crate::contract::FILE);
    if found.is_empty() && scores.exists() {
        let what = "is that of a reward or value model whose weights are missing, expected model.safetensors beside it";
        return Err(Error::invalid(scores.display(), what));
    }
    let Some(first) = found.first() else { return Ok(()) };
    let names: Vec<String> = found.iter().take(NAMED).map(|name| name.display().to_string()).collect();
    let more = if found.len() > NAMED { format!(" and {} more", found.len() - NAMED) } else { String::new() };
    let what = format!(
        "holds no model.safetensors and no {INDEX}, but {}{more}: {}; only a folder without anything like weights is one to begin with new ones",
        names.join(", "),
        fix(dir, first)
    );
    Err(Error::invalid(dir.display(), what))
}

/// The names in the folder, and one level below, that look like weights, in order.
fn look_alikes(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in list(dir)? {
        let path = dir.join(&entry);
        if path.is_dir() {
            // What cannot be listed below is none of ours.
            let below = list(&path).unwrap_or_default();
            found.extend(below.into_iter().filter(|name| is_weights(name)).map(|name| entry.join(name)));
        } else if is_weights(&entry) {
            found.push(entry);
        }
    }
    Ok(found)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        names.push(PathBuf::from(entry.map_err(Error::io(dir))?.file_name()));
    }
    names.sort();
    Ok(names)
}

fn is_weights(name: &Path) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    (name.contains(FORMAT) || ENDS.iter().any(|end| name.ends_with(end))) && !OTHERS.contains(&name.as_str())
}

/// What to do about the first of them.
fn fix(dir: &Path, first: &Path) -> String {
    let name = first.to_string_lossy().to_lowercase();
    let below = first.parent().filter(|parent| !parent.as_os_str().is_empty());
    if fs::symlink_metadata(dir.join(first)).is_ok_and(|it| it.is_symlink()) && !dir.join(first).exists() {
        format!("{} is a link to nothing, expected the file that it names", first.display())
    } else if let Some(below) = below {
        format!("give {} where those are meant", dir.join(below).display())
    } else if name.ends_with(".index.json") {
        "expected the files that it names, as safetensors".to_owned()
    } else if !name.contains(FORMAT) {
        "expected safetensors; convert them with the program that wrote them".to_owned()
    } else if !name.ends_with(FORMAT) {
        "it is not whole, expected a file that was written to its end".to_owned()
    } else if name.contains("-of-") {
        "these are shards, expected the index beside them, which says what lies in which".to_owned()
    } else {
        "expected one of those names; rename it where it holds the whole model".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a folder with these files beside config.json and a tokenizer.
    fn said(files: &[&str]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "generation_config.json", "vocab.json"].iter().chain(files) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        match refuse_unfound(folder.path()) {
            Ok(()) => None,
            Err(Error::Invalid(problems)) => {
                assert_eq!(problems.len(), 1);
                Some(problems[0].what.replace(&folder.path().display().to_string(), "DIR"))
            }
            Err(other) => panic!("{other}"),
        }
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
        let cases: [(&[&str], &str); 10] = [
            (
                &shards,
                "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors: these are shards, expected the index beside them",
            ),
            (&["qwen.safetensors"], "qwen.safetensors: expected one of those names; rename it"),
            (&["MODEL.SAFETENSORS"], "MODEL.SAFETENSORS: expected one of those names"),
            (&["model.safetensors.partial"], "it is not whole"),
            (&["model.safetensors.aria2"], "it is not whole"),
            (&["pytorch_model-00001-of-00002.bin"], "convert them"),
            (&["consolidated.00.pth"], "convert them"),
            (&["qwen2-0_5b-q4_k_m.gguf"], "convert them"),
            (&["checkpoint-500/model.safetensors"], "give DIR/checkpoint-500 where those are meant"),
            (&["pytorch_model.bin.index.json"], "expected the files that it names"),
        ];
        for (files, expected) in cases {
            let said = said(files).unwrap_or_else(|| panic!("{files:?} passed for a model to begin"));
            assert!(said.contains(expected), "{files:?}: {said}");
            assert!(said.ends_with("is one to begin with new ones"), "{said}");
        }
        assert!(
            said(&["a.bin", "b.bin", "c.bin", "d.bin", "e.bin"]).unwrap().contains("a.bin, b.bin, c.bin and 2 more")
        );
    }

    #[test]
    fn links_to_nothing_and_reward_models_without_weights_are_told() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../blobs/0123", folder.path().join("model.safetensors")).unwrap();
        let said = refuse_unfound(folder.path()).unwrap_err().to_string();
        assert!(said.contains("model.safetensors is a link to nothing"), "{said}");
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        fs::write(folder.path().join("align.json"), "{}").unwrap();
        let said = refuse_unfound(folder.path()).unwrap_err().to_string();
        assert!(said.contains("align.json: is that of a reward or value model whose weights are missing"), "{said}");
    }
}

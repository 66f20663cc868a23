//! Whether a judge is independent of the models that it judges: a reward model is not of a policy that was
//! trained against it, nor a chat model of itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use align_core::error::{Problems, Result};
use align_judgments::Item;
use serde_json::Value;

use super::contents;
use crate::cli::judge::JudgeArgs;

/// How far above a file the folder of its run is looked for.
const LEVELS: usize = 4;

/// Where the compared models are, as far as it is known.
pub(super) struct Policies {
    /// Folders of models and runs, by model.
    folders: Vec<(String, PathBuf)>,
    /// Files of responses, by model: they may be in the run that wrote them.
    files: Vec<(String, PathBuf)>,
}

impl Policies {
    /// Those of `--policy` and `--responses`.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] with every policy that is no folder, or no model of the items.
    pub(super) fn new(args: &JudgeArgs, items: &[Item]) -> Result<Self> {
        let (mut folders, mut problems) = (Vec::new(), Problems::new());
        let is_model = |name: &str| items.iter().any(|item| item.index_of_model(name).is_some());
        for given in &args.policy {
            match given.split_once('=') {
                Some((name, dir)) if !name.is_empty() && !dir.is_empty() => {
                    if !items.is_empty() && !is_model(name) {
                        problems.push("--policy", format!("{name} is not a model of the items, expected one of them"));
                    }
                    if !Path::new(dir).is_dir() {
                        problems.push("--policy", format!("{dir} is no folder, expected that of {name} or its run"));
                    }
                    folders.push((name.to_owned(), dir.into()));
                }
                _ => problems.push("--policy", format!("is `{given}`, expected NAME=DIR")),
            }
        }
        problems.into_result()?;
        let named = args.given.responses.iter().filter_map(|given| given.split_once('='));
        Ok(Self { folders, files: named.map(|(name, file)| (name.to_owned(), file.into())).collect() })
    }
}

/// The models that a judge with these weights is not independent of, and why.
pub(super) fn relations(
    kind: &str,
    weights: &[String],
    policies: &Policies,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut related = BTreeMap::new();
    for (model, place) in policies.folders.iter().chain(&policies.files) {
        if kind == "rm" {
            if run_of(place).is_some_and(|run| rewards_of(&run).is_some_and(|files| files == weights)) {
                related.insert(model.clone(), format!("{model} was trained against this reward model"));
            }
        } else if let Some(dir) = model_of(place)
            && contents(&dir)? == weights
        {
            related.insert(model.clone(), format!("{model} is this judge itself"));
        }
    }
    Ok(related)
}

/// The run.json of the run that a folder or file belongs to.
fn run_of(place: &Path) -> Option<Value> {
    let place = place.canonicalize().ok()?;
    let text = place.ancestors().take(LEVELS).find_map(|folder| std::fs::read(folder.join("run.json")).ok())?;
    serde_json::from_slice(&text).ok()
}

/// The model in a folder: itself, or the result of a run.
fn model_of(place: &Path) -> Option<PathBuf> {
    [place.to_owned(), place.join("model")].into_iter().find(|dir| align_model::check_folder(dir).is_ok())
}

/// The files of the reward model that a run was trained against.
fn rewards_of(run: &Value) -> Option<Vec<String>> {
    let files = &run["inputs"]["models.reward"];
    files.is_array().then(|| contents_of(files))
}

/// Length and hash of each file that a fingerprint lists, in an order of their own.
pub(super) fn contents_of(files: &Value) -> Vec<String> {
    let files = files.as_array().into_iter().flatten();
    let mut contents: Vec<String> =
        files.map(|file| format!("{} {}", file["bytes"], file["blake3"].as_str().unwrap_or_default())).collect();
    contents.sort_unstable();
    contents
}

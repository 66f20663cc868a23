//! The folder of `--out`: what was asked, answers as they come, records, results.
//!
//! ```text
//! asked.json                   models, tasks and options; a resume must ask the same
//! model-1/mmlu.answers.jsonl   answers as they come
//! model-1/mmlu.jsonl           every answer as it was judged
//! results.json                 means and intervals
//! ```

use std::path::{Path, PathBuf};

use align_core::atomic_files;
use align_core::error::{Error, Result};
use align_core::folder_lock::{FolderLock, lock_folder};
use align_evaluation::journal::Journal;
use align_evaluation::records::{Records, asked};
use align_run::run::{Input, fingerprints};
use align_tasks::task::Task;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Model;
use crate::cli::EvalTasksArgs;

const ASKED: &str = "asked.json";
/// In bytes; file systems have 255, endings included.
const LONGEST_STEM: usize = 160;
/// Of a longer one.
const KEPT_OF_LONG: usize = 80;

/// The folder.
pub(super) struct Folder {
    dir: PathBuf,
    _lock: FolderLock,
}

impl Folder {
    /// Makes a new folder, or opens one to resume.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a new one is not empty, when an older one asked something else, or when
    /// another process writes to it.
    pub(super) fn open(dir: &Path, args: &EvalTasksArgs, tasks: &[Task], models: &[Model]) -> Result<Self> {
        let asked = identity(args, tasks, models)?;
        let is_empty = dir.read_dir().map_or(true, |mut entries| entries.next().is_none());
        let lock = lock_folder(dir, "--out")?;
        let path = dir.join(ASKED);
        if args.resume && path.exists() {
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            let before: Value = serde_json::from_str(&text).map_err(|error| {
                Error::invalid(path.display(), format!("{error}, expected the file as it was written"))
            })?;
            let changed = changes(&before, &asked);
            if !changed.is_empty() {
                let what = format!(
                    "asked with other values of {}, expected the same to --resume; or choose another --out",
                    changed.join(", ")
                );
                return Err(Error::invalid(dir.display(), what));
            }
        } else {
            if !is_empty {
                let what = if args.resume { "holds no evaluation" } else { "is not empty" };
                let what = format!("{what}, expected a new folder, or --resume with an evaluation that was stopped");
                return Err(Error::invalid(dir.display(), what));
            }
            atomic_files::write_atomic(&path, format!("{asked:#}\n").as_bytes())?;
        }
        for number in 0..models.len() {
            let part = dir.join(model_name(number));
            std::fs::create_dir_all(&part).map_err(Error::io(&part))?;
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// The answers of a model to a task; in memory without a folder.
    pub(super) fn journal(folder: Option<&Self>, model: usize, task: &str) -> Result<Journal> {
        folder.map_or_else(
            || Ok(Journal::in_memory()),
            |folder| Journal::open(&folder.path(model, task, "answers.jsonl")),
        )
    }

    fn path(&self, model: usize, task: &str, ending: &str) -> PathBuf {
        self.dir.join(model_name(model)).join(format!("{}.{ending}", file_stem(task)))
    }

    pub(super) fn write_records(&self, model: usize, task: &str, records: &Records) -> Result<()> {
        let mut lines = String::new();
        for record in records.0.iter().flatten() {
            lines.push_str(&serde_json::to_string(record).expect("plain data"));
            lines.push('\n');
        }
        atomic_files::write_atomic(&self.path(model, task, "jsonl"), lines.as_bytes())
    }

    pub(super) fn write_results(&self, results: &Value) -> Result<()> {
        atomic_files::write_atomic(&self.dir.join("results.json"), format!("{results:#}\n").as_bytes())
    }
}

/// The name of a task's files. A task may be a path, or have parts (mmlu/STEM), also as many as no file name
/// has room for.
fn file_stem(task: &str) -> String {
    let name: String = task.chars().map(|c| if matches!(c, '/' | '\\') { '-' } else { c }).collect();
    if name.len() <= LONGEST_STEM {
        return name;
    }
    let kept = (0..=KEPT_OF_LONG).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    format!("{}-{}", &name[..kept], hex(&Sha256::digest(task)))
}

/// Whether two tasks would have the same files, also where upper and lower case are one.
pub(super) fn same_files(one: &str, other: &str) -> bool {
    file_stem(one).to_lowercase() == file_stem(other).to_lowercase()
}

fn model_name(number: usize) -> String {
    format!("model-{}", number + 1)
}

/// What a resume must have in common with the run that it continues.
fn identity(args: &EvalTasksArgs, tasks: &[Task], models: &[Model]) -> Result<Value> {
    let mut asked_of = args.describe();
    asked_of["tasks"] = tasks
        .iter()
        .map(|task| {
            let hash = Sha256::digest(asked(task).to_string().as_bytes());
            json!({ "task": task.name, "shots": task.shots, "questions": hex(&hash) })
        })
        .collect();
    let mut files = Vec::new();
    for (number, model) in models.iter().enumerate() {
        files.push(Input::new(model_name(number), align_model::read_files(&model.dir)?));
    }
    asked_of["models"] = fingerprints(&files)?;
    // The tokens: tokenizer, chat template and context length are in them.
    asked_of["prompts"] = models.iter().map(|model| json!(prompts_hash(model))).collect();
    Ok(asked_of)
}

fn hex(hash: &[u8]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A hash of the tokens that a model reads.
fn prompts_hash(model: &Model) -> String {
    let mut hash = Sha256::new();
    for item in model.tasks.iter().flat_map(|task| &task.subjects).flatten() {
        hash.update((item.prompt.len() as u64).to_le_bytes());
        item.prompt.iter().for_each(|token| hash.update(token.to_le_bytes()));
    }
    hex(&hash.finalize())
}

/// The keys whose values differ.
fn changes(before: &Value, now: &Value) -> Vec<String> {
    let keys = now.as_object().into_iter().flatten();
    keys.filter(|(key, value)| before.get(key) != Some(value)).map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_files_of_its_own_with_names_that_fit() {
        assert_eq!(file_stem("mmlu/anatomy+virology"), "mmlu-anatomy+virology");
        let long = |last: &str| format!("mmlu/{}{last}", "high_school_macroeconomics+".repeat(20));
        let [one, other] = ["virology", "anatomy"].map(|last| file_stem(&long(last)));
        assert!(one.len() <= LONGEST_STEM && one.starts_with("mmlu-high_school_macroeconomics+"), "{one}");
        assert_ne!(one, other);
        assert!(file_stem(&"数".repeat(200)).starts_with('数'));
    }
}

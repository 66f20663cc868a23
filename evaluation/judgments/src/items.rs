//! The items of a labelling folder: made from prompts and the responses of several models, and kept in the
//! folder, so that judgments always belong to the texts that were shown.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Problem, Problems, Result};
use align_data::raw::RawRows;
use align_data::{Kind, Parsed, RawRow};
use align_text::chatml::{Dialogue, Role};
use serde_json::Value;

use crate::item::{Item, Prompt, RESPONSES, read_items};
use crate::judgment::ITEMS;

/// The responses of one model: a file as `align generate` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelResponses {
    /// The model's name, which annotators never see.
    pub name: String,
    /// Rows with `response`, and `index` of the prompt (without it, rows are in the order of the prompts).
    pub file: PathBuf,
}

/// Items from a file of prompts and the responses of several models to each.
///
/// # Errors
/// [`Error::Invalid`] with every bad row, every missing or repeated response, and every response to another
/// prompt.
pub fn items_from_responses(prompts: &Path, models: &[ModelResponses]) -> Result<Vec<Item>> {
    let mut problems = Problems::new();
    if !RESPONSES.contains(&models.len()) {
        let (least, most) = (RESPONSES.start(), RESPONSES.end());
        problems.push("--responses", format!("is given {} times, expected {least} to {most} models", models.len()));
    }
    let mut names = HashSet::new();
    if let Some(twice) = models.iter().find(|model| !names.insert(&model.name)) {
        problems.push("--responses", format!("names {} twice, expected different models", twice.name));
    }
    let asked = problems.absorb(read_prompts(prompts))?;
    let mut answered = Vec::new();
    for model in models {
        let texts = asked.as_ref().map(|asked| read_responses(&model.file, prompts, asked));
        answered.extend(texts.map_or(Ok(None), |texts| problems.absorb(texts))?);
    }
    let asked = problems.into_checked(asked)?;
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    let mut items = asked.into_iter().enumerate().map(|(index, asked)| {
        let responses = answered.iter().map(|texts| texts[index].clone()).collect();
        let mut item = Item {
            id: asked.id.unwrap_or_default(),
            prompt: asked.prompt,
            responses,
            models: Some(names.clone()),
            category: asked.category,
            tags: Vec::new(),
            gold: None,
        };
        if item.id.is_empty() {
            item.id = item.hash();
        }
        item
    });
    unique(prompts, &mut items)
}

/// Refuses equal ids: the same prompt with the same responses.
fn unique(prompts: &Path, items: &mut dyn Iterator<Item = Item>) -> Result<Vec<Item>> {
    let (mut all, mut seen, mut problems) = (Vec::new(), HashSet::new(), Problems::new());
    for (index, item) in items.enumerate() {
        if !seen.insert(item.id.clone()) {
            let what = format!("prompt {index} has the id {} of an earlier one, expected each item once", item.id);
            problems.push_problem(Problem::of_row(prompts.display(), what));
        }
        all.push(item);
    }
    problems.into_result()?;
    Ok(all)
}

struct Asked {
    dialogue: Dialogue,
    prompt: Prompt,
    id: Option<String>,
    category: Option<String>,
}

fn read_prompts(file: &Path) -> Result<Vec<Asked>> {
    rows(file, Kind::Prompt, |row| {
        let (align_data::Prompt(dialogue), _) = row.read::<align_data::Prompt>()?;
        let value = row.value()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let prompt = match &dialogue.messages[..] {
            [only] if only.role == Role::User => Prompt::Text(only.content.clone()),
            turns => Prompt::Turns(turns.iter().map(|turn| turn.to_json()).collect()),
        };
        Ok(Asked { id: text("id"), category: text("category"), dialogue, prompt })
    })
}

/// One text per prompt.
fn read_responses(file: &Path, prompts: &Path, asked: &[Asked]) -> Result<Vec<String>> {
    let (mut texts, mut problems) = (HashMap::new(), Problems::new());
    let mut number = 0;
    let read = rows(file, Kind::Response, |row| {
        let value = row.value()?;
        number += 1;
        let index = value.get("index").map_or(Some(number - 1), Value::as_u64);
        let asked = index.and_then(|index| asked.get(index as usize));
        let (Some(index), Some(asked)) = (index, asked) else {
            return Err(format!("belongs to no prompt of {}, expected `index` from 0", prompts.display()));
        };
        let Some(text) = value.get("response").and_then(Value::as_str) else {
            return Err("has no `response`, expected a text".to_owned());
        };
        if value.get("prompt").is_some() && !is_same_prompt(&value, &asked.dialogue) {
            return Err(format!("its prompt is not prompt {index} of {}, expected the same", prompts.display()));
        }
        if texts.insert(index, text.to_owned()).is_some() {
            return Err(format!("another response to prompt {index}, expected one: sample with --n 1"));
        }
        Ok(())
    });
    problems.absorb(read)?;
    let missing: Vec<u64> = (0..asked.len() as u64).filter(|index| !texts.contains_key(index)).collect();
    if let (true, Some(first)) = (problems.is_empty(), missing.first()) {
        let what = format!(
            "has no response to {} of {} prompts, the first of them {first}, expected one to each",
            missing.len(),
            asked.len()
        );
        problems.push(file.display(), what);
    }
    problems.into_result()?;
    Ok((0..asked.len() as u64).map(|index| texts.remove(&index).expect("none is missing")).collect())
}

/// Whether a response's prompt has the turns of a dialogue. System texts may be those of a model.
fn is_same_prompt(row: &Value, asked: &Dialogue) -> bool {
    let turns = |dialogue: &Dialogue| -> Vec<(Role, String)> {
        let own = dialogue.messages.iter().filter(|turn| turn.role != Role::System);
        own.map(|turn| (turn.role, turn.content.clone())).collect()
    };
    let prompt = serde_json::json!({ "prompt": row["prompt"] });
    align_data::parse_row::<align_data::Prompt>(&prompt).is_ok_and(|(found, _)| turns(&found.0) == turns(asked))
}

fn rows<T>(file: &Path, kind: Kind, mut read: impl FnMut(&RawRow) -> Parsed<T>) -> Result<Vec<T>> {
    let (mut all, mut problems) = (Vec::new(), Problems::new());
    for row in RawRows::open(file, Some(kind))? {
        let row = row?;
        match read(&row) {
            Ok(value) => all.push(value),
            Err(what) => problems.push_problem(Problem::of_row(&row.location, what)),
        }
    }
    problems.into_result()?;
    Ok(all)
}

/// Keeps the items in the folder. Items that it has already must be among the given ones, unchanged: they
/// come first, in their order, and new ones after them.
///
/// # Errors
/// [`Error::Invalid`] when the folder has items that are missing or different; failures of the disk.
pub fn keep_items(folder: &Path, given: Vec<Item>) -> Result<Vec<Item>> {
    let path = folder.join(ITEMS);
    let kept = if path.exists() { read_items(&path)? } else { Vec::new() };
    let mut rest: HashMap<String, Item> = given.iter().map(|item| (item.id.clone(), item.clone())).collect();
    let changed: Vec<&Item> = kept.iter().filter(|item| rest.remove(&item.id).as_ref() != Some(*item)).collect();
    if let Some(first) = changed.first() {
        let what = format!(
            "has {} items that are not among the given ones or differ, the first of them {}, expected all of them unchanged (new ones may be added), or another --out",
            changed.len(),
            first.id
        );
        return Err(Error::invalid(path.display(), what));
    }
    let is_new = |item: &Item| rest.contains_key(&item.id);
    let (before, mut items) = (kept.len(), kept);
    items.extend(given.into_iter().filter(is_new));
    if items.len() > before {
        let lines = items.iter().map(|item| serde_json::to_string(item).expect("plain data") + "\n");
        write_atomic(&path, lines.collect::<String>().as_bytes())?;
    }
    Ok(items)
}

//! The quickstart's small Figure 4: its models' responses to held-out prompts, judged by the gold score, as a
//! labelling folder that `align compare` reads.

use std::path::Path;

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};
use align_datasets::world::{Ask, Question};
use align_judgments::judgment::{ITEMS, JUDGMENTS, PROGRAM_PREFIX};
use align_judgments::{Ask as Asked, Item, Judgment, Prompt};
use serde::Serialize;

use super::measure::{Measured, Said};

/// The stages whose models are compared.
pub(super) const MODELS: [&str; 3] = ["pretrain", "sft", "ppo"];

/// Writes items and judgments.
pub(super) fn write(folder: &Path, measured: &Measured) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let (mut items, mut judgments) = (Vec::new(), Vec::new());
    for (index, prompt) in measured.prompts.iter().enumerate() {
        let responses: Vec<&Said> = MODELS.iter().map(|model| &measured.responses[model][index]).collect();
        let item = item(prompt, &responses);
        judgments.push(judgment(&item, &responses));
        items.push(item);
    }
    write_atomic(&folder.join(ITEMS), lines(&items).as_bytes())?;
    write_atomic(&folder.join(JUDGMENTS), lines(&judgments).as_bytes())
}

fn item(prompt: &str, responses: &[&Said]) -> Item {
    let category = Question::parse(prompt).map(|question| match question.ask {
        Ask::Capital(_) | Ask::Continent(_) | Ask::Colour(_) | Ask::Legs(_) => "facts",
        Ask::Sum(..) => "sums",
        Ask::Belonging(..) => "belongings",
    });
    let mut item = Item {
        id: String::new(),
        prompt: Prompt::Text(prompt.to_owned()),
        responses: responses.iter().map(|said| said.text.clone()).collect(),
        models: Some(MODELS.map(str::to_owned).into()),
        category: category.map(str::to_owned),
        tags: Vec::new(),
        gold: None,
    };
    item.id = item.hash();
    item
}

fn judgment(item: &Item, responses: &[&Said]) -> Judgment {
    Judgment {
        item: item.id.clone(),
        annotator: format!("{PROGRAM_PREFIX}gold"),
        ask: Asked::Score,
        order: Vec::new(),
        ranks: None,
        scores: Some(responses.iter().map(|said| said.gold.total()).collect()),
        strength: None,
        both_bad: false,
        preference: None,
        flags: Vec::new(),
        skipped: None,
        comment: None,
        repeat: 0,
        seconds: 0.0,
        time: String::new(),
        seed: 0,
    }
}

fn lines<T: Serialize>(rows: &[T]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("plain data") + "\n").collect()
}

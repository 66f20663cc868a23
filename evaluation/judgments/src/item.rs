//! Items: a prompt with two or more responses to it, to be ranked or scored by people.

use std::collections::HashSet;
use std::path::Path;

use align_core::error::{Problem, Problems, Result};
use align_data::Parsed;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::lines;

/// The smallest and largest number of responses of an item.
pub const RESPONSES: std::ops::RangeInclusive<usize> = 2..=9;

/// A prompt: a text, or the turns of a dialogue that ends with the user's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// A text: the user's only turn.
    Text(String),
    /// Turns, as in the data files of training: `{"role", "content"}` or `{"from", "value"}`.
    Turns(Vec<Value>),
}

/// A turn of a prompt, for showing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text, verbatim.
    pub content: String,
}

impl Prompt {
    /// The turns, read as training reads them.
    ///
    /// # Errors
    /// What is wrong with the prompt.
    pub fn turns(&self) -> Parsed<Vec<Turn>> {
        let row = json!({ "prompt": self });
        let (align_data::Prompt(dialogue), _) = align_data::parse_row::<align_data::Prompt>(&row)?;
        let turns = dialogue.messages.into_iter();
        Ok(turns.map(|turn| Turn { role: turn.role.name().to_owned(), content: turn.content }).collect())
    }
}

/// A prompt and its responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Unique in its file. By default [`Item::hash`].
    #[serde(default)]
    pub id: String,
    /// What the responses respond to.
    pub prompt: Prompt,
    /// The responses, in the item's own order.
    pub responses: Vec<String>,
    /// The model of each response, if known. Never shown to annotators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// The category, by which comparisons of models are split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Further marks, which are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// For an item whose answer is known: the rank of each response, 1 is best, equal ranks are ties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<Vec<u32>>,
}

impl Item {
    /// A hash of the prompt and the responses: the first 16 hexadecimal digits of BLAKE3 over their JSON.
    pub fn hash(&self) -> String {
        let text = json!([self.prompt, self.responses]).to_string();
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }

    /// For each response, the index of the first response with the same text (its own if there is none
    /// before it). Identical responses are shown once, and tie.
    pub fn first_of_same_text(&self) -> Vec<usize> {
        let first = |text: &String| self.responses.iter().position(|other| other == text);
        self.responses.iter().map(|text| first(text).expect("a response equals itself")).collect()
    }

    /// The indices of the responses that are shown: the first of each text.
    pub fn distinct(&self) -> Vec<usize> {
        let first = self.first_of_same_text();
        (0..first.len()).filter(|&index| first[index] == index).collect()
    }

    /// The index of a model's response.
    pub fn index_of_model(&self, model: &str) -> Option<usize> {
        self.models.as_ref()?.iter().position(|name| name == model)
    }

    /// What is wrong with the item, one entry per cause.
    fn problems(&self) -> Vec<String> {
        let (count, mut problems) = (self.responses.len(), Vec::new());
        let (least, most) = (RESPONSES.start(), RESPONSES.end());
        if !RESPONSES.contains(&count) {
            problems.push(format!("`responses` has {count} texts, expected {least} to {most}"));
        }
        if let Err(what) = self.prompt.turns() {
            problems.push(what);
        }
        if let Some(models) = &self.models {
            if models.len() != count {
                problems.push(format!("`models` has {} names, expected one per response, {count}", models.len()));
            }
            let mut seen = HashSet::new();
            if let Some(twice) = models.iter().find(|name| !seen.insert(name.as_str())) {
                problems.push(format!("`models` names {twice} twice, expected different models"));
            }
        }
        if let Some(gold) = &self.gold
            && (gold.len() != count || gold.contains(&0))
        {
            problems.push(format!("`gold` is {gold:?}, expected one rank from 1 per response, {count}"));
        }
        problems
    }
}

/// Parses one line of a file of items, and gives the item its id if it has none.
///
/// # Errors
/// What is wrong with it.
pub fn parse_item(line: &[u8]) -> std::result::Result<Item, Vec<String>> {
    let mut item: Item = lines::parse(line).map_err(|what| vec![what])?;
    let problems = item.problems();
    if !problems.is_empty() {
        return Err(problems);
    }
    if item.id.is_empty() {
        item.id = item.hash();
    }
    Ok(item)
}

/// Reads a file of items (JSON Lines).
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every bad line and every id that occurs twice.
pub fn read_items(path: &Path) -> Result<Vec<Item>> {
    let bytes = lines::read(path)?;
    let (mut items, mut seen, mut problems) = (Vec::new(), HashSet::new(), Problems::new());
    for (number, line) in lines::numbered(&bytes) {
        let location = format!("{}:{number}", path.display());
        match parse_item(line) {
            Ok(item) => {
                if !seen.insert(item.id.clone()) {
                    let what = format!("the id {} occurs before, expected each item once", item.id);
                    problems.push_problem(Problem::of_row(location, what));
                }
                items.push(item);
            }
            Err(found) => {
                found.into_iter().for_each(|what| problems.push_problem(Problem::of_row(&location, what)));
            }
        }
    }
    if items.is_empty() && problems.is_empty() {
        problems.push(path.display(), "has no items, expected one JSON object per line");
    }
    problems.into_result()?;
    Ok(items)
}

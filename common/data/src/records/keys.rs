//! The keys of rows, and their meanings in the common data formats. Every key is read, refused by name, or
//! counted as unread.
//!
//! Formats: LLaMA-Factory (alpaca, sharegpt), TRL, axolotl, OpenHermes, ms-swift, verl, OpenAI's messages.
//! `docs/data.md` has the same table for people.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::turns::as_bool;
use super::{Kind, Parsed, a_value};

/// The system text, beside the turns.
pub(super) const SYSTEM: &[&str] = &["system", "system_prompt", "system_message"];
/// Turns before the row's own, as pairs of texts.
pub(super) const HISTORY: &str = "history";
/// Descriptions of tools.
pub(super) const TOOLS: &str = "tools";
/// The user's text in a row with one question and one answer.
pub(super) const QUESTION: &[&str] = &["prompt", "question", "query", "instruction"];
/// The input that belongs to an `instruction`.
pub(super) const CONTEXT: &[&str] = &["input", "context"];
/// The model's text.
pub(super) const ANSWER: &[&str] = &["completion", "response", "output", "answer"];
/// Turns.
pub(super) const TURNS: &[&str] = &["messages", "conversations"];
/// The reasoning before an answer, of a turn or of a row's only answer.
pub(super) const REASONING: &[&str] = &["reasoning_content", "reasoning", "thinking"];
/// Whether a turn is trained on: true or false, 1 or 0.
pub(super) const TRAINED: &[&str] = &["weight", "train", "training", "trainable", "loss"];
/// The only one of them that also occurs in turns that are never trained on.
pub(super) const WEIGHT: &str = "weight";

const NO_MEDIA: &str = "only text is trained on, expected none: images, audio and video are not read";
const NO_LEGACY_CALLS: &str = "OpenAI's old form of tool calls is not read, expected `tools` and `tool_calls`";
const NO_SPANS: &str = "a mask of parts of a turn is not read, expected `train` or `weight`, which mark whole turns";
const NO_TEMPLATE: &str =
    "the checkpoint's own chat template is what dialogues are written with, expected none in the row";

/// Whether a key has text that is part of a row of some kind.
pub fn holds_text(key: &str) -> bool {
    const MORE: [&str; 7] = ["text", HISTORY, TOOLS, "chosen", "rejected", "rejected_response", "responses"];
    [SYSTEM, QUESTION, CONTEXT, ANSWER, TURNS, REASONING, &MORE].iter().any(|keys| keys.contains(&key))
}

/// Whether a key of a row or a turn has a meaning for a stage other than the text of a turn.
pub(super) fn means_beside_texts(key: &str) -> bool {
    const MORE: [&str; 5] = [TOOLS, "tool_calls", "scores", "margin", "ended"];
    TRAINED.contains(&key) || MORE.contains(&key)
}

/// Keys whose meaning is not supported, with advice. Rows in which one of them is not empty are refused.
const REFUSED: &[(&str, &str)] = &[
    ("image", NO_MEDIA),
    ("images", NO_MEDIA),
    ("video", NO_MEDIA),
    ("videos", NO_MEDIA),
    ("audio", NO_MEDIA),
    ("audios", NO_MEDIA),
    ("functions", NO_LEGACY_CALLS),
    ("function_call", NO_LEGACY_CALLS),
    ("chat_template", NO_TEMPLATE),
    ("chat_template_kwargs", NO_TEMPLATE),
    ("train_detail", NO_SPANS),
    ("training_detail", NO_SPANS),
    ("loss_mask", NO_SPANS),
    ("mask", NO_SPANS),
    ("loss_scale", NO_SPANS),
];

/// As [`REFUSED`], for some kinds of rows only: there the key decides whether or how a row is trained on.
const REFUSED_FOR: &[(&str, &[Kind], &str)] = &[
    (
        "label",
        &[Kind::Chat],
        "says whether the answer is a good one, expected only good answers (or pairs, for `align rm`)",
    ),
    (
        "kto_tag",
        &[Kind::Chat],
        "says whether the answer is a good one, expected only good answers (or pairs, for `align rm`)",
    ),
    ("rejected_response", &[Kind::Chat], "makes the row a comparison, expected a chat row (or `align rm`)"),
];

/// Weights of whole rows. They are not supported, so only 1 is accepted.
const ROW_WEIGHTS: &[&str] = &["weight", "sample_weight", "loss_weight"];

/// Keys that `align generate` writes besides prompt and response.
const GENERATED: &[&str] = &["index", "sample", "tokens", "ended"];

/// Whether `align generate` wrote the row.
pub(super) fn is_generated(keys: &Keys<'_>) -> bool {
    GENERATED.iter().all(|key| keys.has(key))
}

/// Keys of turns that ChatML cannot represent and training does not need.
const SILENT: &[&str] = &["tool_call_id", "id"];

/// The keys of a row or a turn; records which were read.
pub(super) struct Keys<'a> {
    map: &'a Map<String, Value>,
    read: RefCell<Vec<&'a str>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, read: RefCell::new(Vec::new()) }
    }

    /// A key's value; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.map.get_key_value(key).filter(|(_, value)| !value.is_null())?;
        self.read.borrow_mut().push(key);
        Some(value)
    }

    /// Whether a key is present, without marking it as read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// The one present key out of several synonyms. An empty value counts as absent if another is present.
    ///
    /// # Errors
    /// When two of them are not empty.
    pub(super) fn one_of(&self, keys: &[&'static str]) -> Parsed<Option<(&'static str, &'a Value)>> {
        let there: Vec<_> = keys.iter().filter_map(|key| Some((*key, self.get(key)?))).collect();
        let full: Vec<_> = there.iter().filter(|(_, value)| !is_empty(value)).copied().collect();
        match full[..] {
            [(one, _), (other, _), ..] => {
                Err(format!("both `{one}` and `{other}`, which mean the same, expected one of them"))
            }
            [one] => Ok(Some(one)),
            [] => Ok(there.first().copied()),
        }
    }

    /// As [`Keys::one_of`], but an empty value always counts as absent.
    pub(super) fn full_one_of(&self, keys: &[&'static str]) -> Parsed<Option<(&'static str, &'a Value)>> {
        Ok(self.one_of(keys)?.filter(|(_, value)| !is_empty(value)))
    }

    /// A text under a key.
    pub(super) fn text(&self, key: &str, value: &'a Value) -> Parsed<&'a str> {
        value.as_str().ok_or_else(|| format!("`{key}` is {}, expected a string", a_value(value)))
    }

    /// The names of unread keys. Keys with an unsupported meaning are refused. `of_turn` is the location of a
    /// turn.
    pub(super) fn rest(&self, kind: Kind, of_turn: Option<&str>) -> Parsed<Vec<&'a str>> {
        let read = self.read.borrow();
        let mut rest = Vec::new();
        for (key, value) in self.map.iter().filter(|(key, value)| !read.contains(&key.as_str()) && !value.is_null()) {
            let key = key.as_str();
            let location = of_turn.map_or_else(|| format!("`{key}`"), |turn| format!("`{turn}.{key}`"));
            let refused = REFUSED.iter().find(|(refused, _)| *refused == key).map(|(_, why)| *why);
            let of_kind = REFUSED_FOR.iter().find(|(refused, kinds, _)| *refused == key && kinds.contains(&kind));
            let why = refused.or(of_kind.filter(|_| of_turn.is_none()).map(|(_, _, why)| *why));
            if let Some(why) = why.filter(|_| !is_empty(value)) {
                return Err(format!("{location}: {why}"));
            }
            let is_weight =
                of_turn.is_none() && ROW_WEIGHTS.contains(&key) && matches!(kind, Kind::Chat | Kind::Comparison);
            if is_weight && as_bool(value) == Some(true) {
                continue;
            }
            if is_weight {
                return Err(format!(
                    "{location}: rows have no weights, expected 1 or none ([[data.mix]] weighs files)"
                ));
            }
            if key == "enable_thinking" && as_bool(value) != Some(false) {
                return Err(format!(
                    "{location}: prompts are written with thinking turned off, expected false or none"
                ));
            }
            let is_silent = match of_turn {
                Some(_) => SILENT.contains(&key),
                None => GENERATED.contains(&key) && is_generated(self),
            };
            if !is_silent {
                rest.push(key);
            }
        }
        Ok(rest)
    }
}

/// Whether a value is empty, which tables use for missing values.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

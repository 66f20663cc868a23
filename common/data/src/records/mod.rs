//! The shapes of rows, and how each is converted to a [`Record`]: comparisons in `comparison.rs`, all others
//! in `shapes.rs`. `turns.rs` reads turns; `keys.rs` defines the meaning of all other keys in the common
//! formats.

mod comparison;
mod keys;
mod shapes;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use align_text::chatml::{Dialogue, Role};
pub use keys::holds_text;
use keys::{ANSWER, Keys, QUESTION, SYSTEM, TURNS};
use turns::Turns;

/// The kind of rows that a stage needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Dialogues with answers: sft.
    Chat,
    /// Dialogues with better and worse answers: reward models.
    Comparison,
    /// Dialogues to be answered: ppo, generation.
    Prompt,
    /// Dialogues whose last answers are scored: `align score`, the service.
    Response,
    /// Documents: pretraining.
    Text,
}

impl Kind {
    /// The name of the kind in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Chat => "chat",
            Kind::Comparison => "comparison",
            Kind::Prompt => "prompt",
            Kind::Response => "response",
            Kind::Text => "text",
        }
    }

    /// The accepted shapes, as messages list them.
    pub fn shapes(self) -> &'static str {
        match self {
            Kind::Chat => {
                "`messages`, `conversations`, `instruction` with `output`, or `prompt` with `completion` or `response`"
            }
            Kind::Comparison => {
                "`chosen` and `rejected` (alone, or with `prompt`, `messages` or `conversations`), `messages` with `rejected_response`, or `prompt` with `responses` and `scores`"
            }
            Kind::Prompt => "`prompt`, or `messages` that end with a user turn",
            Kind::Response => "`prompt` with `response` or `responses`, or `messages` alone",
            Kind::Text => "`text`",
        }
    }

    /// The kind of a row by its keys, even if the row is invalid; `None` if the keys do not tell.
    pub fn of(row: &Value) -> Option<Self> {
        let keys = Keys::new(row.as_object()?);
        let any = |names: &[&str]| names.iter().any(|name| keys.has(name));
        if keys.has("chosen") && keys.has("rejected") || keys.has("rejected_response") {
            return Some(Kind::Comparison);
        }
        if keys.has("responses") {
            return Some(if keys.has("scores") { Kind::Comparison } else { Kind::Response });
        }
        if let Some(turns) = TURNS.iter().find_map(|name| keys.get(name)) {
            let name = |turn: &Value| turn.get("role").or(turn.get("from")).and_then(Value::as_str).map(str::to_owned);
            let last = turns.as_array().and_then(|turns| turns.last()).and_then(name);
            let asks = matches!(last.as_deref(), Some("user" | "human"))
                && !turns
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(name)
                    .any(|name| name == "assistant" || name == "gpt");
            return Some(if asks { Kind::Prompt } else { Kind::Chat });
        }
        let (asked, answered) = (any(QUESTION) || keys.has("input"), any(ANSWER));
        match (asked, answered) {
            (true, true) => Some(Kind::Chat),
            _ if keys.has("text") => Some(Kind::Text),
            (true, false) if any(QUESTION) => Some(Kind::Prompt),
            _ => None,
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A dialogue with at least one trained answer and no empty one.
    Chat(Dialogue),
    /// Dialogues of different quality.
    Comparison(Comparison),
    /// A dialogue that ends with a user turn or a tool result.
    Prompt(Dialogue),
    /// A whole dialogue that ends with an answer.
    Response(Dialogue),
    /// One prompt with each of its answers, at least one: whole dialogues.
    Responses(Vec<Dialogue>),
    /// A document.
    Text(String),
}

/// Two or more whole dialogues, each ending with an answer that is not empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// (K) A pair is chosen, then rejected.
    pub dialogues: Vec<Dialogue>,
    /// (K) The scores, if the row has any: the mean of the ratings of each answer, or a pair's margin and 0.
    /// `None` for pairs without a margin.
    pub scores: Option<Vec<f64>>,
}

impl Record {
    /// Whether it has tools or tool calls: JSON that is written again.
    fn holds_json(&self) -> bool {
        let holds = |dialogue: &Dialogue| {
            !dialogue.tools.is_empty() || dialogue.messages.iter().any(|message| !message.tool_calls.is_empty())
        };
        match self {
            Record::Chat(dialogue) | Record::Prompt(dialogue) | Record::Response(dialogue) => holds(dialogue),
            Record::Comparison(comparison) => comparison.dialogues.iter().any(holds),
            Record::Responses(dialogues) => dialogues.iter().any(holds),
            Record::Text(_) => false,
        }
    }
}

/// A parsed row.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadRow {
    /// The record.
    pub record: Record,
    /// Keys that were not read, in alphabetical order; those of turns as `messages.KEY`.
    pub unread: Vec<String>,
}

/// The name of a file's rows in messages.
pub(super) fn name_of_rows(kind: Option<Kind>) -> String {
    kind.map_or_else(|| "rows".to_owned(), |kind| format!("{} rows", kind.name()))
}

/// The maximum number of answers K in a ranked list: all of its K·(K−1)/2 pairs are compared at once.
pub const MAX_RANKED: usize = 256;

/// A parsed value, or one line with what is wrong and what was expected.
pub type Parsed<T> = Result<T, String>;

/// Reads a row.
///
/// # Errors
/// What is wrong with it and what was expected, as one line.
pub fn parse(kind: Kind, row: &Value) -> Result<ReadRow, String> {
    let Value::Object(map) = row else {
        return Err(format!("{}, expected an object with {}", a_value(row), kind.shapes()));
    };
    let (keys, turns) = (Keys::new(map), Turns::new(kind));
    let row = shapes::Row { kind, map, keys: &keys, turns: &turns };
    let record = match kind {
        Kind::Chat => row.chat().map(Record::Chat),
        Kind::Comparison => row.comparison().map(Record::Comparison),
        Kind::Prompt => row.prompt().map(Record::Prompt),
        Kind::Response => row.response(),
        Kind::Text => row.document().map(Record::Text),
    }?;
    let of_row = keys.rest(kind, None)?.into_iter().map(clipped);
    let unread: BTreeSet<String> = turns.unread().into_iter().chain(of_row).collect();
    Ok(ReadRow { record, unread: unread.into_iter().collect() })
}

/// The system text of a row of any shape: from its own key, or from the first turn.
pub fn system_text(row: &Value) -> Option<String> {
    let keys = Keys::new(row.as_object()?);
    let beside = keys.full_one_of(SYSTEM).ok().flatten().map(|(_, text)| text);
    let first_turn = || {
        let lists = [TURNS, &["prompt", "chosen"]].concat();
        let turn = lists.iter().find_map(|key| keys.get(key)?.as_array()?.first())?;
        let says = turn.get("role").or(turn.get("from")).and_then(Value::as_str) == Some("system");
        says.then(|| turn.get("content").or(turn.get("value"))).flatten()
    };
    turns::text_of(beside.or_else(first_turn)?, "system").ok()
}

/// Everything but texts that gives a row its meaning: tools, tool calls, training marks, scores, margins.
/// Rows with equal texts are duplicates only if these are equal as well.
pub fn meaning_beside_texts(row: &Value) -> String {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(values) => {
                // It matters which of several answers or turns a value belongs to.
                for (index, value) in values.iter().enumerate() {
                    let before = found.len();
                    walk(value, found);
                    found[before..].iter_mut().for_each(|said| *said = format!("{index}.{said}"));
                }
            }
            Value::Object(values) => {
                for (key, value) in values.iter().filter(|(_, value)| !keys::is_empty(value)) {
                    if keys::means_beside_texts(key) {
                        found.push(format!("{key}={value}"));
                    } else if holds_text(key) || key == "function" {
                        walk(value, found);
                    }
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(row, &mut found);
    found.sort();
    found.join("\n")
}

/// As [`parse`], but refuses rows with tools whose JSON text has integers of more than 64 bits: those would
/// be written back changed.
///
/// # Errors
/// As [`parse`].
pub fn parse_text(kind: Kind, row: &Value, text: &[u8]) -> Result<ReadRow, String> {
    let read = parse(kind, row)?;
    if read.record.holds_json() && has_wide_integer(text) {
        return Err("a whole number of more than 64 bits beside tools or their calls, expected it as a text".to_owned());
    }
    Ok(read)
}

/// Whether JSON has an integer outside strings that does not fit into 64 bits.
fn has_wide_integer(json: &[u8]) -> bool {
    let (mut at, mut in_string) = (0, false);
    while at < json.len() {
        match json[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'0'..=b'9' if !in_string => {
                let is_part = |byte: &u8| byte.is_ascii_digit() || b"-+.eE".contains(byte);
                let length = json[at..].iter().take_while(|byte| is_part(byte)).count();
                let number = &json[at..at + length];
                let digits = number.strip_prefix(b"-").unwrap_or(number);
                let number = std::str::from_utf8(number).unwrap_or_default();
                let fits = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
                if digits.iter().all(u8::is_ascii_digit) && !fits {
                    return true;
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    false
}

fn wrong_shape(row: &Map<String, Value>, kind: Kind) -> String {
    let has = row.iter().filter(|(_, value)| !value.is_null());
    let keys: Vec<String> = has.map(|(key, _)| format!("`{}`", clipped(key))).collect();
    let more = if keys.len() > 6 { ", …" } else { "" };
    let has = if keys.is_empty() {
        "an object without keys".to_owned()
    } else {
        format!("a row with {}{more}", keys[..keys.len().min(6)].join(", "))
    };
    format!("{has}, expected a {} row: {}", kind.name(), kind.shapes())
}

fn a_value(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| a_value(value).to_owned(), |text| format!("`{}`", clipped(text)))
}

/// Data is untrusted: a message quotes little of it, on one line.
fn clipped(text: &str) -> String {
    let clipped: String = text.chars().filter(|char| !char.is_control()).take(40).collect();
    if clipped.len() < text.len() { format!("{clipped}…") } else { clipped }
}

/// The role of a dialogue's last turn.
fn last_role(dialogue: &Dialogue) -> Option<Role> {
    dialogue.messages.last().map(|message| message.role)
}

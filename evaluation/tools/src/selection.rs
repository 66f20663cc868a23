//! Table 6: whether a model chooses the right tool, and writes the right input.
//!
//! Source: QwenLM/Qwen, eval/evaluate_plugin.py. A row is a whole user's turn with the instruction, and the
//! golden answer. The model answers greedily, without stop text.

use std::path::PathBuf;

use align_core::error::Result;
use align_text::tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::Value;

use crate::arguments::Json5;
use crate::rouge::rouge_l;
use crate::rows;

/// What the text of a call contains, and the text of an answer without a call does not.
const CALLS: &str = "\nAction: ";

/// What the rows of a file should end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// In a call: the golden answer has one.
    Positive,
    /// In an answer without a call.
    Negative,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `file:line`.
    pub location: String,
    /// The user's turn.
    pub prompt: String,
    /// The golden answer.
    pub response: String,
}

/// Reads rows with `prompt` and `response`; other keys are not read.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every bad row: a positive one without a call, a negative one
/// with a call, a text that is missing or empty.
pub fn read(files: &[PathBuf], kind: RowKind) -> Result<Vec<Row>> {
    rows::read(files, "`prompt` and `response`", |location, value| {
        let (prompt, response) = parsed(value, kind)?;
        Ok(Row { location, prompt, response })
    })
}

fn parsed(row: &Value, kind: RowKind) -> std::result::Result<(String, String), String> {
    let text = |key: &str| match row.get(key) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
        Some(Value::String(_)) => Err(format!("`{key}` is empty, expected a text")),
        Some(_) => Err(format!("`{key}` is not a string, expected a text")),
        None => Err(format!("no `{key}`, expected `prompt` and `response`")),
    };
    let (prompt, response) = (text("prompt")?, text("response")?);
    let calls = response.contains("Action:") && response.contains("Action Input:");
    match kind {
        RowKind::Positive if !calls => {
            Err("`response` has no call, expected `Action:` and `Action Input:` in a positive row".to_owned())
        }
        RowKind::Negative if response.contains(CALLS) => {
            Err("`response` has a call, expected none in a negative row".to_owned())
        }
        _ => Ok((prompt, response)),
    }
}

/// The scores of one response to a positive row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scored {
    /// Whether it has a call.
    pub calls: bool,
    /// Whether the call is of the golden tool.
    pub is_selected: bool,
    /// Whether its input parses.
    pub input_parses: bool,
    /// Rouge-L of its input and the golden one.
    pub input_rouge_l: f64,
}

/// Scores a response to a positive row. `tokens` are the texts of a text's tokens, as [`token_texts`].
pub fn score(golden: &str, response: &str, tokens: &dyn Fn(&str) -> Vec<String>) -> Scored {
    let (golden, written) = (Fields::of(golden), Fields::of(response));
    let calls = response.contains(CALLS);
    let inputs = [&golden.input, &written.input].map(|input| tokens(input.as_deref().unwrap_or_default()).join(" "));
    let [reference, words] = [&inputs[0], &inputs[1]].map(|text| text.split_whitespace().collect::<Vec<_>>());
    Scored {
        calls,
        is_selected: calls && golden.action.to_lowercase() == written.action.to_lowercase(),
        input_parses: written.input.is_some(),
        input_rouge_l: rouge_l(&reference, &words),
    }
}

/// Whether a response to a negative row has a call.
pub fn is_false_positive(response: &str) -> bool {
    response.contains(CALLS)
}

/// The texts of a text's tokens, each decoded alone, with U+FFFD for parts of characters.
pub fn token_texts(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text).into_iter().map(|id| tokenizer.token(id)).collect()
}

/// The fields of a ReAct text, as the published script cuts them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// Between the first `Action:` and the first `Action Input:`.
    pub action: String,
    /// Between the first `Action Input:` and the first `Observation:`, as JSON with sorted keys; `None` if it
    /// is not JSON5.
    pub input: Option<String>,
}

impl Fields {
    /// Cuts a text. Where a marker is missing, the published script cuts at odd places, which is repeated
    /// here: a missing beginning counts as one character before the text, a missing end as the last
    /// character.
    pub fn of(text: &str) -> Self {
        let text = format!("{text}\n");
        let input = cut(&text, "Action Input:", "Observation:");
        Self {
            action: cut(&text, "Action:", "Action Input:").to_owned(),
            input: Json5::parse(input).ok().map(|value| value.sorted()),
        }
    }
}

fn cut<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let start = text.find(begin).map_or_else(
        // In Python, -1 + the length of the marker, in characters.
        || text.char_indices().nth(begin.len() - 1).map_or(text.len(), |(at, _)| at),
        |at| at + begin.len(),
    );
    // The last character is the line break that was added.
    let end = text.find(end).unwrap_or(text.len() - 1);
    text.get(start..end).unwrap_or_default().trim()
}

/// The results of a file of positive rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PositiveCounts {
    /// Rows.
    pub rows: u64,
    /// Responses with a call.
    pub calls: u64,
    /// Responses with a call of the golden tool: tool selection.
    pub selected: u64,
    /// Responses whose input parses.
    pub inputs_parsed: u64,
    /// The sum of Rouge-L.
    pub rouge_l_sum: f64,
    /// The sum of its squares, for an interval.
    pub rouge_l_square_sum: f64,
}

impl PositiveCounts {
    /// Counts a response.
    pub fn add(&mut self, scored: &Scored) {
        self.rows += 1;
        self.calls += u64::from(scored.calls);
        self.selected += u64::from(scored.is_selected);
        self.inputs_parsed += u64::from(scored.input_parses);
        self.rouge_l_sum += scored.input_rouge_l;
        self.rouge_l_square_sum += scored.input_rouge_l * scored.input_rouge_l;
    }

    /// The mean of Rouge-L over all rows: tool input. `None` without rows.
    pub fn rouge_l(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.rouge_l_sum / self.rows as f64)
    }
}

/// The results of a file of negative rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NegativeCounts {
    /// Rows.
    pub rows: u64,
    /// Responses with a call.
    pub false_positives: u64,
}

impl NegativeCounts {
    /// Counts a response.
    pub fn add(&mut self, response: &str) {
        self.rows += 1;
        self.false_positives += u64::from(is_false_positive(response));
    }
}

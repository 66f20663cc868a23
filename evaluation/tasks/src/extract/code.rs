//! Code. Sources: Qwen's `eval/evaluate_chat_humaneval.py`; lm-evaluation-harness (`humaneval_instruct`,
//! `mbpp_instruct`).

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern::{compile, first_group};

static ANY_FUNCTION: LazyLock<Regex> = LazyLock::new(|| compile(r"(?s)def.*?:\n(.*?)(?:\n(?!\n*(?:  |\t))|\z)"));
static FENCE: LazyLock<Regex> = LazyLock::new(|| compile(r"(?s)```(?:\w+)?\n?(.*?)\n?```"));
static BLOCK: LazyLock<Regex> = LazyLock::new(|| compile(r"(?s)```\w*[ \t]*\r?\n(.*?)(?:```|\z)"));

/// What is taken from an answer that holds code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// All of it.
    Whole,
    /// What is before the first code fence: the answer began inside one.
    BeforeFence,
    /// The first fenced block of an answer that began inside one.
    OpenFence,
    /// The body of a function: in a fence, else anywhere, else that of any function, else all of it,
    /// indented. Helpers and imports before the function are lost, as in Qwen's evaluation.
    Body {
        /// The function's name.
        entry_point: String,
    },
    /// A whole program: the first fenced block, else what is between `[BEGIN]` and `[DONE]`.
    Block,
}

impl Code {
    /// The code in `text`; `None` when there is none.
    pub fn extract(&self, text: &str) -> Option<String> {
        match self {
            Self::Whole => Some(text.to_owned()),
            Self::BeforeFence => Some(text.split("```").next().unwrap_or_default().to_owned()),
            Self::OpenFence => open_fence(text),
            Self::Body { entry_point } => Some(body(text, entry_point)),
            Self::Block => block(text),
        }
    }
}

fn body(text: &str, entry_point: &str) -> String {
    let name = fancy_regex::escape(entry_point);
    let in_fence = compile(&format!(r"(?s)```(?:[Pp]ython\n)?.*?def\s+{name}.*?:\n(.*?)\n```"));
    let anywhere = compile(&format!(r"(?s)def\s+{name}.*?:\n(.*?)(?:\n(?!\n*(?:  |\t))|\z)"));
    let found = [&in_fence, &anywhere, &*ANY_FUNCTION].into_iter().find_map(|pattern| first_group(pattern, text));
    found.map_or_else(|| indented(text), str::to_owned)
}

/// Every line that is not blank, four spaces further right.
fn indented(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| if line.trim().is_empty() { line.to_owned() } else { format!("    {line}") })
        .collect()
}

fn open_fence(text: &str) -> Option<String> {
    let opened = format!("```{text}");
    let found = first_group(&FENCE, &opened).map(str::to_owned);
    found.or_else(|| first_group(&FENCE, &text.replace("```python", "```")).map(str::to_owned))
}

fn block(text: &str) -> Option<String> {
    if let Some(code) = first_group(&BLOCK, text) {
        return Some(code.to_owned());
    }
    let after = text.split_once("[BEGIN]").map_or(text, |(_, after)| after);
    let code = after.split("[DONE]").next().unwrap_or_default();
    Some(code.to_owned()).filter(|code| !code.trim().is_empty())
}

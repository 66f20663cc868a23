//! ReAct as text: the prompt for a list of tools, and the calls that a model writes.
//!
//! Source: QwenLM/Qwen, examples/react_prompt.md, examples/react_demo.py, openai_api.py.

use align_text::chatml::{Message, Role};

use crate::tool::ToolDescription;

/// The text at which a model stops writing, because the result of its call comes next. Tokens of it differ
/// (`:` or `:\n`), so the text is compared.
pub const STOP: &str = "Observation:";

const ACTION: &str = "\nAction:";
const ACTION_INPUT: &str = "\nAction Input:";
const OBSERVATION: &str = "\nObservation:";
const FINAL_ANSWER: &str = "\nFinal Answer:";

/// The published wordings of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wording {
    /// examples/react_prompt.md: "tools", names joined by `,`.
    #[default]
    Guide,
    /// examples/react_demo.py: "tools", names joined by `, `.
    Demo,
    /// openai_api.py: "APIs", names joined by `, `, and no sentence about the input's format.
    Api,
}

/// The instruction that comes before `Question:`.
pub fn instruction(tools: &[ToolDescription], wording: Wording) -> String {
    let (noun, separator) = match wording {
        Wording::Guide => ("tools", ","),
        Wording::Demo => ("tools", ", "),
        Wording::Api => ("APIs", ", "),
    };
    let paragraph = match wording {
        Wording::Guide | Wording::Demo => ToolDescription::paragraph,
        Wording::Api => ToolDescription::sentences,
    };
    let descriptions = tools.iter().map(paragraph).collect::<Vec<_>>().join("\n\n");
    let names = tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>().join(separator);
    format!(
        "Answer the following questions as best you can. You have access to the following {noun}:

{descriptions}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!"
    )
}

/// A user's turn with the instruction.
pub fn prompt(tools: &[ToolDescription], wording: Wording, query: &str) -> String {
    stripped(&format!("{}\n\nQuestion: {query}", instruction(tools, wording))).to_owned()
}

/// The turns before an answer: earlier pairs of a user's and an assistant's text, and the query. With tools
/// the instruction is in the last user's turn, or, after earlier turns, in the one before it; without tools
/// there is none. Line breaks at the beginning of a text, and white space at its end, are left out, as in
/// the data that the published models were trained on.
pub fn messages(
    tools: &[ToolDescription],
    wording: Wording,
    history: &[(String, String)],
    query: &str,
) -> Vec<Message> {
    let place = history.len().saturating_sub(1);
    let user = |index: usize, text: &str| match tools {
        [_, ..] if index == place => Message::new(Role::User, prompt(tools, wording, text)),
        _ => Message::new(Role::User, stripped(text)),
    };
    let mut messages = Vec::with_capacity(2 * history.len() + 1);
    for (index, (asked, answer)) in history.iter().enumerate() {
        messages.extend([user(index, asked), Message::new(Role::Assistant, stripped(answer))]);
    }
    messages.push(user(history.len(), query));
    messages
}

/// A text without line breaks at its beginning and white space at its end.
pub(crate) fn stripped(text: &str) -> &str {
    text.trim_start_matches('\n').trim_end()
}

/// A call that a model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The text between `Action:` and `Action Input:`.
    pub name: String,
    /// The text after `Action Input:`, up to `Observation:`.
    pub input: String,
    /// The written text up to the observation, without it.
    pub text: String,
}

/// The last call of a written text, by the published rule: the last `\nAction:`, which must come before the
/// last `\nAction Input:`; the input ends at the last `\nObservation:`, or at the end of a text that stopped
/// before one. `None` also if the name is empty.
///
/// ```
/// let text = "Thought: look\nAction: find\nAction Input: {'q': 1}\n";
/// let call = align_tools::react::last_call(text).unwrap();
/// assert_eq!((call.name.as_str(), call.input.as_str()), ("find", "{'q': 1}"));
/// ```
pub fn last_call(text: &str) -> Option<Call> {
    let (action, input) = (text.rfind(ACTION)?, text.rfind(ACTION_INPUT)?);
    if action >= input {
        return None;
    }
    let end = text.rfind(OBSERVATION).filter(|end| *end > input);
    let before = end.map_or_else(|| text.trim_end(), |end| &text[..end]);
    // Nothing but white space after `Action Input:` may have been cut off with it.
    let written = before.get(input + ACTION_INPUT.len()..).unwrap_or_default();
    let name = text[action + ACTION.len()..input].trim();
    (!name.is_empty()).then(|| Call {
        name: name.to_owned(),
        input: written.trim().to_owned(),
        text: before.to_owned(),
    })
}

/// What comes after a call in the assistant's turn: its result, and the beginning of the next thought.
pub fn observation(result: &str) -> String {
    format!("{OBSERVATION} {result}\nThought:")
}

/// The text after the last line that begins with `Final Answer:`.
pub fn final_answer(text: &str) -> Option<&str> {
    let at = line_start(text, FINAL_ANSWER)?;
    Some(text[at..].trim())
}

/// Whether an answer comes after the input of the last call.
pub(crate) fn answers_after_call(text: &str) -> bool {
    text.rfind(FINAL_ANSWER).is_some_and(|answer| text.rfind(ACTION_INPUT).is_some_and(|input| answer > input))
}

/// The end of the last `marker` (which begins with a line break) that begins a line; the first line counts.
fn line_start(text: &str, marker: &str) -> Option<usize> {
    let first = text.starts_with(&marker[1..]).then(|| marker.len() - 1);
    text.rfind(marker).map(|at| at + marker.len()).or(first)
}

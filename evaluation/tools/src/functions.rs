//! OpenAI's `functions` and `function_call` as ReAct, and back. Source: QwenLM/Qwen, openai_api.py.

use align_text::chatml::{Message, Role, SYSTEM};
use serde_json::{Value, json};

use crate::agent::{Ended, Written};
use crate::react::{self, Wording, stripped};
use crate::tool::ToolDescription;

/// Below this temperature the most probable token is taken.
pub const GREEDY_BELOW: f64 = 0.01;

/// A request as turns.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The turns before the answer, the system's first.
    pub messages: Vec<Message>,
    /// The beginning of the answer: calls that were made, and their results. "" for an answer to a user.
    pub prefix: String,
    /// Texts at which the model stops.
    pub stops: Vec<String>,
}

/// Converts the messages of a request.
///
/// - A function's message continues the assistant's turn with `\nObservation: `, and with `\nThought:` if it
///   is the last one.
/// - An assistant's message with a `function_call` is a thought and a call; one without, if there are
///   functions, is a final answer.
/// - The instruction is in the last user's turn; if that turn has no answer yet and comes after others, in
///   the one before it.
///
/// # Errors
/// What is wrong with the request and what was expected, as one line.
pub fn request(messages: &[Value], functions: &[Value]) -> Result<Request, String> {
    let tools = ToolDescription::list_from_json(functions)
        .map_err(|wrong| wrong.iter().map(|what| format!("`functions{what}`")).collect::<Vec<_>>().join("; "))?;
    let mut system = SYSTEM.to_owned();
    let mut pairs: Vec<(String, Option<String>)> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let message = Incoming::read(message).map_err(|what| format!("`messages[{index}]`: {what}"))?;
        let refuse = |what: &str| Err(format!("`messages[{index}]`: {what}"));
        match (message.role, pairs.last_mut()) {
            ("system", _) if index == 0 => system = message.content,
            ("system", _) => return refuse("a system message, expected it as the first message only"),
            ("user", Some((_, None))) => return refuse("a second user message in a row, expected an answer first"),
            ("user", _) => pairs.push((message.content, None)),
            ("assistant", None) => return refuse("an answer, expected a user message before it"),
            ("assistant", Some((_, answer))) => {
                let text = message.answer(&tools);
                match answer {
                    Some(answer) => *answer = format!("{answer}\n{text}"),
                    None => *answer = Some(text),
                }
            }
            ("function", Some((_, Some(answer)))) => {
                answer.push_str(&format!("\nObservation: {}", message.content));
                if index + 1 == messages.len() {
                    answer.push_str("\nThought:");
                }
            }
            ("function", _) => return refuse("a function's result, expected an assistant message before it"),
            _ => unreachable!("`Incoming::read` knows these roles only"),
        }
    }
    let Some((query, prefix)) = pairs.pop() else {
        return Err("`messages` has no user message, expected at least one".to_owned());
    };
    let history: Vec<(String, String)> =
        pairs.into_iter().map(|(asked, answer)| (asked, answer.unwrap_or_default())).collect();
    // A turn that is being answered is the last pair, and has the instruction itself.
    let mut turns = match prefix {
        None => react::messages(&tools, Wording::Api, &history, &query),
        Some(_) => {
            let mut turns = react::messages(&[], Wording::Api, &history, &query);
            if let (false, Some(last)) = (tools.is_empty(), turns.last_mut()) {
                last.content = react::prompt(&tools, Wording::Api, &last.content);
            }
            turns
        }
    };
    turns.insert(0, Message::new(Role::System, system));
    let stops = if tools.is_empty() { Vec::new() } else { vec![react::STOP.to_owned()] };
    Ok(Request { messages: turns, prefix: stripped(&prefix.unwrap_or_default()).to_owned(), stops })
}

/// A message of a request.
struct Incoming<'a> {
    role: &'a str,
    content: String,
    call: Option<(&'a str, &'a str)>,
}

impl<'a> Incoming<'a> {
    fn read(message: &'a Value) -> Result<Self, String> {
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        if !["system", "user", "assistant", "function"].contains(&role) {
            return Err(format!("role `{role}`, expected system, user, assistant or function"));
        }
        if message.get("tool_calls").is_some_and(|calls| !calls.is_null()) {
            return Err("`tool_calls`, expected `function_call`".to_owned());
        }
        let content = match message.get("content") {
            None | Some(Value::Null) => "",
            Some(Value::String(text)) => stripped(text),
            Some(_) => return Err("`content` is not a text, expected one".to_owned()),
        };
        let call = match message.get("function_call") {
            None | Some(Value::Null) => None,
            Some(_) if role != "assistant" => return Err("a `function_call`, expected it of the assistant".to_owned()),
            Some(call) => {
                let text = |key: &str| {
                    let what = || format!("`function_call.{key}` is not a text, expected one");
                    call.get(key).and_then(Value::as_str).ok_or_else(what)
                };
                Some((text("name")?, text("arguments")?))
            }
        };
        Ok(Self { role, content: content.to_owned(), call })
    }

    /// An assistant's message as ReAct.
    fn answer(&self, tools: &[ToolDescription]) -> String {
        let content = &self.content;
        let text = match self.call {
            Some((name, arguments)) => {
                let thought = if content.starts_with("Thought:") { "" } else { "Thought: " };
                format!("{thought}{content}\nAction: {name}\nAction Input: {arguments}")
            }
            None if !tools.is_empty() => format!("Thought: I now know the final answer.\nFinal Answer: {content}"),
            None => content.clone(),
        };
        stripped(&text).to_owned()
    }
}

/// The choice that answers a request: a message, and `finish_reason` (`stop`, `length` or `function_call`).
/// `functions` are those of the request; without any, the text is the content.
/// Unlike [`react::last_call`], the first call of a text counts. A call in a text that was cut off is not
/// reported, since it may be incomplete.
pub fn choice(written: &Written, functions: &[Value]) -> Value {
    let (text, has_tools) = (written.text.as_str(), !functions.is_empty());
    let is_cut = written.ended == Ended::Length;
    let call = if has_tools && !is_cut { first_call(text) } else { None };
    if let Some((thought, name, arguments)) = call {
        let message = json!({
            "role": "assistant",
            "content": thought,
            "function_call": {"name": name, "arguments": arguments},
        });
        return json!({"index": 0, "message": message, "finish_reason": "function_call"});
    }
    const ANSWER: &str = "\nFinal Answer: ";
    let content = match text.rfind(ANSWER).filter(|_| has_tools) {
        Some(at) => &text[at + ANSWER.len()..],
        None => text,
    };
    let message = json!({"role": "assistant", "content": content});
    json!({"index": 0, "message": message, "finish_reason": if is_cut { "length" } else { "stop" }})
}

/// The thought, name and arguments of a text's first call.
fn first_call(text: &str) -> Option<(&str, &str, &str)> {
    const ACTION: &str = "\nAction:";
    const INPUT: &str = "\nAction Input:";
    let (action, input) = (text.find(ACTION)?, text.find(INPUT)?);
    if action >= input {
        return None;
    }
    let end = text.find("\nObservation:").filter(|end| *end >= input).unwrap_or(text.trim_end().len());
    let name = text[action + ACTION.len()..input].trim();
    let arguments = text.get(input + INPUT.len()..end).unwrap_or_default().trim();
    let thought = &text[..action];
    let thought = thought.find("Thought: ").map_or(thought, |at| &thought[at + "Thought: ".len()..]);
    (!name.is_empty()).then_some((thought.trim(), name, arguments))
}

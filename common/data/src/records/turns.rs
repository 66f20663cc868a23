//! Reads turns of dialogues: `{"role", "content"}`, `{"from", "value"}`, and transcripts.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::keys::{Keys, REASONING, TRAINED, WEIGHT, is_empty};
use super::{Kind, Parsed, a_value, shown};
use align_text::chatml::{Message, Role};

/// Reads turns, and records which of their keys were not read.
pub(super) struct Turns {
    kind: Kind,
    unread: RefCell<BTreeSet<String>>,
}

impl Turns {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, unread: RefCell::default() }
    }

    /// The keys of turns that were not read.
    pub(super) fn unread(&self) -> BTreeSet<String> {
        self.unread.take()
    }

    /// A list of turns.
    pub(super) fn list(&self, value: &Value, key: &str) -> Parsed<Vec<Message>> {
        let Value::Array(list) = value else {
            return Err(format!("`{key}` is {}, expected messages", a_value(value)));
        };
        if list.is_empty() {
            return Err(format!("`{key}` is empty, expected messages"));
        }
        let mut messages: Vec<Message> = Vec::with_capacity(list.len());
        for (index, turn) in list.iter().enumerate() {
            let (turn, is_bare_call) = self.turn(turn, &format!("{key}[{index}]"))?;
            match messages.last_mut() {
                // Consecutive calls in separate turns are the calls of one answer.
                Some(last) if is_bare_call && last.role == Role::Assistant && last.content.is_empty() => {
                    if last.is_trained != turn.is_trained {
                        return Err(format!(
                            "`{key}[{index}]` and the call before it are one answer, of which only one is marked as trained on, expected both or none"
                        ));
                    }
                    last.tool_calls.extend(turn.tool_calls);
                }
                Some(last) if is_bare_call && last.role == Role::Assistant => {
                    return Err(format!(
                        "`{key}[{index}]` is a call after an answer, expected it in the answer's `tool_calls`"
                    ));
                }
                _ => messages.push(turn),
            }
        }
        no_empty_answers(&messages, key)?;
        Ok(messages)
    }

    /// Records keys of calls other than the name and arguments as unread.
    fn count_unread_of_calls(&self, calls: &[Value]) {
        let own = |call: &Value| {
            let is_wrapped = call.get("function").is_some_and(Value::is_object);
            let known: &[&str] =
                if is_wrapped { &["function", "id", "type", "index"] } else { &["id", "type", "index"] };
            let function = call.get("function").unwrap_or(call);
            let outer = if is_wrapped { call.as_object() } else { None };
            let outer = outer.into_iter().flat_map(|call| call.keys()).filter(|key| !known.contains(&key.as_str()));
            let inner = function.as_object().into_iter().flat_map(|call| call.keys());
            let inner =
                inner.filter(|key| !known.contains(&key.as_str()) && !["name", "arguments"].contains(&key.as_str()));
            outer.chain(inner).map(|key| format!("messages.tool_calls.{}", super::clipped(key))).collect::<Vec<_>>()
        };
        self.unread.borrow_mut().extend(calls.iter().flat_map(own));
    }

    /// One turn.
    pub(super) fn message(&self, value: &Value, location: &str) -> Parsed<Message> {
        self.turn(value, location).map(|(message, _)| message)
    }

    /// A turn, and whether it is only a call (`function_call` of sharegpt, `tool_call` of ms-swift).
    fn turn(&self, value: &Value, location: &str) -> Parsed<(Message, bool)> {
        let Value::Object(turn) = value else {
            return Err(format!("`{location}` is {}, expected a message", a_value(value)));
        };
        let keys = Keys::new(turn);
        let (role, content) = match (keys.get("role"), keys.get("from")) {
            (Some(role), _) => (role, "content"),
            (None, Some(role)) => (role, "value"),
            (None, None) => {
                return Err(format!("`{location}` has no role, expected `role` and `content`, or `from` and `value`"));
            }
        };
        let name = role.as_str().unwrap_or_default();
        let (role, is_bare_call) = match name {
            "system" => (Role::System, false),
            "user" | "human" => (Role::User, false),
            "assistant" | "gpt" => (Role::Assistant, false),
            "tool" | "function" | "observation" | "tool_response" => (Role::Tool, false),
            "function_call" | "tool_call" => (Role::Assistant, true),
            _ => {
                return Err(format!(
                    "`{location}` has the role {}, expected system, user, assistant or tool",
                    shown(role)
                ));
            }
        };
        let calls = keys.get("tool_calls").filter(|calls| !is_empty(calls));
        let mut message = match keys.get(content) {
            Some(text) => Message::new(role, text_of(text, &format!("{location}.{content}"))?),
            None if calls.is_some() => Message::new(role, ""),
            None if turn.contains_key(content) => {
                return Err(format!("`{location}.{content}` is null, expected a text"));
            }
            None => return Err(format!("`{location}` has no `{content}`, expected a text")),
        };
        if let Some(calls) = calls {
            message.tool_calls = called(calls, role, &format!("{location}.tool_calls"))?;
        }
        // The name of a tool that answers. The chat templates of these families use no other names.
        if role == Role::Tool {
            message.name = keys.get("name").and_then(Value::as_str).map(str::to_owned);
        }
        if is_bare_call {
            message.tool_calls = bare_calls(&message.content, &format!("{location}.{content}"))?;
            message.content.clear();
        }
        if let Some((key, text)) = keys.full_one_of(REASONING)? {
            if role != Role::Assistant {
                return Err(format!(
                    "`{location}.{key}` belongs to a turn of role `{}`, expected an answer",
                    role.name()
                ));
            }
            message.reasoning = Some(text_of(text, &format!("{location}.{key}"))?);
        }
        self.count_unread_of_calls(&message.tool_calls);
        message.is_trained = trained(&keys, role, location)?;
        let unread = keys.rest(self.kind, Some(location))?;
        self.unread.borrow_mut().extend(unread.into_iter().map(|key| format!("messages.{key}")));
        Ok((message, is_bare_call))
    }
}

/// A text, or a list of parts that are texts, which are joined.
pub(super) fn text_of(value: &Value, location: &str) -> Parsed<String> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) if !parts.is_empty() => parts,
        other => {
            return Err(format!(
                "`{location}` is {}, expected a text",
                if is_empty(other) { "empty" } else { a_value(other) }
            ));
        }
    };
    let mut joined = String::new();
    for (index, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str);
        let text = match (part, kind) {
            (Value::String(text), _) => Some(text.as_str()),
            (Value::Object(_), Some("text" | "input_text" | "output_text")) => part.get("text").and_then(Value::as_str),
            (Value::Object(keys), None) if keys.len() == 1 => part.get("text").and_then(Value::as_str),
            _ => None,
        };
        match (text, kind) {
            (Some(text), _) => joined.push_str(text),
            (None, Some(kind)) => {
                let kind = shown(&json!(kind));
                return Err(format!("`{location}[{index}]` is a part of type {kind}, expected parts of type `text`"));
            }
            (None, None) => {
                let what = a_value(part);
                return Err(format!(
                    "`{location}[{index}]` is {what}, expected a part with `type` \"text\" and `text`"
                ));
            }
        }
    }
    Ok(joined)
}

/// A boolean from true and false, or 1 and 0, also as text; `None` for anything else.
pub(super) fn as_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => [0.0, 1.0].iter().position(|known| number.as_f64() == Some(*known)).map(|at| at == 1),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "false" | "0" | "0.0" => Some(false),
            "true" | "1" | "1.0" => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a turn, or the row's only answer, is trained on, by its marks.
pub(super) fn trained(keys: &Keys<'_>, role: Role, location: &str) -> Parsed<bool> {
    let mut said: Option<(&str, bool)> = None;
    for key in TRAINED {
        let Some(mark) = keys.get(key) else { continue };
        let Some(mark) = as_bool(mark) else {
            let what = mark.as_f64().map_or_else(|| shown(mark), |weight| weight.to_string());
            return Err(format!("`{location}.{key}` is {what}, expected 0 or 1 (or false or true)"));
        };
        if mark && role != Role::Assistant && *key != WEIGHT {
            return Err(format!(
                "`{location}.{key}` asks for loss on a turn of role `{}`, expected it only on answers",
                role.name()
            ));
        }
        match said {
            Some((other, said)) if said != mark => {
                return Err(format!(
                    "`{location}` has `{other}` and `{key}`, which contradict each other, expected one of them"
                ));
            }
            _ => said = Some((key, mark)),
        }
    }
    Ok(said.is_none_or(|(_, mark)| mark))
}

/// A list of calls, each with a name: `{"function": {"name", "arguments"}}` or `{"name", "arguments"}`.
fn called(calls: &Value, role: Role, location: &str) -> Parsed<Vec<Value>> {
    if role != Role::Assistant {
        return Err(format!("`{location}` belongs to a turn of role `{}`, expected an answer", role.name()));
    }
    let Value::Array(list) = calls else { return Err(format!("`{location}` is {}, expected a list", a_value(calls))) };
    for (index, call) in list.iter().enumerate() {
        let function = call.get("function").unwrap_or(call);
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(format!("`{location}[{index}]` has no `name`, expected a function's name and its `arguments`"));
        }
        match function.get("arguments") {
            Some(Value::Object(_)) => {}
            Some(Value::String(text)) if serde_json::from_str::<Map<String, Value>>(text).is_ok() => {}
            Some(Value::String(_)) => {
                return Err(format!(
                    "`{location}[{index}].arguments` is a text that is not a JSON object, expected one"
                ));
            }
            Some(other) => {
                return Err(format!("`{location}[{index}].arguments` is {}, expected an object", a_value(other)));
            }
            None => {
                return Err(format!("`{location}[{index}]` has no `arguments`, expected an object ({{}} for none)"));
            }
        }
    }
    Ok(list.clone())
}

/// Calls that are the text of a turn: `{"name", "arguments"}`, or a list of such.
fn bare_calls(text: &str, location: &str) -> Parsed<Vec<Value>> {
    let expected = || format!("`{location}` is not a call, expected JSON with `name` and `arguments`");
    let parsed: Value = serde_json::from_str(text).map_err(|_| expected())?;
    let list = match parsed {
        Value::Array(list) if !list.is_empty() => list,
        Value::Object(_) => vec![parsed],
        _ => return Err(expected()),
    };
    let list = list.into_iter().map(|call| json!({"type": "function", "function": call})).collect();
    called(&Value::Array(list), Role::Assistant, location).map_err(|what| match what.contains("no `arguments`") {
        true => what,
        false => expected(),
    })
}

/// Refuses empty answers.
pub(super) fn no_empty_answers(messages: &[Message], key: &str) -> Parsed<()> {
    match messages.iter().position(Message::is_empty_answer) {
        Some(index) => Err(format!("the answer `{key}[{index}]` is empty, expected a text")),
        None => Ok(()),
    }
}

const MARKERS: [(&str, Role); 2] = [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];

/// Whether a prompt is a transcript rather than one user's text: it begins with `\n\nHuman:` as the
/// transcripts of HH-RLHF do, or it begins with `Human:` and ends with `\n\nAssistant:`.
pub(super) fn is_transcript(text: &str) -> bool {
    let [(human, _), (assistant, _)] = MARKERS;
    text.starts_with(human) || (text.trim_start().starts_with("Human:") && text.trim_end().ends_with(assistant))
}

/// Whether an answer is a transcript of the whole dialogue.
pub(super) fn is_whole_transcript(text: &str) -> bool {
    let [(human, _), (assistant, _)] = MARKERS;
    (text.starts_with(human) || text.trim_start().starts_with("Human:")) && text.contains(assistant)
}

/// Splits `\n\nHuman: … \n\nAssistant: …` into turns, whitespace around them removed. Where one speaker has
/// two turns in a row they are one: there the marker only begins another paragraph.
pub(super) fn transcript(text: &str, key: &str) -> Parsed<Vec<Message>> {
    let text = format!("\n\n{}", text.trim_start());
    let marked = |at: usize| MARKERS.iter().find(|(marker, _)| text[at..].starts_with(marker));
    let mut turns: Vec<(Role, usize, usize)> = Vec::new();
    for (at, _) in text.match_indices("\n\n") {
        if let Some((marker, role)) = marked(at) {
            if let Some((_, _, end)) = turns.last_mut() {
                *end = at;
            }
            turns.push((*role, at + marker.len(), text.len()));
        }
    }
    if turns.is_empty() || marked(0).is_none() {
        return Err(format!("`{key}` is a text that does not begin with `Human:`, expected a transcript or messages"));
    }
    let mut messages: Vec<Message> = Vec::new();
    for (role, start, end) in turns {
        let content = text[start..end].trim();
        match messages.last_mut() {
            Some(last) if last.role == role => last.content.push_str(&format!("\n\n{content}")),
            _ => messages.push(Message::new(role, content)),
        }
    }
    Ok(messages)
}

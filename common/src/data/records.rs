//! The shapes of rows, and how each becomes a [`Record`]. Keys that a shape does not name are ignored.

use serde_json::{Map, Value};

use crate::chatml::{Message, Role};

/// What a stage needs its rows to be.
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
    /// The rows' name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Chat => "chat",
            Kind::Comparison => "comparison",
            Kind::Prompt => "prompt",
            Kind::Response => "response",
            Kind::Text => "text",
        }
    }

    /// The accepted shapes, for messages.
    pub fn shapes(self) -> &'static str {
        match self {
            Kind::Chat => "`messages`, `conversations`, or `instruction` with `output`",
            Kind::Comparison => {
                "`chosen` and `rejected` (alone, or with `prompt` or `conversations`), or `prompt` with `responses` and `scores`"
            }
            Kind::Prompt => "`prompt`",
            Kind::Response => "`prompt` with `response` or `responses`, or `messages` alone",
            Kind::Text => "`text`",
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A dialogue with at least one answer, none of them empty.
    Chat(Vec<Message>),
    /// Dialogues that differ in what they are worth.
    Comparison(Comparison),
    /// A dialogue that ends with a user turn.
    Prompt(Vec<Message>),
    /// A whole dialogue that ends with an answer.
    Response(Vec<Message>),
    /// One prompt with each of its answers, at least one: whole dialogues.
    Responses(Vec<Vec<Message>>),
    /// A document.
    Text(String),
}

/// Two or more whole dialogues, each ending with an answer that is not empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// (K) A pair is chosen, then rejected.
    pub dialogues: Vec<Vec<Message>>,
    /// (K) What each is worth, where the row says so: the mean of what people gave it. `None` for pairs.
    pub scores: Option<Vec<f64>>,
}

/// Most answers in a ranked list: its pairs are compared at once, and there are K·(K−1)/2 of them.
pub const MAX_RANKED: usize = 256;

/// What is wrong with a row and what was expected, as one line.
type Parsed<T> = Result<T, String>;

/// Reads a row.
///
/// # Errors
/// What is wrong with it and what was expected, as one line.
pub fn parse(kind: Kind, row: Value) -> Result<Record, String> {
    let Value::Object(mut row) = row else {
        return Err(format!("{}, expected an object with {}", a_value(&row), kind.shapes()));
    };
    // Tables written as JSON spell a column that a row lacks as null.
    row.retain(|_, value| !value.is_null());
    match kind {
        Kind::Chat => chat(&row).map(Record::Chat),
        Kind::Comparison => comparison(&row).map(Record::Comparison),
        Kind::Prompt => prompt(&row).map(Record::Prompt),
        Kind::Response => response(&row),
        Kind::Text => match row.get("text") {
            Some(Value::String(text)) if text.trim().is_empty() => {
                Err("`text` is empty, expected a document".to_owned())
            }
            Some(Value::String(text)) => Ok(Record::Text(text.clone())),
            Some(other) => Err(format!("`text` is {}, expected a string", a_value(other))),
            None => Err(wrong_shape(&row, kind)),
        },
    }
}

fn chat(row: &Map<String, Value>) -> Parsed<Vec<Message>> {
    let messages = if let Some(list) = row.get("messages") {
        messages(list, "messages")?
    } else if let Some(list) = row.get("conversations") {
        if row.contains_key("chosen") && row.contains_key("rejected") {
            return Err(wrong_shape(row, Kind::Chat));
        }
        messages(list, "conversations")?
    } else if row.contains_key("instruction") && row.contains_key("output") {
        let (instruction, output) = (string(row, "instruction")?, string(row, "output")?);
        let input = if row.get("input").is_none_or(Value::is_null) { "" } else { string(row, "input")? };
        let user = if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") };
        if output.trim().is_empty() {
            return Err("`output` is empty, expected an answer".to_owned());
        }
        vec![Message::new(Role::User, user), Message::new(Role::Assistant, output)]
    } else {
        return Err(wrong_shape(row, Kind::Chat));
    };
    if !messages.iter().any(|message| message.role == Role::Assistant) {
        return Err("no assistant turn, expected at least one".to_owned());
    }
    Ok(messages)
}

fn comparison(row: &Map<String, Value>) -> Parsed<Comparison> {
    if row.contains_key("chosen") && row.contains_key("rejected") {
        let start = match (row.get("prompt"), row.get("conversations")) {
            (Some(prompt), _) => Some(beginning(prompt, "prompt")?),
            (None, Some(conversations)) => Some(messages(conversations, "conversations")?),
            (None, None) => None,
        };
        let side = |key: &str| match &start {
            Some(start) => continued(start, &row[key], key),
            None => whole(&row[key], key),
        };
        Ok(Comparison { dialogues: vec![side("chosen")?, side("rejected")?], scores: None })
    } else if let (Some(prompt), Some(responses), Some(scores)) =
        (row.get("prompt"), row.get("responses"), row.get("scores"))
    {
        ranked(&beginning(prompt, "prompt")?, responses, scores)
    } else {
        Err(wrong_shape(row, Kind::Comparison))
    }
}

fn ranked(start: &[Message], responses: &Value, scores: &Value) -> Parsed<Comparison> {
    let responses = list(responses, "responses", "answers")?;
    let scores = list(scores, "scores", "numbers")?;
    if !(2..=MAX_RANKED).contains(&responses.len()) {
        return Err(format!("`responses` has {} answers, expected 2 to {MAX_RANKED}", responses.len()));
    }
    if responses.len() != scores.len() {
        return Err(format!(
            "{} `responses` but {} `scores`, expected one score per answer",
            responses.len(),
            scores.len()
        ));
    }
    let scores = scores.iter().enumerate().map(|(index, score)| worth(score, &format!("scores[{index}]")));
    let scores = scores.collect::<Parsed<Vec<f64>>>()?;
    Ok(Comparison { dialogues: each_continued(start, responses)?, scores: Some(scores) })
}

/// What people gave an answer: one number, or the mean of one number each; null where one of them gave none.
fn worth(score: &Value, place: &str) -> Parsed<f64> {
    let number = |value: &Value, place: &str, expected: &str| {
        value.as_f64().ok_or_else(|| format!("`{place}` is {}, expected {expected}", a_value(value)))
    };
    let Value::Array(votes) = score else { return number(score, place, "a number, or a list of them") };
    let given = votes.iter().enumerate().filter(|(_, vote)| !vote.is_null());
    let votes = given.map(|(index, vote)| number(vote, &format!("{place}[{index}]"), "a number"));
    let mut votes = votes.collect::<Parsed<Vec<f64>>>()?;
    if votes.is_empty() {
        return Err(format!("`{place}` has no number, expected at least one"));
    }
    // In one order, so that the same votes of other people have the same mean to the bit.
    votes.sort_by(f64::total_cmp);
    Ok(votes.iter().sum::<f64>() / votes.len() as f64)
}

fn response(row: &Map<String, Value>) -> Parsed<Record> {
    match ["prompt", "response", "responses", "messages"].map(|key| row.get(key)) {
        [Some(prompt), Some(answer), None, None] => {
            continued(&beginning(prompt, "prompt")?, answer, "response").map(Record::Response)
        }
        [Some(prompt), None, Some(answers), None] => {
            let (start, answers) = (beginning(prompt, "prompt")?, list(answers, "responses", "answers")?);
            if answers.is_empty() {
                return Err("`responses` is empty, expected at least one answer".to_owned());
            }
            each_continued(&start, answers).map(Record::Responses)
        }
        [None, None, None, Some(whole)] => answered(messages(whole, "messages")?, "messages").map(Record::Response),
        _ => Err(wrong_shape(row, Kind::Response)),
    }
}

fn prompt(row: &Map<String, Value>) -> Parsed<Vec<Message>> {
    let prompt = row.get("prompt").ok_or_else(|| wrong_shape(row, Kind::Prompt))?;
    let messages = beginning(prompt, "prompt")?;
    match messages.last().map(|message| message.role) {
        Some(Role::User) => Ok(messages),
        Some(role) => {
            Err(format!("`prompt` ends with a turn of role `{}`, expected a user turn to answer", role.name()))
        }
        None => Err("`prompt` is empty, expected a text or messages".to_owned()),
    }
}

/// What comes before the answers: a text is one user turn.
fn beginning(value: &Value, key: &str) -> Parsed<Vec<Message>> {
    match value {
        Value::String(text) if text.trim().is_empty() => Err(format!("`{key}` is empty, expected a text or messages")),
        Value::String(text) => Ok(vec![Message::new(Role::User, text)]),
        list => messages(list, key),
    }
}

/// `start` with one answer: a text, a message, or messages. Messages that repeat `start` are the whole dialogue.
fn continued(start: &[Message], value: &Value, key: &str) -> Parsed<Vec<Message>> {
    let rest = match value {
        Value::String(text) => vec![Message::new(Role::Assistant, text)],
        Value::Object(_) => vec![message(value, key)?],
        list => messages(list, key)?,
    };
    let repeats = !start.is_empty() && rest.starts_with(start);
    if !repeats && rest.first().is_some_and(|message| message.role != Role::Assistant) {
        return Err(format!("`{key}` begins with another turn than the prompt or an answer, expected either"));
    }
    answered(if repeats { rest } else { [start, &rest].concat() }, key)
}

/// `start` with each of several answers.
fn each_continued(start: &[Message], answers: &[Value]) -> Parsed<Vec<Vec<Message>>> {
    let dialogues = answers.iter().enumerate();
    dialogues.map(|(index, answer)| continued(start, answer, &format!("responses[{index}]"))).collect()
}

/// A whole dialogue: messages or a transcript.
fn whole(value: &Value, key: &str) -> Parsed<Vec<Message>> {
    let messages = match value {
        Value::String(text) => transcript(text, key)?,
        list => messages(list, key)?,
    };
    answered(messages, key)
}

fn answered(messages: Vec<Message>, key: &str) -> Parsed<Vec<Message>> {
    match messages.last() {
        Some(last) if last.role != Role::Assistant => {
            Err(format!("`{key}` ends with a turn of role `{}`, expected an answer", last.role.name()))
        }
        Some(last) if last.content.trim().is_empty() => Err(format!("`{key}` is empty, expected an answer")),
        Some(_) => Ok(messages),
        None => Err(format!("`{key}` is empty, expected an answer")),
    }
}

/// Splits `\n\nHuman: … \n\nAssistant: …` into turns, whitespace around them removed. Where one speaker has two turns in a
/// row they are one: there the marker only begins another paragraph.
fn transcript(text: &str, key: &str) -> Parsed<Vec<Message>> {
    const MARKERS: [(&str, Role); 2] = [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];
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
            Some(last) if last.role == role => {
                last.content = format!("{}\n\n{content}", last.content).trim().to_owned()
            }
            _ => messages.push(Message::new(role, content)),
        }
    }
    no_empty_answers(&messages, key)?;
    Ok(messages)
}

fn messages(value: &Value, key: &str) -> Parsed<Vec<Message>> {
    let Value::Array(list) = value else { return Err(format!("`{key}` is {}, expected messages", a_value(value))) };
    if list.is_empty() {
        return Err(format!("`{key}` is empty, expected messages"));
    }
    let turns = list.iter().enumerate().map(|(index, turn)| message(turn, &format!("{key}[{index}]")));
    let turns = turns.collect::<Parsed<Vec<Message>>>()?;
    no_empty_answers(&turns, key)?;
    Ok(turns)
}

fn no_empty_answers(messages: &[Message], key: &str) -> Parsed<()> {
    let empty = |message: &Message| message.role == Role::Assistant && message.content.trim().is_empty();
    match messages.iter().position(empty) {
        Some(index) => Err(format!("the answer `{key}[{index}]` is empty, expected a text")),
        None => Ok(()),
    }
}

/// `{"role", "content"}` or `{"from", "value"}`.
fn message(value: &Value, place: &str) -> Parsed<Message> {
    let Value::Object(turn) = value else { return Err(format!("`{place}` is {}, expected a message", a_value(value))) };
    let (role, content) = match (turn.get("role"), turn.get("from")) {
        (Some(role), _) => (role, "content"),
        (None, Some(role)) => (role, "value"),
        (None, None) => {
            return Err(format!("`{place}` has no role, expected `role` and `content`, or `from` and `value`"));
        }
    };
    let role = match role.as_str() {
        Some("system") => Role::System,
        Some("user" | "human") => Role::User,
        Some("assistant" | "gpt") => Role::Assistant,
        _ => return Err(format!("`{place}` has the role {}, expected system, user or assistant", shown(role))),
    };
    match turn.get(content) {
        Some(Value::String(text)) => Ok(Message::new(role, text)),
        Some(other) => Err(format!("`{place}.{content}` is {}, expected a text", a_value(other))),
        None => Err(format!("`{place}` has no `{content}`, expected a text")),
    }
}

fn list<'a>(value: &'a Value, key: &str, of: &str) -> Parsed<&'a [Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("`{key}` is {}, expected a list of {of}", a_value(value)))
}

fn string<'a>(row: &'a Map<String, Value>, key: &str) -> Parsed<&'a str> {
    let value = &row[key];
    value.as_str().ok_or_else(|| format!("`{key}` is {}, expected a string", a_value(value)))
}

fn wrong_shape(row: &Map<String, Value>, kind: Kind) -> String {
    let keys: Vec<String> = row.keys().take(6).map(|key| format!("`{}`", clipped(key))).collect();
    let more = if row.len() > 6 { ", …" } else { "" };
    let has = if keys.is_empty() {
        "an object without keys".to_owned()
    } else {
        format!("a row with {}{more}", keys.join(", "))
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

/// Data comes from strangers: a message quotes little of it, on one line.
fn clipped(text: &str) -> String {
    let clipped: String = text.chars().filter(|char| !char.is_control()).take(40).collect();
    if clipped.len() < text.len() { format!("{clipped}…") } else { clipped }
}

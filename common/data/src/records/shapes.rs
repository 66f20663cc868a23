//! Converts a row to a record, by the shape that its keys have.

use serde_json::{Map, Value};

use super::keys::{ANSWER, CONTEXT, HISTORY, Keys, QUESTION, REASONING, SYSTEM, TOOLS, TURNS, is_empty, is_generated};
use super::turns::{
    Turns, as_bool, is_transcript, is_whole_transcript, no_empty_answers, text_of, trained, transcript,
};
use super::{Kind, Parsed, Record, a_value, last_role, wrong_shape};
use align_text::chatml::{Dialogue, Message, Role};

/// A row that is being converted.
pub(super) struct Row<'a> {
    pub(super) kind: Kind,
    pub(super) map: &'a Map<String, Value>,
    pub(super) keys: &'a Keys<'a>,
    pub(super) turns: &'a Turns,
}

impl<'a> Row<'a> {
    /// A document.
    pub(super) fn document(&self) -> Parsed<String> {
        match self.keys.get("text") {
            Some(Value::String(text)) if text.trim().is_empty() => {
                Err("`text` is empty, expected a document".to_owned())
            }
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(format!("`text` is {}, expected a string", a_value(other))),
            None => Err(self.wrong_shape()),
        }
    }

    /// A dialogue with answers.
    pub(super) fn chat(&self) -> Parsed<Dialogue> {
        let compares = self.keys.has("chosen") && self.keys.has("rejected");
        if compares && self.keys.has("conversations") && !self.keys.has("messages") {
            return Err(self.wrong_shape());
        }
        let messages = if let Some((_, turns)) = self.turns()? {
            self.refuse_row_reasoning()?;
            turns
        } else {
            let Some((key, answer)) = self.keys.one_of(ANSWER)? else { return Err(self.wrong_shape()) };
            let start = self.question()?.ok_or_else(|| self.wrong_shape())?;
            let mut whole = self.continued(&start, answer, key)?;
            self.give_reasoning(&mut whole)?;
            if let Some(last) = whole.last_mut() {
                last.is_whole = self.is_whole()?;
                last.is_trained &= trained(self.keys, Role::Assistant, "the row")?;
            }
            whole
        };
        let dialogue = self.with_system_and_tools(messages)?;
        let answers = || dialogue.messages.iter().filter(|message| message.role == Role::Assistant);
        if answers().count() == 0 {
            return Err("no assistant turn, expected at least one".to_owned());
        }
        if !answers().any(|message| message.is_trained) {
            return Err("every answer is marked as not to be trained on, expected at least one that is".to_owned());
        }
        Ok(dialogue)
    }

    /// The `ended` key of `align generate`: false for an answer that was cut off.
    fn is_whole(&self) -> Parsed<bool> {
        match self.keys.get("ended") {
            None => Ok(true),
            Some(ended) => {
                as_bool(ended).ok_or_else(|| format!("`ended` is {}, expected true or false", a_value(ended)))
            }
        }
    }

    /// A dialogue to be answered.
    pub(super) fn prompt(&self) -> Parsed<Dialogue> {
        let (key, messages) = match self.question()? {
            Some(messages) => (QUESTION.iter().find(|key| self.keys.has(key)).copied().unwrap_or("input"), messages),
            None => self.turns()?.ok_or_else(|| self.wrong_shape())?,
        };
        let dialogue = self.with_system_and_tools(messages)?;
        match last_role(&dialogue) {
            Some(Role::User | Role::Tool) => Ok(dialogue),
            Some(role) => {
                Err(format!("`{key}` ends with a turn of role `{}`, expected a user turn to answer", role.name()))
            }
            None => Err(format!("`{key}` is empty, expected a text or messages")),
        }
    }

    /// Dialogues whose last answers are scored.
    pub(super) fn response(&self) -> Parsed<Record> {
        let (answer, answers) = (self.keys.one_of(ANSWER)?, self.keys.get("responses"));
        let question = self.question()?;
        let turns = if question.is_none() { self.turns()? } else { None };
        match (question, answer, answers, turns) {
            (Some(start), Some((key, answer)), None, None) => {
                let mut whole = self.continued(&start, answer, key)?;
                self.give_reasoning(&mut whole)?;
                self.with_system_and_tools(whole).map(Record::Response)
            }
            (Some(start), None, Some(answers), None) => {
                self.refuse_row_reasoning()?;
                let answers = list(answers, "responses", "answers")?;
                if answers.is_empty() {
                    return Err("`responses` is empty, expected at least one answer".to_owned());
                }
                self.each_continued(&start, answers).map(Record::Responses)
            }
            (None, None, None, Some((key, whole))) => {
                self.refuse_row_reasoning()?;
                self.with_system_and_tools(answered(whole, key)?).map(Record::Response)
            }
            _ => Err(self.wrong_shape()),
        }
    }

    /// The turns before the answers, if the row has a question: its history, then one user turn for a text,
    /// or the turns of a transcript.
    pub(super) fn question(&self) -> Parsed<Option<Vec<Message>>> {
        let (question, context) = (self.keys.one_of(QUESTION)?, self.keys.full_one_of(CONTEXT)?);
        let (key, value) = match (question, context) {
            (None, Some(("input", text))) => ("input", text),
            (None, _) => return Ok(None),
            (Some(("instruction", text)), Some((key, context))) => {
                let (text, context) = (self.keys.text("instruction", text)?, self.keys.text(key, context)?);
                let text = if text.trim().is_empty() { context.to_owned() } else { format!("{text}\n{context}") };
                return self.after_history(vec![Message::new(Role::User, text)]).map(Some);
            }
            (Some((key, _)), Some((context, _))) => {
                return Err(format!(
                    "`{context}` beside `{key}`, expected the whole question in `{key}` (or `instruction` with `input`)"
                ));
            }
            (Some((key, value)), None) => (key, value),
        };
        let mut messages = match value {
            Value::String(text) if text.trim().is_empty() => {
                return Err(format!("`{key}` is empty, expected a text or messages"));
            }
            Value::String(text) if is_transcript(text) => {
                let mut turns = transcript(text, key)?;
                // `Assistant:` at the end only marks the next speaker.
                turns.pop_if(|last| last.is_empty_answer());
                no_empty_answers(&turns, key)?;
                turns
            }
            Value::String(text) => vec![Message::new(Role::User, text)],
            Value::Array(_) if key == "prompt" => self.turns.list(value, key)?,
            other => {
                let expected = if key == "prompt" { "a text or messages" } else { "a string" };
                return Err(format!("`{key}` is {}, expected {expected}", a_value(other)));
            }
        };
        // Answers inside a prompt are context, not targets.
        messages.iter_mut().for_each(|message| message.is_trained = message.role != Role::Assistant);
        self.after_history(messages).map(Some)
    }

    /// Prepends `history`: pairs of earlier questions and answers.
    fn after_history(&self, messages: Vec<Message>) -> Parsed<Vec<Message>> {
        let Some(history) = self.keys.get(HISTORY).filter(|history| !is_empty(history)) else { return Ok(messages) };
        let mut before = Vec::new();
        for (index, pair) in list(history, HISTORY, "pairs of texts")?.iter().enumerate() {
            match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(asked), Value::String(answer)]) => {
                    before.extend([Message::new(Role::User, asked), Message::new(Role::Assistant, answer)]);
                }
                _ => {
                    return Err(format!(
                        "`{HISTORY}[{index}]` is not a pair of texts, expected [\"asked\", \"answered\"]"
                    ));
                }
            }
        }
        no_empty_answers(&before, HISTORY)?;
        before.extend(messages);
        Ok(before)
    }

    /// Adds the row's reasoning to its only answer.
    fn give_reasoning(&self, messages: &mut [Message]) -> Parsed<()> {
        let Some((key, text)) = self.keys.full_one_of(REASONING)? else { return Ok(()) };
        let text = text_of(text, key)?;
        if let Some(last) = messages.last_mut() {
            if last.reasoning.as_ref().is_some_and(|own| *own != text) {
                return Err(format!("`{key}` and the answer's own reasoning differ, expected one of them"));
            }
            last.reasoning = Some(text);
        }
        Ok(())
    }

    /// Refuses reasoning of a row with several answers: it is unclear which it belongs to.
    pub(super) fn refuse_row_reasoning(&self) -> Parsed<()> {
        match self.keys.full_one_of(REASONING)? {
            None => Ok(()),
            Some((key, _)) => {
                Err(format!("`{key}` beside turns or several answers, expected it in the turn it belongs to"))
            }
        }
    }

    /// The row's turns, and their key.
    pub(super) fn turns(&self) -> Parsed<Option<(&'static str, Vec<Message>)>> {
        let Some((key, list)) = self.keys.one_of(TURNS)? else { return Ok(None) };
        if self.keys.get(HISTORY).is_some_and(|history| !is_empty(history)) {
            return Err(format!("`{HISTORY}` beside turns, expected all turns in one list"));
        }
        Ok(Some((key, self.turns.list(list, key)?)))
    }

    /// A dialogue of turns with the row's system text and tools.
    fn with_system_and_tools(&self, mut messages: Vec<Message>) -> Parsed<Dialogue> {
        if let Some((key, system)) = self.keys.full_one_of(SYSTEM)? {
            let system = text_of(system, key)?;
            match messages.first().filter(|first| first.role == Role::System) {
                None => messages.insert(0, Message::new(Role::System, system)),
                Some(own) if own.content == system => {}
                Some(own) if own.content.is_empty() => messages[0].content = system,
                Some(_) => {
                    return Err(format!(
                        "`{key}` and the first turn are two system texts that differ, expected one of them"
                    ));
                }
            }
        }
        Ok(Dialogue { messages, tools: self.tools()? })
    }

    pub(super) fn each_with_system_and_tools(&self, dialogues: Vec<Vec<Message>>) -> Parsed<Vec<Dialogue>> {
        dialogues.into_iter().map(|messages| self.with_system_and_tools(messages)).collect()
    }

    /// `tools`: a list of descriptions, or such a list as JSON text.
    fn tools(&self) -> Parsed<Vec<Value>> {
        let Some(tools) = self.keys.get(TOOLS).filter(|tools| !is_empty(tools)) else { return Ok(Vec::new()) };
        let parsed = match tools {
            Value::String(text) => serde_json::from_str(text)
                .map_err(|error| format!("`{TOOLS}` is a text that is not JSON ({error}), expected a list of tools"))?,
            other => other.clone(),
        };
        let Value::Array(tools) = parsed else {
            return Err(format!("`{TOOLS}` is {}, expected a list of tools", a_value(&parsed)));
        };
        if let Some(index) = tools.iter().position(|tool| !tool.is_object()) {
            return Err(format!("`{TOOLS}[{index}]` is {}, expected a tool's description", a_value(&tools[index])));
        }
        Ok(tools)
    }

    /// `start` followed by one answer: a text, a message, or messages. Messages that repeat `start` are the
    /// whole dialogue.
    pub(super) fn continued(&self, start: &[Message], value: &Value, key: &str) -> Parsed<Vec<Message>> {
        let rest = match value {
            // If the prompt is a transcript, the space after `Assistant:` is not part of the answer.
            Value::String(text) if self.has_transcript_prompt() && !is_whole_transcript(text) => {
                vec![Message::new(Role::Assistant, text.trim())]
            }
            // A whole dialogue, which must begin with the prompt.
            Value::String(text) if is_whole_transcript(text) => transcript(text, key)?,
            Value::String(text) => vec![Message::new(Role::Assistant, text)],
            Value::Object(_) => vec![self.turns.message(value, key)?],
            list => self.turns.list(list, key)?,
        };
        let is_same = |(one, other): (&Message, &Message)| one.is_same_turn(other);
        let repeats = !start.is_empty() && rest.len() >= start.len() && rest.iter().zip(start).all(is_same);
        if !repeats && rest.first().is_some_and(|message| message.role != Role::Assistant) {
            return Err(format!("`{key}` begins with another turn than the prompt or an answer, expected either"));
        }
        let answer = if repeats { &rest[start.len()..] } else { &rest[..] };
        let whole = [start, answer].concat();
        // A response of `align generate` may be empty except for its end token.
        let is_generated = self.kind == Kind::Response && is_generated(self.keys);
        if is_generated && whole.last().is_some_and(Message::is_empty_answer) {
            Ok(whole)
        } else {
            answered(whole, key)
        }
    }

    fn has_transcript_prompt(&self) -> bool {
        QUESTION.iter().any(|key| self.map.get(*key).and_then(Value::as_str).is_some_and(is_transcript))
    }

    /// `start` with each of several answers.
    pub(super) fn each_continued(&self, start: &[Message], answers: &[Value]) -> Parsed<Vec<Dialogue>> {
        let dialogues = answers.iter().enumerate();
        let each = |(index, answer)| {
            self.with_system_and_tools(self.continued(start, answer, &format!("responses[{index}]"))?)
        };
        dialogues.map(each).collect()
    }

    /// A whole dialogue: messages or a transcript.
    pub(super) fn whole(&self, value: &Value, key: &str) -> Parsed<Vec<Message>> {
        let messages = match value {
            Value::String(text) => {
                let turns = transcript(text, key)?;
                no_empty_answers(&turns, key)?;
                turns
            }
            list => self.turns.list(list, key)?,
        };
        answered(messages, key)
    }

    pub(super) fn wrong_shape(&self) -> String {
        wrong_shape(self.map, self.kind)
    }
}

pub(super) fn answered(messages: Vec<Message>, key: &str) -> Parsed<Vec<Message>> {
    match messages.last() {
        Some(last) if last.role != Role::Assistant => {
            Err(format!("`{key}` ends with a turn of role `{}`, expected an answer", last.role.name()))
        }
        Some(last) if last.is_empty_answer() => Err(format!("`{key}` is empty, expected an answer")),
        Some(_) => Ok(messages),
        None => Err(format!("`{key}` is empty, expected an answer")),
    }
}

pub(super) fn list<'a>(value: &'a Value, key: &str, of: &str) -> Parsed<&'a [Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("`{key}` is {}, expected a list of {of}", a_value(value)))
}

//! Splits a chat template's output into turns, each with its role and its text.
//!
//! Text that spells a control token must stay text, but a template joins everything into one string. So such
//! text is replaced by placeholders before rendering, and restored after the template's own control tokens
//! have been found.

use std::borrow::Cow;

use serde_json::Value;

use super::turns::Ending;
use super::{Dialogue, Message, Role};
use crate::template::Template;
use crate::tokenizer::Tokenizer;

/// A turn as a template formats it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn<'a> {
    pub(super) role: Role,
    /// The text after the role's line: the content, and what the template adds to it.
    pub(super) text: Cow<'a, str>,
    /// Whether it ends with `<|im_end|>`; a generation prompt does not.
    pub(super) is_closed: bool,
}

/// A template's output for a dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) turns: Vec<Turn<'static>>,
    /// Whether a newline follows the last `<|im_end|>`.
    pub(super) ends_with_newline: bool,
}

/// Placeholders begin and end with these. They are Unicode noncharacters, which text must not contain.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';
const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

/// Renders a dialogue and splits it into turns.
///
/// # Errors
/// Why it cannot be rendered, or is not ChatML, as one line.
pub(super) fn render(
    template: &Template,
    tokenizer: &Tokenizer,
    dialogue: &Dialogue,
    ending: Ending,
) -> Result<Rendered, String> {
    let placeholders = Placeholders { tokenizer };
    let text = template.render(&placeholders.dialogue(dialogue)?, ending == Ending::Prompt)?;
    let mut rendered = parse(&text)?;
    if rendered.turns.last().is_some_and(|turn| !turn.is_closed) != (ending == Ending::Prompt) {
        return Err(format!("the chat template writes {}, expected every turn closed by {END}", shown(&text)));
    }
    for turn in &mut rendered.turns {
        if tokenizer.spells_special(&turn.text) {
            return Err(format!(
                "the chat template writes a control token inside a turn ({}), expected ChatML",
                shown(&turn.text)
            ));
        }
        turn.text = placeholders.restore(&turn.text).into();
    }
    Ok(rendered)
}

/// Parses a sequence of `<|im_start|>ROLE\nTEXT<|im_end|>\n`.
fn parse(text: &str) -> Result<Rendered, String> {
    let wrong = || format!("the chat template writes {}, expected ChatML", shown(text));
    let (mut rest, mut turns, mut ends_with_newline) = (text, Vec::new(), false);
    while !rest.is_empty() {
        let inside = rest.strip_prefix(START).ok_or_else(wrong)?;
        let (inside, closed) = match inside.split_once(END) {
            Some((inside, after)) => (inside, Some(after)),
            None => (inside, None),
        };
        let (role, content) = inside.split_once('\n').ok_or_else(wrong)?;
        let role = Role::of(role).ok_or_else(wrong)?;
        turns.push(Turn { role, text: content.to_owned().into(), is_closed: closed.is_some() });
        let after = closed.unwrap_or_default();
        ends_with_newline = after.starts_with('\n');
        rest = after.strip_prefix('\n').unwrap_or(after);
        if !ends_with_newline && !rest.is_empty() {
            return Err(wrong());
        }
    }
    Ok(Rendered { turns, ends_with_newline })
}

struct Placeholders<'a> {
    tokenizer: &'a Tokenizer,
}

impl Placeholders<'_> {
    fn dialogue(&self, dialogue: &Dialogue) -> Result<Dialogue, String> {
        let messages = dialogue.messages.iter().map(|message| {
            Ok(Message {
                content: self.text(&message.content)?,
                reasoning: message.reasoning.as_deref().map(|text| self.text(text)).transpose()?,
                tool_calls: self.values(&message.tool_calls)?,
                name: message.name.as_deref().map(|text| self.text(text)).transpose()?,
                ..message.clone()
            })
        });
        Ok(Dialogue { messages: messages.collect::<Result<_, String>>()?, tools: self.values(&dialogue.tools)? })
    }

    fn values(&self, values: &[Value]) -> Result<Vec<Value>, String> {
        values.iter().map(|value| self.value(value)).collect()
    }

    fn value(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(values) => Value::Array(self.values(values)?),
            Value::Object(values) => {
                let pair = |(key, value): (&String, &Value)| Ok((self.text(key)?, self.value(value)?));
                Value::Object(values.iter().map(pair).collect::<Result<_, String>>()?)
            }
            other => other.clone(),
        })
    }

    /// Replaces the control tokens in a text by placeholders.
    fn text(&self, text: &str) -> Result<String, String> {
        if text.contains([OPEN, CLOSE]) {
            return Err(format!(
                "a text has U+{:04X} or U+{:04X}, expected none of these noncharacters",
                OPEN as u32, CLOSE as u32
            ));
        }
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        for found in self.tokenizer.specials_in(text) {
            out.push_str(&text[at..found.start]);
            out.push(OPEN);
            // Its bytes in hexadecimal: nothing that a template searches for.
            text[found.clone()].bytes().for_each(|byte| out.push_str(&format!("{byte:02x}")));
            out.push(CLOSE);
            at = found.end;
        }
        out.push_str(&text[at..]);
        Ok(out)
    }

    fn restore(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, inside)) = rest.split_once(OPEN) {
            let (digits, after) = inside.split_once(CLOSE).unwrap_or((inside, ""));
            let byte = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).filter_map(byte).collect();
            out.push_str(before);
            out.push_str(&String::from_utf8_lossy(&bytes));
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

/// A text for a message: quoted on one line, and clipped.
pub(super) fn shown(text: &str) -> String {
    const CHARS: usize = 200;
    let clipped: String = text.chars().take(CHARS).collect();
    let more = if clipped.len() < text.len() { " …" } else { "" };
    format!("{clipped:?}{more}")
}

//! The turns of a dialogue, as a checkpoint formats them.

use std::borrow::Cow;

use super::probes::Capabilities;
use super::rendered::{Turn, render, shown};
use super::{ChatFormat, Dialogue, EMPTY_THINK, Message, Role};

/// How the turns of a dialogue end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With the dialogue's last turn.
    LastTurn,
    /// With the generation prompt: the beginning of an answer.
    Prompt,
}

/// Markup in a text that may make a template change it.
const MARKS: [&str; 3] = ["<think>", "</think>", "<tool_response>"];

impl ChatFormat {
    /// The turns of a dialogue that begins with its system message, as the checkpoint formats them.
    pub(super) fn turns<'a>(
        &self,
        dialogue: &'a Dialogue,
        ending: Ending,
    ) -> std::result::Result<Vec<Turn<'a>>, String> {
        let Some(template_info) = &self.inner.template_info else {
            Capabilities::default().check(dialogue)?;
            return Ok(self.plain_turns(dialogue, ending));
        };
        if !template_info.differs_on_plain_turns && is_plain(dialogue) {
            return Ok(self.plain_turns(dialogue, ending));
        }
        template_info.supports.check(dialogue)?;
        let turns = render(&template_info.template, &self.inner.tokenizer, dialogue, ending)?.turns;
        let answers = dialogue.messages.iter().filter(|message| message.role == Role::Assistant).count();
        let written = turns.iter().filter(|turn| turn.is_closed && turn.role == Role::Assistant).count();
        if written != answers {
            let text: String = turns.iter().map(|turn| turn.text.as_ref()).collect();
            let what = format!("the chat template writes {written} assistant turns ({})", shown(&text));
            return Err(format!("{what}, expected one for each of {answers} answers"));
        }
        Ok(turns)
    }

    /// The turns of a text-only dialogue.
    fn plain_turns<'a>(&self, dialogue: &'a Dialogue, ending: Ending) -> Vec<Turn<'a>> {
        let last = dialogue.messages.len().wrapping_sub(1);
        let turn = |(index, message): (usize, &'a Message)| {
            let is_last_answer = index == last && message.role == Role::Assistant && ending == Ending::LastTurn;
            let text = match is_last_answer && self.inner.think.is_some() {
                true => Cow::Owned(format!("{EMPTY_THINK}{}", message.content.trim_start_matches('\n'))),
                false => Cow::Borrowed(message.content.as_str()),
            };
            Turn { role: message.role, text, is_closed: true }
        };
        let asked = (ending == Ending::Prompt).then(|| {
            let text = if self.inner.think.is_some() { EMPTY_THINK } else { "" };
            Turn { role: Role::Assistant, text: text.into(), is_closed: false }
        });
        dialogue.messages.iter().enumerate().map(turn).chain(asked).collect()
    }
}

/// Whether a dialogue is text only, without anything that templates treat specially.
fn is_plain(dialogue: &Dialogue) -> bool {
    let is_plain = |message: &Message| {
        message.role != Role::Tool
            && message.reasoning.is_none()
            && message.tool_calls.is_empty()
            && !MARKS.iter().any(|mark| message.content.contains(mark))
    };
    dialogue.tools.is_empty()
        && dialogue.messages.iter().all(is_plain)
        && dialogue.messages.iter().any(|message| message.role == Role::User)
}

/// Whether a text's leading white space contains a line break.
pub(super) fn begins_with_newline(text: &str) -> bool {
    text[..text.len() - text.trim_start().len()].contains(['\n', '\r'])
}

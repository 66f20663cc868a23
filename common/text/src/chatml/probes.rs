//! Probe dialogues that reveal what a chat template does.

use serde_json::json;

use super::rendered::render;
use super::turns::Ending;
use super::{Dialogue, Message, Role};
use crate::template::Template;
use crate::tokenizer::Tokenizer;

fn user(content: &str) -> Message {
    Message::new(Role::User, content)
}

fn assistant(content: &str) -> Message {
    Message::new(Role::Assistant, content)
}

/// Plain dialogues on which a template must agree, and how their output ends.
pub(super) fn plain() -> Vec<(Dialogue, Ending)> {
    let system = Message::new(Role::System, "Answer in one word.");
    let short = vec![user("What is the capital of France?"), assistant("Paris.")];
    let long = [&short[..], &[user("And of Japan,\nplease?"), assistant("东京 (Tokyo)")]].concat();
    let with_system = [&[system], &long[..]].concat();
    let probes = [
        (short.clone(), Ending::LastTurn),
        (long.clone(), Ending::LastTurn),
        (with_system.clone(), Ending::LastTurn),
        (short[..1].to_vec(), Ending::Prompt),
        (long[..3].to_vec(), Ending::Prompt),
        (with_system[..4].to_vec(), Ending::Prompt),
    ];
    probes.map(|(messages, ending)| (messages.into(), ending)).into()
}

/// Text-only dialogues that templates format differently: leading and trailing white space, several turns of
/// one speaker in a row, a dialogue that begins with an answer, a system message in between, a last turn that
/// is not an answer, empty texts, markup.
pub(super) fn extended() -> Vec<(Dialogue, Ending)> {
    let probes = [
        (vec![user("  spaces \t"), assistant(" around them \n\n")], Ending::LastTurn),
        (
            vec![
                user("\n\nline breaks\r\n"),
                assistant("\n\n around them \n"),
                user("\nmore"),
                assistant("\n\nof them"),
            ],
            Ending::LastTurn,
        ),
        (vec![user("one"), assistant("first"), assistant("second"), assistant("third")], Ending::LastTurn),
        (vec![user("one"), user("two"), assistant("both")], Ending::LastTurn),
        (vec![assistant("Hello!"), user("Hi."), assistant("What can I do?")], Ending::LastTurn),
        (
            vec![user("one"), assistant("two"), Message::new(Role::System, "Be brief."), user("three"), assistant("4")],
            Ending::LastTurn,
        ),
        (vec![user("one"), assistant("two"), user("three")], Ending::LastTurn),
        (vec![user(""), assistant("An empty question.")], Ending::LastTurn),
        (
            vec![user("<b> & {{ x }} {% y %} 'quoted' \"twice\" \\n"), assistant("<answer>\u{a0}é</answer>")],
            Ending::LastTurn,
        ),
        (vec![Message::new(Role::System, ""), user("one"), assistant("two")], Ending::LastTurn),
        (vec![user("  spaces \n"), assistant("\n x \n"), user(" y \n")], Ending::Prompt),
        (vec![assistant("Hello!"), user("one"), user("two")], Ending::Prompt),
    ];
    probes.map(|(messages, ending)| (messages.into(), ending)).into()
}

/// The system text that a template inserts into a dialogue without one; "" for none.
pub(super) fn system_of(template: &Template, tokenizer: &Tokenizer) -> Result<String, String> {
    let rendered = render(template, tokenizer, &[user("Hi.")].into(), Ending::Prompt)?;
    let first = rendered.turns.into_iter().next().filter(|turn| turn.role == Role::System);
    Ok(first.map_or_else(String::new, |turn| turn.text.into_owned()))
}

/// What a template supports besides text. It would silently drop anything else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) reasoning: bool,
    pub(super) tools: bool,
    pub(super) tool_calls: bool,
    pub(super) tool_answers: bool,
}

impl Capabilities {
    /// Renders dialogues with markers and searches the output for them.
    pub(super) fn of(template: &Template, tokenizer: &Tokenizer) -> Self {
        const MARK: &str = "zyxwv";
        const ANSWER: &str = "utsrq";
        let writes = |dialogue: Dialogue, marks: &[&str]| {
            let text = render(template, tokenizer, &dialogue, Ending::LastTurn)
                .map(|rendered| rendered.turns.iter().map(|turn| turn.text.as_ref()).collect::<String>());
            text.is_ok_and(|text| marks.iter().all(|mark| text.contains(mark)))
        };
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let tool =
            json!({"type": "function", "function": {"name": MARK, "description": "weather", "parameters": parameters}});
        let call = json!({"type": "function", "function": {"name": MARK, "arguments": {"city": "Oslo"}}});
        let calls = Message { tool_calls: vec![call], ..assistant("") };
        let reasons = Message { reasoning: Some(MARK.to_owned()), ..assistant("4") };
        let asked = || user("How is it?");
        let tools = Dialogue { messages: vec![asked(), assistant("Fine.")], tools: vec![tool] };
        Self {
            reasoning: writes([asked(), reasons].into(), &[MARK]),
            tools: writes(tools, &[MARK, "weather", "city"]),
            tool_calls: writes([asked(), calls.clone()].into(), &[MARK, "Oslo"]),
            tool_answers: writes([asked(), calls, Message::new(Role::Tool, ANSWER)].into(), &[ANSWER]),
        }
    }

    /// Checks that the template supports everything in a dialogue.
    ///
    /// # Errors
    /// What it does not support, as one line.
    pub(super) fn check(&self, dialogue: &Dialogue) -> Result<(), String> {
        let any = |has: fn(&Message) -> bool| dialogue.messages.iter().any(has);
        let needs = [
            (self.tools, !dialogue.tools.is_empty(), "`tools`", "tool descriptions"),
            (self.tool_calls, any(|message| !message.tool_calls.is_empty()), "`tool_calls`", "tool calls"),
            (self.tool_answers, any(|message| message.role == Role::Tool), "a turn of role `tool`", "tool results"),
            (self.reasoning, any(|message| message.reasoning.is_some()), "`reasoning_content`", "reasoning"),
        ];
        match needs.into_iter().find(|(supports, has, ..)| *has && !supports) {
            None => Ok(()),
            Some((_, _, key, what)) => Err(format!(
                "{key}: the checkpoint has no chat template that writes {what}, expected a text-only dialogue (or a checkpoint whose template does)"
            )),
        }
    }
}

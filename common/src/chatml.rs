//! Conversations as ChatML: `<|im_start|>ROLE\nCONTENT<|im_end|>\n`, as token ids with the loss mask.
//!
//! Role, newline and content are tokenized as separate spans in every family, so a token never straddles structure and
//! content, and the mask is exact. Control tokens are inserted by id. Families whose template puts an empty think block
//! before the last answer (Qwen3) get it as one structure span, without loss; its rules for earlier reasoning are mirrored.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};
use crate::template::Template;
use crate::tokenizer::Tokenizer;

/// The system text that is inserted where a dialogue brings none, unless a config or flag says otherwise: that of Qwen's own
/// chat template.
pub const SYSTEM: &str = "You are a helpful assistant.";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions that a dialogue stands under.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As ChatML writes it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said, verbatim.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Which tokens of a dialogue are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossOn {
    /// Every answer and its `<|im_end|>`. Qwen report §3.1.1: no loss on system and user inputs.
    #[default]
    Assistant,
    /// What Qwen's published fine-tuning script trains: also `<|im_start|>`, `<|im_end|>` and the newline of every turn.
    QwenFinetune,
}

/// A dialogue as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// (T) token ids.
    pub tokens: Vec<i64>,
    /// (T) whether token t is a target. The first token never is: nothing predicts it.
    pub loss_mask: Vec<bool>,
    /// Index of the last assistant turn's `<|im_end|>`; of the last `<|im_end|>` where no assistant speaks.
    pub end: usize,
}

/// The rendering of one checkpoint's dialogues. Cheap to clone, shared between threads.
#[derive(Debug, Clone)]
pub struct ChatFormat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tokenizer: Tokenizer,
    system: String,
    newline: Vec<i64>,
    /// The roles' names, in the order of [`Role`].
    roles: [Vec<i64>; 3],
    /// Tokens of the empty think block, where the family has one.
    think: Option<Vec<i64>>,
}

/// What Qwen3 writes before an answer without reasoning.
const EMPTY_THINK: &str = "<think>\n\n</think>\n\n";

impl ChatFormat {
    /// The chat format of the checkpoint in `dir`. Its chat template, where there is one, is rendered on plain dialogues and
    /// compared. `system` is inserted where a dialogue does not begin with a system message; "" inserts none.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the template cannot be rendered or says something else than ChatML, with both renderings.
    pub fn open(dir: &Path, tokenizer: &Tokenizer, system: &str) -> Result<Self> {
        let Some(template) = Template::open(dir)? else { return Ok(Self::new(tokenizer, system, false)) };
        let plain = Self::new(tokenizer, system, false);
        let Err(difference) = plain.compare(&template)? else { return Ok(plain) };
        let thinking = Self::new(tokenizer, system, true);
        if thinking.compare(&template)?.is_ok() { Ok(thinking) } else { Err(difference) }
    }

    fn new(tokenizer: &Tokenizer, system: &str, think: bool) -> Self {
        let think = think.then(|| tokenizer.encode(EMPTY_THINK));
        let newline = tokenizer.encode("\n");
        let roles = [Role::System, Role::User, Role::Assistant].map(|role| tokenizer.encode(role.name()));
        Self(Arc::new(Inner { tokenizer: tokenizer.clone(), system: system.to_owned(), newline, roles, think }))
    }

    /// `Ok(Err(…))` says how the template differs; `Err` that it cannot be rendered.
    fn compare(&self, template: &Template) -> Result<std::result::Result<(), Error>> {
        for (messages, generation_prompt) in probes() {
            let messages = self.with_system(&messages);
            let theirs = template.render(&messages, generation_prompt)?;
            let ours = if generation_prompt {
                self.prompt(&messages)
            } else {
                self.dialogue(&messages, LossOn::Assistant).tokens
            };
            let ours = self.0.tokenizer.decode(&ours);
            if ours != theirs {
                let advice = if self.0.system.is_empty() { "; a `data.system` text may help" } else { "" };
                let what = format!("the chat template writes {theirs:?}, expected ChatML {ours:?}{advice}");
                return Ok(Err(Error::invalid(template.file().display(), what)));
            }
        }
        Ok(Ok(()))
    }

    /// A whole dialogue, to the newline after the last `<|im_end|>`.
    pub fn dialogue(&self, messages: &[Message], loss_on: LossOn) -> Encoded {
        let messages = self.with_system(messages);
        let mut out = Writer::default();
        let mut end: Option<(usize, bool)> = None;
        for (index, message) in messages.iter().enumerate() {
            let answer = message.role == Role::Assistant;
            let structure = loss_on == LossOn::QwenFinetune;
            self.open_turn(&mut out, message.role, structure);
            let (think, content) = self.answer_parts(&messages, index);
            out.push(think, false);
            out.push(&self.0.tokenizer.encode(content), answer);
            out.push(&[self.0.tokenizer.special().im_end], answer || structure);
            if answer || end.is_none_or(|(_, of_answer)| !of_answer) {
                end = Some((out.tokens.len() - 1, answer));
            }
            out.push(&self.0.newline, structure);
        }
        if let Some(first) = out.loss_mask.first_mut() {
            *first = false;
        }
        Encoded { tokens: out.tokens, loss_mask: out.loss_mask, end: end.map_or(0, |(at, _)| at) }
    }

    /// A dialogue for the reward model: ends exactly at the last assistant turn's `<|im_end|>`, so that the scored token is
    /// the last one. What follows that turn is left out.
    pub fn scored(&self, messages: &[Message]) -> Encoded {
        let last = messages.iter().rposition(|message| message.role == Role::Assistant);
        let messages = last.map_or(messages, |last| &messages[..=last]);
        let mut encoded = self.dialogue(messages, LossOn::Assistant);
        encoded.tokens.truncate(encoded.end + 1);
        encoded.loss_mask.truncate(encoded.end + 1);
        encoded
    }

    /// A dialogue to be answered: ends with `<|im_start|>assistant\n`, and the empty think block where the family has it.
    pub fn prompt(&self, messages: &[Message]) -> Vec<i64> {
        let mut out = Writer::default();
        let messages = self.with_system(messages);
        for (index, message) in messages.iter().enumerate() {
            self.open_turn(&mut out, message.role, false);
            // The answer to come is the last one, so every answer here is an earlier one.
            let content = if self.0.think.is_some() { earlier_content(&messages, index) } else { &message.content };
            out.push(&self.0.tokenizer.encode(content), false);
            out.push(&[self.0.tokenizer.special().im_end], false);
            out.push(&self.0.newline, false);
        }
        self.open_turn(&mut out, Role::Assistant, false);
        out.push(self.0.think.as_deref().unwrap_or_default(), false);
        out.tokens
    }

    fn open_turn(&self, out: &mut Writer, role: Role, loss_on_start: bool) {
        out.push(&[self.0.tokenizer.special().im_start], loss_on_start);
        out.push(&self.0.roles[role as usize], false);
        out.push(&self.0.newline, false);
    }

    /// The structure span before a turn's content, and the content as the family renders it.
    fn answer_parts<'a>(&'a self, messages: &'a [Message], index: usize) -> (&'a [i64], &'a str) {
        let message = &messages[index];
        let Some(think) = &self.0.think else { return (&[], &message.content) };
        let last_user = messages.iter().rposition(|message| message.role == Role::User);
        let is_last_answer =
            message.role == Role::Assistant && index + 1 == messages.len() && last_user.is_none_or(|user| user < index);
        match is_last_answer {
            // Reasoning that the row brings along stays, in place of the empty block.
            true if message.content.contains("</think>") => (&[], &message.content),
            true => (think, message.content.trim_start_matches('\n')),
            false => (&[], earlier_content(messages, index)),
        }
    }

    /// Who speaks in a dialogue's turns as they are rendered: an inserted system message included.
    pub fn speakers(&self, messages: &[Message]) -> Vec<Role> {
        self.with_system(messages).iter().map(|message| message.role).collect()
    }

    fn with_system(&self, messages: &[Message]) -> Vec<Message> {
        let has_system = messages.first().is_some_and(|message| message.role == Role::System);
        let inserted = (!has_system && !self.0.system.is_empty()).then(|| Message::new(Role::System, &self.0.system));
        inserted.into_iter().chain(messages.iter().cloned()).collect()
    }

    /// The ids at which generation stops: `<|im_end|>` and `<|endoftext|>`.
    pub fn stop_ids(&self) -> Vec<i64> {
        let special = self.0.tokenizer.special();
        vec![special.im_end, special.endoftext]
    }

    /// The system text that is inserted; "" for none.
    pub fn system(&self) -> &str {
        &self.0.system
    }

    /// The tokenizer that the format writes with.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// What the score contract records: with equal tokenizers and system texts, equal descriptions render dialogues alike.
    pub fn describe(&self) -> serde_json::Value {
        json!({ "format": "chatml", "empty_think_block": self.0.think.is_some() })
    }
}

/// Qwen3 drops the reasoning of answers that are not the last.
fn earlier_content(messages: &[Message], index: usize) -> &str {
    let message = &messages[index];
    match message.content.rsplit_once("</think>") {
        Some((_, answer)) if message.role == Role::Assistant => answer.trim_start_matches('\n'),
        _ => &message.content,
    }
}

#[derive(Default)]
struct Writer {
    tokens: Vec<i64>,
    loss_mask: Vec<bool>,
}

impl Writer {
    fn push(&mut self, tokens: &[i64], loss: bool) {
        self.tokens.extend_from_slice(tokens);
        self.loss_mask.resize(self.tokens.len(), loss);
    }
}

/// Plain dialogues on which a template must agree, and whether they ask for the generation prompt.
fn probes() -> Vec<(Vec<Message>, bool)> {
    let user = |content: &str| Message::new(Role::User, content);
    let assistant = |content: &str| Message::new(Role::Assistant, content);
    let system = Message::new(Role::System, "Answer in one word.");
    let short = vec![user("What is the capital of France?"), assistant("Paris.")];
    let long = [&short[..], &[user("And of Japan,\nplease?"), assistant("东京 (Tokyo)")]].concat();
    let with_system = [&[system], &long[..]].concat();
    vec![
        (short.clone(), false),
        (long.clone(), false),
        (with_system.clone(), false),
        (short[..1].to_vec(), true),
        (long[..3].to_vec(), true),
        (with_system[..4].to_vec(), true),
    ]
}

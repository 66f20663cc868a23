//! Conversations as ChatML: `<|im_start|>ROLE\nCONTENT<|im_end|>\n`, as token ids with the loss mask.
//!
//! Role, newline and content are tokenized as separate spans in every family, so a token never straddles structure and
//! content, and the mask is exact. Control tokens are inserted by id.
//!
//! The checkpoint's chat template is the judge of what a dialogue looks like. Plain turns are written here, after the template has been
//! compared on dialogues of every kind; where a dialogue holds reasoning, tools or their calls, or where the template writes plain turns
//! in its own way, it is rendered for every row, and its text taken apart into turns (`chatml/rendered.rs`). An empty think block that the family
//! puts before an answer (Qwen3) is structure, without loss.

mod dialogue;
mod probes;
mod rendered;
mod scoring;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::template::Template;
use crate::tokenizer::Tokenizer;
use align_core::error::{Error, Result};

pub use dialogue::{Dialogue, Message, Role};
use probes::{Knows, extended, plain, system_of};
use rendered::{Turn, render, shown};

/// The system text that is inserted where a dialogue brings none, unless a config or flag says otherwise: that of Qwen's own
/// chat template.
pub const SYSTEM: &str = "You are a helpful assistant.";

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

/// Stands for the template's own system text where a config or a flag names one.
pub const TEMPLATES_SYSTEM: &str = "template";

/// At which token a dialogue is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreAt {
    /// The last answer's `<|im_end|>`: where `align rm` trains.
    #[default]
    End,
    /// The last token that the chat template writes: where programs train that tokenize its whole text (TRL among them).
    Last,
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
    /// Index of the last answer's first token, behind an empty think block; of what stands at the end where no assistant speaks.
    pub answer: usize,
    /// Whether a turn's text begins with a line break: programs that tokenize the template's whole text join it with the line break
    /// behind the role, and get other ids.
    pub begins_with_newline: bool,
}

/// The rendering of one checkpoint's dialogues. Cheap to clone, shared between threads.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    inner: Arc<Inner>,
    score_at: ScoreAt,
}

#[derive(Debug)]
struct Inner {
    tokenizer: Tokenizer,
    system: String,
    newline: Vec<i64>,
    /// The roles' names, in the order of [`Role`].
    roles: [Vec<i64>; 4],
    /// Tokens of the empty think block, where the family has one.
    think: Option<Vec<i64>>,
    judge: Option<Judge>,
}

/// The checkpoint's template, and what is known of it.
#[derive(Debug)]
struct Judge {
    template: Template,
    /// The system text that it writes where a dialogue has none; "" for none.
    system: String,
    knows: Knows,
    /// Whether it writes plain turns in a way of its own, so that it is asked for every dialogue.
    writes_its_own_way: bool,
    /// Whether a newline follows the last `<|im_end|>`.
    ends_with_newline: bool,
}

/// What Qwen3 writes before an answer without reasoning.
const EMPTY_THINK: &str = "<think>\n\n</think>\n\n";

/// What may make a template write a turn in another way than its text alone.
const MARKS: [&str; 3] = ["<think>", "</think>", "<tool_response>"];

impl ChatFormat {
    /// The chat format of the checkpoint in `dir`. Its chat template, where there is one, is rendered on plain dialogues and
    /// compared. `system` is inserted where a dialogue does not begin with a system message; "" inserts none, and
    /// [`TEMPLATES_SYSTEM`] the one that the template would write.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the template cannot be rendered or says something else than ChatML, with both renderings.
    pub fn open(dir: &Path, tokenizer: &Tokenizer, system: &str) -> Result<Self> {
        let Some(template) = Template::open(dir)? else {
            let system = if system == TEMPLATES_SYSTEM { "" } else { system };
            return Ok(Self::new(tokenizer, system, false, None));
        };
        let refused = |what: String| Error::invalid(template.file().display(), what);
        let own_system = system_of(&template, tokenizer);
        let system = match (&own_system, system) {
            (Ok(own), TEMPLATES_SYSTEM) => own.as_str(),
            (Err(what), TEMPLATES_SYSTEM) => return Err(refused(what.clone())),
            (_, system) => system,
        };
        let written = Self::new(tokenizer, system, false, None);
        let thinking = Self::new(tokenizer, system, true, None);
        let format = match written.compare(&template, plain()).map_err(refused)? {
            None => written,
            Some(_) if thinking.compare(&template, plain()).map_err(refused)?.is_none() => thinking,
            Some((theirs, ours)) => {
                let advice = if system.is_empty() {
                    format!(
                        "; a system text (data.system, --system), or \"{TEMPLATES_SYSTEM}\" for the template's own, may help"
                    )
                } else {
                    String::new()
                };
                return Err(refused(format!("the chat template writes {theirs:?}, expected ChatML {ours:?}{advice}")));
            }
        };
        let judge = Judge {
            system: own_system.clone().unwrap_or_default(),
            knows: Knows::of(&template, tokenizer),
            writes_its_own_way: !matches!(format.compare(&template, extended()), Ok(None)),
            ends_with_newline: render(&template, tokenizer, &plain().swap_remove(0).0, false)
                .is_ok_and(|rendered| rendered.ends_with_newline),
            template,
        };
        Ok(Self::new(tokenizer, system, format.inner.think.is_some(), Some(judge)))
    }

    fn new(tokenizer: &Tokenizer, system: &str, think: bool, judge: Option<Judge>) -> Self {
        let think = think.then(|| tokenizer.encode(EMPTY_THINK));
        let newline = tokenizer.encode("\n");
        let roles = Role::ALL.map(|role| tokenizer.encode(role.name()));
        let inner = Inner { tokenizer: tokenizer.clone(), system: system.to_owned(), newline, roles, think, judge };
        Self { inner: Arc::new(inner), score_at: ScoreAt::End }
    }

    /// The same format, in which dialogues are scored at another token.
    #[must_use]
    pub fn scored_at(self, score_at: ScoreAt) -> Self {
        Self { score_at, ..self }
    }

    /// `Some` has what the template writes, and what is written here, where they differ; `Err` says that it cannot be rendered.
    fn compare(
        &self,
        template: &Template,
        probes: Vec<(Dialogue, bool)>,
    ) -> std::result::Result<Option<(String, String)>, String> {
        for (dialogue, generation_prompt) in probes {
            let dialogue = self.with_system(&dialogue);
            // Of a vocabulary that lacks bytes no row has such a text.
            if dialogue.texts().any(|text| self.inner.tokenizer.lacks(text).is_some()) {
                continue;
            }
            let theirs = template.render(&dialogue, generation_prompt)?;
            let tokens = if generation_prompt {
                self.prompt(&dialogue)?
            } else {
                self.dialogue(&dialogue, LossOn::Assistant)?.tokens
            };
            let mut ours = self.inner.tokenizer.decode(&tokens);
            // Templates of reward models may end where they are scored.
            if !theirs.ends_with('\n') && !generation_prompt {
                ours.pop();
            }
            if ours != theirs {
                return Ok(Some((theirs, ours)));
            }
        }
        Ok(None)
    }

    /// A whole dialogue, to the newline after the last `<|im_end|>`.
    ///
    /// # Errors
    /// Why this checkpoint has no way to write it, as one line: it has no template for what the dialogue holds, or the template fails.
    pub fn dialogue(&self, dialogue: &Dialogue, loss_on: LossOn) -> std::result::Result<Encoded, String> {
        let dialogue = self.with_system(dialogue);
        let turns = self.turns(&dialogue, false)?;
        self.check_texts(&turns)?;
        let mut answers = dialogue.messages.iter().filter(|message| message.role == Role::Assistant);
        let mut out = Writer::default();
        let mut end: Option<(usize, bool)> = None;
        let mut answer_start = None;
        for turn in &turns {
            let answer = (turn.role == Role::Assistant).then(|| answers.next()).flatten();
            let is_trained = answer.is_some_and(|answer| answer.is_trained);
            let is_whole = answer.is_none_or(|answer| answer.is_whole);
            let structure = loss_on == LossOn::QwenFinetune && (answer.is_none() || is_trained);
            self.open_turn(&mut out, turn.role, structure);
            let text_start = self.write_text(&mut out, &turn.text, is_trained);
            answer_start = answer.map(|_| text_start).or(answer_start);
            out.push(&[self.inner.tokenizer.special().im_end], (is_trained || structure) && is_whole);
            if answer.is_some() || end.is_none_or(|(_, of_answer)| !of_answer) {
                end = Some((out.tokens.len() - 1, answer.is_some()));
            }
            out.push(&self.inner.newline, structure);
        }
        if let Some(first) = out.loss_mask.first_mut() {
            *first = false;
        }
        Ok(Encoded {
            tokens: out.tokens,
            loss_mask: out.loss_mask,
            end: end.map_or(0, |(at, _)| at),
            answer: answer_start.unwrap_or(end.map_or(0, |(at, _)| at)),
            begins_with_newline: turns.iter().any(|turn| begins_with_newline(&turn.text)),
        })
    }

    /// A dialogue for the reward model. It ends with the token at which it is scored: the last assistant turn's `<|im_end|>`, or the
    /// last token that the template writes. What follows that turn is left out.
    ///
    /// # Errors
    /// As [`ChatFormat::dialogue`].
    pub fn scored(&self, dialogue: &Dialogue) -> std::result::Result<Encoded, String> {
        let last = dialogue.messages.iter().rposition(|message| message.role == Role::Assistant);
        let whole = last.map_or_else(|| dialogue.clone(), |last| dialogue.up_to(last + 1));
        let mut encoded = self.dialogue(&whole, LossOn::Assistant)?;
        let length = encoded.end + 1 + self.behind_the_end().len();
        encoded.tokens.truncate(length);
        encoded.loss_mask.truncate(length);
        Ok(encoded)
    }

    /// The tokens between a dialogue's last `<|im_end|>` and the token at which it is scored, that one included.
    pub fn behind_the_end(&self) -> &[i64] {
        let writes_newline = self.inner.judge.as_ref().is_none_or(|judge| judge.ends_with_newline);
        if self.score_at == ScoreAt::Last && writes_newline { &self.inner.newline } else { &[] }
    }

    /// A dialogue to be answered: ends with `<|im_start|>assistant\n`, and the empty think block where the family has it.
    ///
    /// # Errors
    /// As [`ChatFormat::dialogue`].
    pub fn prompt(&self, dialogue: &Dialogue) -> std::result::Result<Vec<i64>, String> {
        let mut out = Writer::default();
        let dialogue = self.with_system(dialogue);
        let turns = self.turns(&dialogue, true)?;
        self.check_texts(&turns)?;
        for turn in turns {
            self.open_turn(&mut out, turn.role, false);
            self.write_text(&mut out, &turn.text, false);
            if turn.is_closed {
                out.push(&[self.inner.tokenizer.special().im_end], false);
                out.push(&self.inner.newline, false);
            }
        }
        Ok(out.tokens)
    }

    /// The turns of a dialogue that begins with its system message, as the checkpoint writes them.
    fn turns<'a>(&self, dialogue: &'a Dialogue, to_be_answered: bool) -> std::result::Result<Vec<Turn<'a>>, String> {
        let Some(judge) = &self.inner.judge else {
            Knows::default().check(dialogue)?;
            return Ok(self.plain_turns(dialogue, to_be_answered));
        };
        if !judge.writes_its_own_way && is_plain(dialogue) {
            return Ok(self.plain_turns(dialogue, to_be_answered));
        }
        judge.knows.check(dialogue)?;
        let turns = render(&judge.template, &self.inner.tokenizer, dialogue, to_be_answered)?.turns;
        let answers = dialogue.messages.iter().filter(|message| message.role == Role::Assistant).count();
        let written = turns.iter().filter(|turn| turn.is_closed && turn.role == Role::Assistant).count();
        if written != answers {
            let text: String = turns.iter().map(|turn| turn.text.as_ref()).collect();
            let what = format!("the chat template writes {written} assistant turns ({})", shown(&text));
            return Err(format!("{what}, expected one for each of {answers} answers"));
        }
        Ok(turns)
    }

    /// The turns of a dialogue that holds text alone.
    fn plain_turns<'a>(&self, dialogue: &'a Dialogue, to_be_answered: bool) -> Vec<Turn<'a>> {
        let last = dialogue.messages.len().wrapping_sub(1);
        let turn = |(index, message): (usize, &'a Message)| {
            let is_last_answer = index == last && message.role == Role::Assistant && !to_be_answered;
            let text = match is_last_answer && self.inner.think.is_some() {
                true => Cow::Owned(format!("{EMPTY_THINK}{}", message.content.trim_start_matches('\n'))),
                false => Cow::Borrowed(message.content.as_str()),
            };
            Turn { role: message.role, text, is_closed: true }
        };
        let asked = to_be_answered.then(|| {
            let text = if self.inner.think.is_some() { EMPTY_THINK } else { "" };
            Turn { role: Role::Assistant, text: text.into(), is_closed: false }
        });
        dialogue.messages.iter().enumerate().map(turn).chain(asked).collect()
    }

    /// Refuses texts that something would be lost of.
    fn check_texts(&self, turns: &[Turn<'_>]) -> std::result::Result<(), String> {
        turns.iter().try_for_each(|turn| self.inner.tokenizer.check(&turn.text))
    }

    fn open_turn(&self, out: &mut Writer, role: Role, loss_on_start: bool) {
        out.push(&[self.inner.tokenizer.special().im_start], loss_on_start);
        out.push(&self.inner.roles[role as usize], false);
        out.push(&self.inner.newline, false);
    }

    /// A turn's text. Of an answer, all is a target but the empty think block, which stands in the prompt where answers are sampled.
    /// Where the text begins behind that block.
    fn write_text(&self, out: &mut Writer, text: &str, is_target: bool) -> usize {
        let tokens = self.inner.tokenizer.encode(text);
        let block = self.inner.think.as_deref().filter(|_| text.starts_with(EMPTY_THINK)).unwrap_or_default();
        let shared = tokens.iter().zip(block).take_while(|(token, block)| token == block).count();
        out.push(&tokens[..shared], false);
        let start = out.tokens.len();
        out.push(&tokens[shared..], is_target);
        start
    }

    fn with_system(&self, dialogue: &Dialogue) -> Dialogue {
        let has_system = dialogue.messages.first().is_some_and(|message| message.role == Role::System);
        let inserted =
            (!has_system && !self.inner.system.is_empty()).then(|| Message::new(Role::System, &self.inner.system));
        Dialogue {
            messages: inserted.into_iter().chain(dialogue.messages.iter().cloned()).collect(),
            tools: dialogue.tools.clone(),
        }
    }

    /// The ids at which generation stops: `<|im_end|>` and `<|endoftext|>`.
    pub fn stop_ids(&self) -> Vec<i64> {
        let special = self.inner.tokenizer.special();
        vec![special.im_end, special.endoftext]
    }

    /// The system text that is inserted; "" for none.
    pub fn system(&self) -> &str {
        &self.inner.system
    }

    /// The system text that the checkpoint's template writes where a dialogue has none ("" for none), if that is another one than what
    /// is inserted here: whoever serves the checkpoint without a system message gets that one.
    pub fn other_system(&self) -> Option<&str> {
        let judge = self.inner.judge.as_ref()?;
        (judge.system != self.inner.system).then_some(judge.system.as_str())
    }

    /// What [`ChatFormat::other_system`] means for whoever trains, as one line; nothing where there is nothing to say.
    pub fn system_note(&self) -> Option<String> {
        let theirs = self.other_system()?;
        let quoted = |text: &str| if text.is_empty() { "none".to_owned() } else { shown(text) };
        let (own, theirs) = (quoted(self.system()), quoted(theirs));
        Some(format!(
            "where a dialogue has no system text, {own} is inserted; the checkpoint's chat template writes {theirs} there, and so do programs that serve the result (data.system = \"{TEMPLATES_SYSTEM}\" trains under the template's)"
        ))
    }

    /// At which token dialogues are scored.
    pub fn score_at(&self) -> ScoreAt {
        self.score_at
    }

    /// The tokenizer that the format writes with.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// What the score contract records: with equal tokenizers and system texts, equal descriptions render dialogues alike.
    pub fn describe(&self) -> serde_json::Value {
        json!({ "format": "chatml", "empty_think_block": self.inner.think.is_some() })
    }

    /// All that decides what becomes of a dialogue, for whoever keeps token lists.
    pub fn recipe(&self) -> serde_json::Value {
        let template = self.inner.judge.as_ref().map(|judge| judge.template.fingerprint());
        json!([self.tokenizer().fingerprint(), self.describe(), self.system(), template, self.score_at])
    }
}

/// Whether a dialogue holds nothing but text that no template treats in a special way.
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

/// Whether the white space at a text's beginning holds a line break.
fn begins_with_newline(text: &str) -> bool {
    text[..text.len() - text.trim_start().len()].contains(['\n', '\r'])
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

//! Dialogues as ChatML (`<|im_start|>ROLE\nCONTENT<|im_end|>\n`): token ids with the loss mask.
//!
//! Role, newline and content are tokenized as separate spans in every family. So no token straddles structure
//! and content, and the mask is exact. Control tokens are inserted by id.
//!
//! The checkpoint's chat template is the reference. This module writes plain turns itself, after comparing
//! its output with the template's on a set of probe dialogues. Every other dialogue (reasoning, tools, tool
//! calls), and every dialogue of a template that formats plain turns differently, is rendered by the template
//! and split into turns again (`chatml/rendered.rs`). The empty think block that Qwen3 puts before an answer
//! is structure and carries no loss.

mod encoded;
mod probes;
mod rendered;
mod scoring;
#[cfg(test)]
mod tests;
mod turns;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::template::Template;
use crate::tokenizer::Tokenizer;
use align_core::error::{Error, Result};

pub use crate::dialogue::{Dialogue, Message, Role};
pub use encoded::Encoded;
use encoded::Writer;
use probes::{Capabilities, extended, plain, system_of};
use rendered::{Turn, render, shown};
use turns::{Ending, begins_with_newline};

/// The default system text for dialogues without a system message: that of Qwen's own chat template.
pub const SYSTEM: &str = "You are a helpful assistant.";

/// Which tokens of a dialogue are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossOn {
    /// Every answer and its `<|im_end|>`. Qwen report §3.1.1: no loss on system and user inputs.
    #[default]
    Assistant,
    /// As in Qwen's published fine-tuning script: also `<|im_start|>`, `<|im_end|>` and the newline of every
    /// turn.
    QwenFinetune,
}

/// The value of a config key or flag that selects the template's own system text.
pub const TEMPLATES_SYSTEM: &str = "template";

/// At which token a dialogue is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreAt {
    /// The last answer's `<|im_end|>`, where `align rm` trains.
    #[default]
    End,
    /// The last token of the chat template's output, where programs train that tokenize the whole text (such
    /// as TRL).
    Last,
}

/// How dialogues are encoded for one checkpoint. Cheap to clone, shared between threads.
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
    /// Tokens of the roles' names, in the order of [`Role`].
    roles: [Vec<i64>; 4],
    /// Tokens of the empty think block, if the family has one.
    think: Option<Vec<i64>>,
    template_info: Option<ProbedTemplate>,
}

/// The checkpoint's template, and its probed properties.
#[derive(Debug)]
struct ProbedTemplate {
    template: Template,
    /// The system text that the template inserts into a dialogue without one; "" for none.
    system: String,
    supports: Capabilities,
    /// Whether the template formats plain turns differently from this module, so that it renders every
    /// dialogue.
    differs_on_plain_turns: bool,
    /// Whether a newline follows the last `<|im_end|>`.
    ends_with_newline: bool,
}

/// Qwen3's template puts this before an answer without reasoning.
const EMPTY_THINK: &str = "<think>\n\n</think>\n\n";

impl ChatFormat {
    /// The chat format of the checkpoint in `dir`. If it has a chat template, the two are compared on plain
    /// dialogues. `system` is inserted into dialogues that do not begin with a system message; "" inserts
    /// none, and [`TEMPLATES_SYSTEM`] the template's own.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the template cannot be rendered, or when its output is not the expected ChatML
    /// (with both).
    pub fn open(dir: &Path, tokenizer: &Tokenizer, system: &str) -> Result<Self> {
        let Some(template) = Template::open(dir)? else {
            let system = if system == TEMPLATES_SYSTEM { "" } else { system };
            return Ok(Self::new(tokenizer, system, None, None));
        };
        let refused = |what: String| Error::invalid(template.file().display(), what);
        let own_system = system_of(&template, tokenizer);
        let system = match (&own_system, system) {
            (Ok(own), TEMPLATES_SYSTEM) => own.as_str(),
            (Err(what), TEMPLATES_SYSTEM) => return Err(refused(what.clone())),
            (_, system) => system,
        };
        let written = Self::new(tokenizer, system, None, None);
        let thinking = Self::new(tokenizer, system, Some(tokenizer.encode(EMPTY_THINK)), None);
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
        let template_info = ProbedTemplate {
            system: own_system.clone().unwrap_or_default(),
            supports: Capabilities::of(&template, tokenizer),
            differs_on_plain_turns: !matches!(format.compare(&template, extended()), Ok(None)),
            ends_with_newline: render(&template, tokenizer, &plain().swap_remove(0).0, Ending::LastTurn)
                .is_ok_and(|rendered| rendered.ends_with_newline),
            template,
        };
        Ok(Self::new(tokenizer, system, format.inner.think.clone(), Some(template_info)))
    }

    /// `think` is as in [`Inner`].
    fn new(
        tokenizer: &Tokenizer,
        system: &str,
        think: Option<Vec<i64>>,
        template_info: Option<ProbedTemplate>,
    ) -> Self {
        let newline = tokenizer.encode("\n");
        let roles = Role::ALL.map(|role| tokenizer.encode(role.name()));
        let inner =
            Inner { tokenizer: tokenizer.clone(), system: system.to_owned(), newline, roles, think, template_info };
        Self { inner: Arc::new(inner), score_at: ScoreAt::End }
    }

    /// The same format, with another token at which dialogues are scored.
    #[must_use]
    pub fn scored_at(self, score_at: ScoreAt) -> Self {
        Self { score_at, ..self }
    }

    /// Compares the template's output with this module's. `Some((theirs, ours))` where they differ; `Err` if
    /// the template cannot be rendered.
    fn compare(
        &self,
        template: &Template,
        probes: Vec<(Dialogue, Ending)>,
    ) -> std::result::Result<Option<(String, String)>, String> {
        for (dialogue, ending) in probes {
            let dialogue = self.with_system(&dialogue);
            // A vocabulary may lack bytes of this text. Then rows cannot have it either.
            if dialogue.texts().any(|text| self.inner.tokenizer.lacks(text).is_some()) {
                continue;
            }
            let theirs = template.render(&dialogue, ending == Ending::Prompt)?;
            let tokens = match ending {
                Ending::Prompt => self.prompt(&dialogue)?,
                Ending::LastTurn => self.dialogue(&dialogue, LossOn::Assistant)?.tokens,
            };
            let mut ours = self.inner.tokenizer.decode(&tokens);
            // Templates of reward models may end at the scored token.
            if !theirs.ends_with('\n') && ending == Ending::LastTurn {
                ours.pop();
            }
            if ours != theirs {
                return Ok(Some((theirs, ours)));
            }
        }
        Ok(None)
    }

    /// Encodes a whole dialogue, up to the newline after the last `<|im_end|>`.
    ///
    /// # Errors
    /// Why this checkpoint cannot encode the dialogue, as one line: its template does not support the
    /// dialogue's contents, or fails.
    pub fn dialogue(&self, dialogue: &Dialogue, loss_on: LossOn) -> std::result::Result<Encoded, String> {
        let dialogue = self.with_system(dialogue);
        let turns = self.turns(&dialogue, Ending::LastTurn)?;
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

    /// Encodes a dialogue for the reward model. It ends with the token at which it is scored: the last
    /// assistant turn's `<|im_end|>`, or the last token that the template writes. Later turns are left out.
    ///
    /// # Errors
    /// As [`ChatFormat::dialogue`].
    pub fn scored(&self, dialogue: &Dialogue) -> std::result::Result<Encoded, String> {
        let last = dialogue.messages.iter().rposition(|message| message.role == Role::Assistant);
        let whole = last.map_or_else(|| dialogue.clone(), |last| dialogue.up_to(last + 1));
        let mut encoded = self.dialogue(&whole, LossOn::Assistant)?;
        let length = encoded.end + 1 + self.tokens_after_end().len();
        encoded.tokens.truncate(length);
        encoded.loss_mask.truncate(length);
        Ok(encoded)
    }

    /// The tokens after a dialogue's last `<|im_end|>`, up to and including the token at which it is scored.
    pub fn tokens_after_end(&self) -> &[i64] {
        let writes_newline =
            self.inner.template_info.as_ref().is_none_or(|template_info| template_info.ends_with_newline);
        if self.score_at == ScoreAt::Last && writes_newline { &self.inner.newline } else { &[] }
    }

    /// Encodes a dialogue to be answered: ends with `<|im_start|>assistant\n`, and the empty think block if
    /// the family has one.
    ///
    /// # Errors
    /// As [`ChatFormat::dialogue`].
    pub fn prompt(&self, dialogue: &Dialogue) -> std::result::Result<Vec<i64>, String> {
        let mut out = Writer::default();
        let dialogue = self.with_system(dialogue);
        let turns = self.turns(&dialogue, Ending::Prompt)?;
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

    /// Refuses texts that the tokenizer cannot represent.
    fn check_texts(&self, turns: &[Turn<'_>]) -> std::result::Result<(), String> {
        turns.iter().try_for_each(|turn| self.inner.tokenizer.check(&turn.text))
    }

    fn open_turn(&self, out: &mut Writer, role: Role, loss_on_start: bool) {
        out.push(&[self.inner.tokenizer.special().im_start], loss_on_start);
        out.push(&self.inner.roles[role as usize], false);
        out.push(&self.inner.newline, false);
    }

    /// Writes a turn's text and returns the index of its first token after an empty think block. That block
    /// is no target: it is part of the prompt when answers are sampled.
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

    /// The ids that end generation: `<|im_end|>` and `<|endoftext|>`.
    pub fn stop_ids(&self) -> Vec<i64> {
        let special = self.inner.tokenizer.special();
        vec![special.im_end, special.endoftext]
    }

    /// The system text that is inserted; "" for none.
    pub fn system(&self) -> &str {
        &self.inner.system
    }

    /// The template's own system text ("" for none), if it differs from the one that is inserted here.
    /// Programs that serve the checkpoint without a system message use the template's.
    pub fn other_system(&self) -> Option<&str> {
        let template_info = self.inner.template_info.as_ref()?;
        (template_info.system != self.inner.system).then_some(template_info.system.as_str())
    }

    /// A one-line note for the user if [`ChatFormat::other_system`] differs.
    pub fn system_note(&self) -> Option<String> {
        let theirs = self.other_system()?;
        let quoted = |text: &str| if text.is_empty() { "none".to_owned() } else { shown(text) };
        let (own, theirs) = (quoted(self.system()), quoted(theirs));
        Some(format!(
            "where a dialogue has no system text, {own} is inserted; the checkpoint's chat template inserts {theirs}, and so do programs that serve the result (data.system = \"{TEMPLATES_SYSTEM}\" trains with the template's)"
        ))
    }

    /// The token at which dialogues are scored.
    pub fn score_at(&self) -> ScoreAt {
        self.score_at
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// What the score contract records. With equal tokenizers and system texts, equal descriptions give equal
    /// encodings.
    pub fn describe(&self) -> serde_json::Value {
        json!({ "format": "chatml", "empty_think_block": self.inner.think.is_some() })
    }

    /// Everything that determines how a dialogue is encoded: the key for cached token ids.
    pub fn cache_key(&self) -> serde_json::Value {
        let template = self.inner.template_info.as_ref().map(|template_info| template_info.template.fingerprint());
        json!([self.tokenizer().fingerprint(), self.describe(), self.system(), template, self.score_at])
    }
}

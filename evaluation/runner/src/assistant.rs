//! A model as the assistant of a dialogue with tools.

use align_core::error::{Error, Result};
use align_text::chatml::{ChatFormat, Dialogue, Message};
use align_tools::agent::{self, Model};

use align_model::CausalLm;

use crate::write::{Drawing, Ended, Question, write};

/// Continues an assistant's turn: [`Model`] for [`align_tools::agent::run`].
pub struct Assistant<'a> {
    model: &'a CausalLm,
    format: &'a ChatFormat,
    context_length: usize,
    drawing: Drawing,
    /// The number of texts written so far: each has random numbers of its own.
    written: u64,
}

impl<'a> Assistant<'a> {
    /// Of a model that reads at most `context_length` tokens.
    pub fn new(model: &'a CausalLm, format: &'a ChatFormat, context_length: usize, drawing: Drawing) -> Self {
        Self { model, format, context_length, drawing: Drawing { samples: 1, ..drawing }, written: 0 }
    }

    /// The tokens of a dialogue up to its answer, and of the beginning of the answer.
    fn prompt(&self, messages: &[Message], prefix: &str) -> Result<Vec<i64>> {
        let dialogue = Dialogue { messages: messages.to_vec(), ..Dialogue::default() };
        let tokenizer = self.format.tokenizer();
        let prompt = self.format.prompt(&dialogue).and_then(|prompt| {
            let rest = tokenizer.encode_whole(prefix)?;
            Ok(prompt.into_iter().chain(rest).collect())
        });
        prompt.map_err(|what| Error::Failed(format!("the dialogue cannot be encoded: {what}")))
    }
}

impl Model for Assistant<'_> {
    fn generate(
        &mut self,
        messages: &[Message],
        prefix: &str,
        stops: &[String],
        max_tokens: usize,
    ) -> Result<agent::Written> {
        let prompt = self.prompt(messages, prefix)?;
        let room = self.context_length.saturating_sub(prompt.len());
        if room == 0 {
            return Ok(agent::Written { text: String::new(), ended: agent::Ended::Length });
        }
        let question = Question { prompt, stops, max_tokens: max_tokens.min(room), key: self.written };
        self.written += 1;
        let mut found = None;
        let mut on_done = |_: usize, _: usize, written| {
            found = Some(written);
            Ok(())
        };
        let tokenizer = self.format.tokenizer();
        write(self.model, tokenizer, Some(self.format), &[question], &self.drawing, &mut on_done)?;
        let written = found.expect("one answer to one question");
        let ended = match written.ended {
            Ended::Token => agent::Ended::EndToken,
            Ended::Stop => agent::Ended::StopText,
            Ended::Length => agent::Ended::Length,
        };
        Ok(agent::Written { text: written.text, ended })
    }
}

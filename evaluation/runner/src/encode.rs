//! Prompts and continuations as tokens.

use align_core::error::{Error, Result};
use align_tasks::task::{Ask, Item, Prompt};
use align_text::chatml::{ChatFormat, Dialogue};
use align_text::tokenizer::Tokenizer;

/// How prompts become tokens for one model.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How it reads dialogues; `None` refuses them.
    pub format: Option<&'a ChatFormat>,
    /// The number of tokens that the model reads at most; longer prompts lose their beginning.
    pub context_length: usize,
}

/// An item as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What comes before every continuation; never empty.
    pub prompt: Vec<i64>,
    /// Of [`Ask::Choose`].
    pub continuations: Vec<EncodedContinuation>,
    /// How many tokens the prompt lost at its beginning, to fit into the model's context.
    pub cut_tokens: usize,
}

/// A continuation as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedContinuation {
    /// What follows [`Encoded::prompt`].
    pub tokens: Vec<i64>,
    /// Tokens from here on are the continuation's; earlier ones are the prompt's, and differ because the
    /// tokenizer merges across the boundary. Nearly always 0.
    pub first_counted: usize,
}

impl Encoder<'_> {
    /// Encodes an item.
    ///
    /// White space at the end of a prompt goes to the continuations, and each is encoded together with the
    /// prompt, as in lm-evaluation-harness: a tokenizer may merge across the boundary.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a text cannot be encoded, or a dialogue without a chat format.
    pub fn encode(&self, item: &Item) -> Result<Encoded> {
        let (head, text) = self.parts(item).map_err(|what| Error::invalid(&item.id, what))?;
        let check = |text: &str| self.tokenizer.check(text).map_err(|what| Error::invalid(&item.id, what));
        check(&text)?;
        let mut encoded = match &item.ask {
            Ask::Generate { .. } => Encoded { prompt: self.whole(&head, &text), continuations: vec![], cut_tokens: 0 },
            Ask::Choose(choices) => {
                choices.iter().try_for_each(|choice| check(choice))?;
                self.with_continuations(&head, &text, choices)
            }
        };
        if encoded.prompt.is_empty() {
            // Something has to be read before the first token is predicted.
            encoded.prompt.push(self.tokenizer.special().endoftext);
        }
        let answer = match &item.ask {
            Ask::Generate { max_tokens, .. } => *max_tokens,
            // The last token is predicted, and not read.
            Ask::Choose(_) => encoded.continuations.iter().map(|choice| choice.tokens.len() - 1).max().unwrap_or(0),
        };
        let room = self.context_length.saturating_sub(answer).max(1);
        encoded.cut_tokens = encoded.prompt.len().saturating_sub(room);
        encoded.prompt.drain(..encoded.cut_tokens);
        Ok(encoded)
    }

    /// The whole prompt as text, with control tokens.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn text(&self, item: &Item) -> Result<String> {
        let (head, text) = self.parts(item).map_err(|what| Error::invalid(&item.id, what))?;
        Ok(self.tokenizer.decode(&head) + &text)
    }

    /// The tokens of a dialogue up to its answer (none for a text), and the text that follows them.
    fn parts(&self, item: &Item) -> std::result::Result<(Vec<i64>, String), String> {
        match &item.prompt {
            Prompt::Text(text) => Ok((Vec::new(), text.clone())),
            Prompt::Chat { messages, prefix } => {
                let format = self.format.ok_or("is a dialogue, expected a chat format for it")?;
                let dialogue = Dialogue { messages: messages.clone(), ..Dialogue::default() };
                Ok((format.prompt(&dialogue)?, prefix.clone()))
            }
        }
    }

    fn whole(&self, head: &[i64], text: &str) -> Vec<i64> {
        let mut tokens = head.to_vec();
        tokens.extend(self.tokenizer.encode(text));
        tokens
    }

    fn with_continuations(&self, head: &[i64], text: &str, choices: &[String]) -> Encoded {
        let kept = text.trim_end();
        let space = &text[kept.len()..];
        // A dialogue without a beginning of its answer ends with a line break of its template.
        let is_space = |token: &&i64| self.tokenizer.token(**token).chars().all(char::is_whitespace);
        let moved = if kept.is_empty() { head.iter().rev().take_while(is_space).count() } else { 0 };
        let (before, moved) = head.split_at(head.len() - moved);
        let context = self.whole(before, kept).len();
        let wholes: Vec<Vec<i64>> = choices
            .iter()
            .map(|choice| {
                let head: Vec<i64> = before.iter().chain(moved).copied().collect();
                self.whole(&head, &format!("{kept}{space}{choice}"))
            })
            .collect();
        let shortest = wholes.iter().map(Vec::len).min().unwrap_or(0);
        // One token at least is predicted, also when a tokenizer merges a whole choice into the prompt.
        let common = common_prefix(wholes.iter().map(Vec::as_slice)).min(context).min(shortest.saturating_sub(1));
        let prompt = wholes.first().map(|whole| whole[..common].to_vec()).unwrap_or_default();
        let continuation = |whole: Vec<i64>| EncodedContinuation {
            first_counted: context.min(whole.len().saturating_sub(1)) - common,
            tokens: whole[common..].to_vec(),
        };
        Encoded { prompt, continuations: wholes.into_iter().map(continuation).collect(), cut_tokens: 0 }
    }
}

/// How many tokens all of these sequences begin with.
pub(crate) fn common_prefix<'a>(mut sequences: impl Iterator<Item = &'a [i64]>) -> usize {
    let Some(first) = sequences.next() else { return 0 };
    sequences.fold(first.len(), |length, other| {
        first[..length].iter().zip(other).take_while(|(one, other)| one == other).count()
    })
}

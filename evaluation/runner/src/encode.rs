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
    /// How the words of a dialogue become tokens.
    pub words: Words,
    /// The number of tokens that the model reads at most; longer prompts lose their beginning.
    pub context_length: usize,
}

/// How the texts between a dialogue's control tokens become tokens. It makes a difference where a message, or
/// the beginning of an answer, begins with a line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// Role, line break and message apart, as in training.
    Apart,
    /// As one text, as in programs that tokenize what a chat template has written. Control tokens that a
    /// message spells stay text nevertheless.
    Joined,
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
                let head = format.prompt(&dialogue)?;
                Ok(match self.words {
                    Words::Apart => (head, prefix.clone()),
                    Words::Joined => self.joined(&head, prefix),
                })
            }
        }
    }

    /// A dialogue's tokens with every text between control tokens encoded as one. The last of these texts,
    /// with the beginning of the answer after it, remains text.
    fn joined(&self, head: &[i64], prefix: &str) -> (Vec<i64>, String) {
        let is_control = |token: &i64| self.tokenizer.is_control(*token);
        let end = head.iter().rposition(is_control).map_or(0, |last| last + 1);
        let mut tokens = Vec::with_capacity(head.len());
        for run in head[..end].chunk_by(|one, other| !is_control(one) && !is_control(other)) {
            match run {
                [control] if is_control(control) => tokens.push(*control),
                words => tokens.extend(self.tokenizer.encode(&self.tokenizer.decode(words))),
            }
        }
        (tokens, self.tokenizer.decode(&head[end..]) + prefix)
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

#[cfg(test)]
mod tests {
    use align_tasks::task::Judge;
    use align_text::chatml::{Message, Role};

    use super::*;
    use crate::write::tests::tokenizer;

    /// The tokens of a dialogue whose answer is begun, up to that beginning.
    fn tokens(words: Words, tokenizer: &Tokenizer, message: &str, prefix: &str, ask: Ask) -> Encoded {
        let dir = tempfile::tempdir().unwrap();
        let format = ChatFormat::open(dir.path(), tokenizer, "").unwrap();
        let encoder = Encoder { tokenizer, format: Some(&format), words, context_length: 1000 };
        let prompt = Prompt::Chat { messages: vec![Message::new(Role::User, message)], prefix: prefix.to_owned() };
        let judge = Judge::Text(vec![]);
        encoder.encode(&Item { id: "1".to_owned(), prompt, ask, judge }).unwrap()
    }

    #[test]
    fn joined_words_are_those_of_the_whole_text() {
        let tokenizer = tokenizer();
        let (start, end) = (tokenizer.special().im_start, tokenizer.special().im_end);
        // Control tokens are ids; a text between two of them is encoded at once, as transformers does.
        let expected = |message: &str, prefix: &str| {
            let turn = tokenizer.encode(&format!("user\n{message}"));
            let answer = tokenizer.encode(&format!("assistant\n{prefix}"));
            [&[start][..], &turn, &[end], &tokenizer.encode("\n"), &[start], &answer].concat()
        };
        let write = Ask::Generate { stops: vec![], max_tokens: 8 };
        for (message, prefix) in [("Hi.", ""), ("\n\nHi.\n", "\n```python\n"), (" <|im_end|>", "\n")] {
            let found = tokens(Words::Joined, &tokenizer, message, prefix, write.clone()).prompt;
            assert_eq!(found, expected(message, prefix), "{message:?} {prefix:?}");
        }
        // In training, two line breaks after each other are two tokens.
        let apart = tokens(Words::Apart, &tokenizer, "Hi.", "\n\nSo", write.clone()).prompt;
        assert_eq!(apart.len(), expected("Hi.", "\n\nSo").len() + 1);
        // The line break before a choice goes to the choice either way.
        let choose = Ask::Choose(vec![" A".to_owned(), " B".to_owned()]);
        let [joined, apart] =
            [Words::Joined, Words::Apart].map(|words| tokens(words, &tokenizer, "Hi.", "", choose.clone()));
        assert_eq!(joined, apart);
    }
}

//! Answers as texts: greedy or sampled, until a stop text.

use std::collections::HashMap;
use std::ops::ControlFlow;

use align_core::error::Result;
use align_core::random::{self, Purpose};
use align_model::CausalLm;
use align_model::generate::{Sampling, generate};
use align_tasks::task::{Ask, Item};
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How answers are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawing {
    /// Answers to each prompt.
    pub samples: usize,
    /// Softmax temperature; 0 takes the most probable token.
    pub temperature: f64,
    /// Mass of the tokens that are drawn from.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Answers that are decoded at once.
    pub rows: usize,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// With an end token of the model.
    Token,
    /// Before a stop text.
    Stop,
    /// At its maximum length: it is cut.
    Length,
}

/// A text that a model wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Without the stop text, and without control tokens.
    pub text: String,
    /// Number of tokens drawn.
    pub tokens: usize,
    /// Why it ended.
    pub ended: Ended,
}

/// A prompt to answer.
#[derive(Debug)]
pub struct Question<'a> {
    /// Its tokens.
    pub prompt: Vec<i64>,
    /// Texts that end the answer.
    pub stops: &'a [String],
    /// The longest answer, in tokens.
    pub max_tokens: usize,
    /// Selects the random numbers: an answer depends on no other question.
    pub key: u64,
}

impl<'a> Question<'a> {
    /// An item, when it asks for a text, and its prompt's tokens.
    pub fn new(item: &'a Item, prompt: &[i64]) -> Option<Self> {
        let Ask::Generate { stops, max_tokens } = &item.ask else { return None };
        let hash = Sha256::digest(item.id.as_bytes());
        let key = u64::from_le_bytes(hash[..8].try_into().expect("8 bytes"));
        Some(Self { prompt: prompt.to_vec(), stops, max_tokens: *max_tokens, key })
    }
}

/// The end tokens of texts that are no dialogues: as [`ChatFormat::stop_ids`].
fn stop_ids(tokenizer: &Tokenizer, format: Option<&ChatFormat>) -> Vec<i64> {
    let special = tokenizer.special();
    format.map_or_else(|| vec![special.im_end, special.endoftext], ChatFormat::stop_ids)
}

/// Answers questions; `on_done(question, sample, written)` receives each answer when it ends.
///
/// # Errors
/// As [`generate`].
pub fn write(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    format: Option<&ChatFormat>,
    questions: &[Question<'_>],
    drawing: &Drawing,
    on_done: &mut dyn FnMut(usize, usize, Written) -> Result<()>,
) -> Result<()> {
    let stop_ids = stop_ids(tokenizer, format);
    let sampling = Sampling {
        temperature: drawing.temperature,
        top_p: drawing.top_p,
        max_tokens: questions.iter().map(|question| question.max_tokens).max().unwrap_or(0),
        stop_ids: stop_ids.clone(),
        vocab: tokenizer.vocab_size(),
        record_nucleus: false,
    };
    let draws = |question: usize, sample: usize, position: usize| {
        random::uniform(drawing.seed, Purpose::Generate, questions[question].key, sample as u64, position as u64)
    };
    let mut begun: HashMap<(usize, usize), Answering> = HashMap::new();
    let mut failed = None;
    let mut take = |question: usize, sample: usize, token: i64| {
        let answering = begun.entry((question, sample)).or_default();
        let Some(written) = answering.push(token, tokenizer, &stop_ids, &questions[question]) else {
            return ControlFlow::Continue(());
        };
        begun.remove(&(question, sample));
        if let Err(error) = on_done(question, sample, written) {
            failed.get_or_insert(error);
        }
        ControlFlow::Break(())
    };
    let prompts: Vec<Vec<i64>> = questions.iter().map(|question| question.prompt.clone()).collect();
    generate(model, &prompts, drawing.samples, &sampling, drawing.rows, &draws, &mut take)?;
    failed.map_or(Ok(()), Err)
}

/// An answer that has not ended.
#[derive(Debug, Default)]
struct Answering {
    tokens: Vec<i64>,
}

impl Answering {
    /// Adds a token; the answer, if it ends with this token.
    fn push(
        &mut self,
        token: i64,
        tokenizer: &Tokenizer,
        stop_ids: &[i64],
        question: &Question<'_>,
    ) -> Option<Written> {
        self.tokens.push(token);
        let mut text = tokenizer.decode_text(&self.tokens);
        // A stop text may begin in the middle of a token, and end in another.
        let stops = question.stops.iter().filter(|stop| !stop.is_empty());
        let stop = stops.filter_map(|stop| text.find(stop.as_str())).min();
        let ended = match stop {
            Some(_) => Ended::Stop,
            None if stop_ids.contains(&token) => Ended::Token,
            None if self.tokens.len() >= question.max_tokens => Ended::Length,
            None => return None,
        };
        text.truncate(stop.unwrap_or(text.len()));
        Some(Written { text, tokens: self.tokens.len(), ended })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    /// The answer to tokens that come one by one, with its number of tokens and its end.
    fn answer(tokenizer: &Tokenizer, tokens: &[i64], stops: &[&str], max_tokens: usize) -> Option<Written> {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let question = Question { prompt: vec![], stops: &stops, max_tokens, key: 0 };
        let mut answering = Answering::default();
        let end = [tokenizer.special().im_end];
        tokens.iter().find_map(|token| answering.push(*token, tokenizer, &end, &question))
    }

    /// That of Qwen2.5.
    pub(crate) fn tokenizer() -> Tokenizer {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokenizer/qwen2_5/tokenizer.json.gz");
        let dir = tempfile::tempdir().unwrap();
        let mut to = std::fs::File::create(dir.path().join("tokenizer.json")).unwrap();
        std::io::copy(&mut GzDecoder::new(std::fs::File::open(file).unwrap()), &mut to).unwrap();
        Tokenizer::open(dir.path()).unwrap()
    }

    #[test]
    fn a_stop_text_may_begin_and_end_inside_tokens() {
        let tokenizer = tokenizer();
        let tokens = tokenizer.encode("So it is.\n\nObservation: 3, and on");
        for stop in ["Observation:", "servat", ".\n", " 3", "é"] {
            let found = answer(&tokenizer, &tokens, &[stop, ""], 1000);
            let text = tokenizer.decode(&tokens);
            let Some(at) = text.find(stop) else {
                assert_eq!(found, None);
                continue;
            };
            let found = found.unwrap();
            assert_eq!((found.text.as_str(), found.ended), (&text[..at], Ended::Stop));
            // It ends at the first token with which the stop text is complete.
            assert!(tokenizer.decode(&tokens[..found.tokens]).contains(stop));
            assert!(!tokenizer.decode(&tokens[..found.tokens - 1]).contains(stop));
        }
    }

    #[test]
    fn the_first_of_several_stop_texts_counts() {
        let tokenizer = tokenizer();
        let tokens = tokenizer.encode("one two three");
        let found = answer(&tokenizer, &tokens, &["three", "two t", "two"], 1000).unwrap();
        assert_eq!(found.text, "one ");
    }

    #[test]
    fn end_tokens_are_not_text_and_a_long_answer_is_cut() {
        let tokenizer = tokenizer();
        let mut tokens = tokenizer.encode("yes");
        tokens.push(tokenizer.special().im_end);
        let whole = answer(&tokenizer, &tokens, &["<|im_end|>"], 1000).unwrap();
        assert_eq!((whole.text.as_str(), whole.ended, whole.tokens), ("yes", Ended::Token, tokens.len()));
        let cut = answer(&tokenizer, &tokens, &[], 1).unwrap();
        assert_eq!((cut.tokens, cut.ended), (1, Ended::Length));
    }
}

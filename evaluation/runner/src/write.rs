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

/// Answers questions; `on_done(question, sample, written)` receives each answer when it ends. `on_token` is
/// called at every token.
///
/// # Errors
/// As [`generate`].
pub fn write(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    format: Option<&ChatFormat>,
    questions: &[Question<'_>],
    drawing: &Drawing,
    on_token: &mut dyn FnMut(),
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
    let mut begun: HashMap<(usize, usize), Vec<i64>> = HashMap::new();
    let mut failed = None;
    let mut take = |question: usize, sample: usize, token: i64| {
        on_token();
        let Question { stops, max_tokens, .. } = &questions[question];
        let tokens = begun.entry((question, sample)).or_default();
        tokens.push(token);
        let text = tokenizer.decode_text(tokens);
        // A stop text may begin in the middle of a token, and end in another.
        let stop = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
        let ended = match stop {
            _ if stop_ids.contains(&token) => Ended::Token,
            Some(_) => Ended::Stop,
            None if tokens.len() >= *max_tokens => Ended::Length,
            None => return ControlFlow::Continue(()),
        };
        let count = tokens.len();
        begun.remove(&(question, sample));
        let text = text[..stop.unwrap_or(text.len())].to_owned();
        if let Err(error) = on_done(question, sample, Written { text, tokens: count, ended }) {
            failed.get_or_insert(error);
        }
        ControlFlow::Break(())
    };
    let prompts: Vec<Vec<i64>> = questions.iter().map(|question| question.prompt.clone()).collect();
    generate(model, &prompts, drawing.samples, &sampling, drawing.rows, &draws, &mut take)?;
    failed.map_or(Ok(()), Err)
}

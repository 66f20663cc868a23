//! Sampling from a language model.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;

use tch::Tensor;

use crate::{CausalLm, Prefilled};
use align_core::error::Result;
use align_kernels::batch::FlatBatch;
use align_kernels::kv_cache::KvCache;
pub use align_kernels::sampling::Sampling;

/// One sampled response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Token ids, the one that ended it included.
    pub tokens: Vec<i64>,
    /// Whether a stop id ended it, rather than the length.
    pub ended: bool,
    /// The ids kept at each token, when [`Sampling::record_nucleus`] asks for them.
    pub nucleus: Vec<Vec<i64>>,
}

/// Samples `samples` responses to each prompt: `out[prompt][sample]`.
///
/// `draws(prompt, sample, position)` is uniform in [0, 1). At most `max_rows` responses are active at once;
/// waiting ones are admitted as others end. `on_token(prompt, sample, token)` receives every token as it is
/// drawn; [`ControlFlow::Break`] makes it the last one of its response, whose [`Response::ended`] stays
/// false.
///
/// # Errors
/// [`align_core::error::Error::Failed`] when the model's logits are non-finite.
#[allow(clippy::too_many_arguments)] // Each is independent of the others, and a struct for one call would say no more.
pub fn generate(
    model: &CausalLm,
    prompts: &[Vec<i64>],
    samples: usize,
    sampling: &Sampling,
    max_rows: usize,
    draws: &dyn Fn(usize, usize, usize) -> f64,
    on_token: &mut dyn FnMut(usize, usize, i64) -> ControlFlow<()>,
) -> Result<Vec<Vec<Response>>> {
    let responses = vec![vec![Response::default(); samples]; prompts.len()];
    if sampling.max_tokens == 0 || samples == 0 || prompts.is_empty() {
        return Ok(responses);
    }
    let max_rows = max_rows.clamp(1, prompts.len() * samples);
    let generator = Generator {
        model,
        prompts,
        samples,
        sampling,
        max_rows,
        draws,
        on_token,
        responses,
        cache: model.backbone.cache(max_rows),
        active: Vec::new(),
        waiting: VecDeque::new(),
        next_prompt: 0,
    };
    generator.run()
}

/// Continuous batching: prompts are prefilled, their responses wait for a row of the cache, are decoded token
/// by token, and make room for others when they end.
struct Generator<'a> {
    model: &'a CausalLm,
    prompts: &'a [Vec<i64>],
    /// Responses to each prompt.
    samples: usize,
    sampling: &'a Sampling,
    max_rows: usize,
    draws: &'a dyn Fn(usize, usize, usize) -> f64,
    on_token: &'a mut dyn FnMut(usize, usize, i64) -> ControlFlow<()>,
    responses: Vec<Vec<Response>>,
    cache: KvCache,
    /// One a row of the cache, in its order.
    active: Vec<ActiveSequence>,
    waiting: VecDeque<Waiting>,
    /// The first prompt that was not prefilled.
    next_prompt: usize,
}

/// A response that has not ended.
#[derive(Clone, Copy)]
struct ActiveSequence {
    prompt: usize,
    sample: usize,
    /// The token drawn last, not yet in the cache.
    last: i64,
    prompt_length: usize,
}

/// A response whose prompt was prefilled, and that has no row of the cache yet.
struct Waiting {
    sequence: ActiveSequence,
    prefilled: Rc<Prefilled>,
    /// The prompt's tokens in what was prefilled.
    range: Range<usize>,
}

impl Generator<'_> {
    fn run(mut self) -> Result<Vec<Vec<Response>>> {
        loop {
            self.admit()?;
            if self.active.is_empty() {
                return Ok(self.responses);
            }
            let is_running = self.decode()?;
            self.retire(&is_running);
        }
    }

    /// Fills free rows of the cache with waiting responses, and prefills more prompts when none wait. A few
    /// free rows are left free: every prefill reads all weights.
    fn admit(&mut self) -> Result<()> {
        let free = self.max_rows - self.cache.rows();
        if self.cache.rows() > 0 && free * REFILL < self.max_rows {
            return Ok(());
        }
        while self.cache.rows() < self.max_rows {
            if self.waiting.is_empty() && self.next_prompt < self.prompts.len() {
                self.prefill()?;
            }
            while self.cache.rows() < self.max_rows {
                let Some(Waiting { sequence, prefilled, range }) = self.waiting.pop_front() else { break };
                self.cache.push(&prefilled, &range);
                self.active.push(sequence);
            }
            if self.waiting.is_empty() && self.next_prompt == self.prompts.len() {
                break;
            }
        }
        Ok(())
    }

    /// Reads the next prompts in one pass and draws the first token of their responses.
    fn prefill(&mut self) -> Result<()> {
        let wanted = (self.max_rows - self.cache.rows()).div_ceil(self.samples);
        let first = self.next_prompt;
        self.next_prompt += prefill_count(&self.prompts[first..], wanted);
        let mut batch = FlatBatch::new();
        let (mut sequences, mut ends) = (Vec::new(), Vec::new());
        for prompt in first..self.next_prompt {
            let tokens = &self.prompts[prompt];
            assert!(!tokens.is_empty(), "prompt {prompt} has no tokens");
            batch.push(tokens, None);
            for sample in 0..self.samples {
                sequences.push(ActiveSequence { prompt, sample, last: 0, prompt_length: tokens.len() });
                ends.push(batch.len());
            }
        }
        let indices: Vec<i64> = ends.iter().map(|end| *end as i64 - 1).collect();
        let indices = Tensor::from_slice(&indices).to_device(self.model.device());
        let (hidden, prefilled) = self.model.backbone.prefill(&batch, &indices);
        let prefilled = Rc::new(prefilled);
        let is_running = self.draw(&mut sequences, &hidden)?;
        for ((sequence, end), _) in sequences.into_iter().zip(ends).zip(is_running).filter(|(_, runs)| *runs) {
            let range = end - sequence.prompt_length..end;
            self.waiting.push_back(Waiting { sequence, prefilled: Rc::clone(&prefilled), range });
        }
        Ok(())
    }

    /// One more token for every active response; true where it has not ended.
    fn decode(&mut self) -> Result<Vec<bool>> {
        let tokens: Vec<i64> = self.active.iter().map(|sequence| sequence.last).collect();
        let lengths: Vec<usize> = self.active.iter().map(|sequence| sequence.prompt_length).collect();
        let hidden = self.model.backbone.decode(&mut self.cache, &tokens, &lengths);
        let mut active = std::mem::take(&mut self.active);
        let is_running = self.draw(&mut active, &hidden);
        self.active = active;
        is_running
    }

    /// Draws the next token of each sequence from hidden states (R, D); true where its response has not
    /// ended.
    fn draw(&mut self, sequences: &mut [ActiveSequence], hidden: &Tensor) -> Result<Vec<bool>> {
        let logits = self.model.head().next_logits(hidden);
        let uniform = |row: usize| {
            let ActiveSequence { prompt, sample, .. } = sequences[row];
            (self.draws)(prompt, sample, self.responses[prompt][sample].tokens.len())
        };
        let samples = self.model.backbone.options.ops().sample(logits, self.sampling, &uniform)?;
        let mut is_running = Vec::with_capacity(sequences.len());
        for (sequence, sample) in sequences.iter_mut().zip(samples) {
            let response = &mut self.responses[sequence.prompt][sequence.sample];
            response.tokens.push(sample.token);
            response.nucleus.extend(sample.nucleus);
            response.ended = self.sampling.stop_ids.contains(&sample.token);
            let flow = (self.on_token)(sequence.prompt, sequence.sample, sample.token);
            sequence.last = sample.token;
            is_running.push(flow.is_continue() && !response.ended && response.tokens.len() < self.sampling.max_tokens);
        }
        Ok(is_running)
    }

    /// Frees the rows of responses that have ended; the last row takes the place of each.
    fn retire(&mut self, is_running: &[bool]) {
        for row in (0..is_running.len()).rev().filter(|&row| !is_running[row]) {
            self.cache.swap_remove(row);
            self.active.swap_remove(row);
        }
    }
}

/// Prompts are prefilled when at least one row in this many is free.
const REFILL: usize = 8;

/// Prompts are prefilled in passes of up to this many tokens.
const PREFILL_TOKENS: usize = 8192;

/// How many of `prompts` go in one pass: at least one, at most `wanted`.
fn prefill_count(prompts: &[Vec<i64>], wanted: usize) -> usize {
    let mut tokens = 0;
    let fitting = prompts.iter().take(wanted).take_while(|prompt| {
        tokens += prompt.len();
        tokens <= PREFILL_TOKENS
    });
    fitting.count().max(1)
}

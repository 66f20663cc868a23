//! Sampling from a language model.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use tch::Tensor;

use crate::{CausalLm, Prefilled};
use align_core::error::Result;
use align_kernels::batch::FlatBatch;
pub use align_kernels::sampling::Sampling;

/// What was sampled after one prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Token ids, the one that ended it included.
    pub tokens: Vec<i64>,
    /// Whether a stop id ended it, rather than the length.
    pub ended: bool,
    /// The ids kept at each token, when they were asked for.
    pub nucleus: Vec<Vec<i64>>,
}

/// Samples `samples` responses to each prompt: `out[prompt][sample]`.
///
/// `draws(prompt, sample, position)` is uniform in [0, 1). At most `max_rows` responses grow at once; waiting ones take the
/// place of those that end. `on_token(prompt, sample, token)` sees every token as it is drawn.
///
/// # Errors
/// [`align_core::error::Error::Failed`] when the model's logits are not numbers.
#[allow(clippy::too_many_arguments)] // Each is independent of the others, and a struct for one call would say no more.
pub fn generate(
    model: &CausalLm,
    prompts: &[Vec<i64>],
    samples: usize,
    sampling: &Sampling,
    max_rows: usize,
    draws: &dyn Fn(usize, usize, usize) -> f64,
    on_token: &mut dyn FnMut(usize, usize, i64),
) -> Result<Vec<Vec<Response>>> {
    let mut out = vec![vec![Response::default(); samples]; prompts.len()];
    if sampling.max_tokens == 0 || samples == 0 || prompts.is_empty() {
        return Ok(out);
    }
    let max_rows = max_rows.clamp(1, prompts.len() * samples);
    let mut cache = model.backbone.cache(max_rows);
    let mut growing: Vec<Growing> = Vec::new();
    let mut ready: VecDeque<(Growing, Rc<Prefilled>, Range<usize>)> = VecDeque::new();
    let mut next_prompt = 0;
    // Draws a token for each row; `true` where the row has not ended.
    let mut draw = |out: &mut Vec<Vec<Response>>, rows: &mut [Growing], hidden: &Tensor| -> Result<Vec<bool>> {
        let logits = model.head().next_logits(hidden);
        let sampled = model.backbone.options.ops().sample(logits, sampling, &|row| {
            let Growing { prompt, sample, .. } = rows[row];
            draws(prompt, sample, out[prompt][sample].tokens.len())
        })?;
        let mut goes_on = Vec::with_capacity(rows.len());
        for (row, sample) in rows.iter_mut().zip(sampled) {
            let response = &mut out[row.prompt][row.sample];
            response.tokens.push(sample.token);
            response.nucleus.extend(sample.nucleus);
            response.ended = sampling.stop_ids.contains(&sample.token);
            on_token(row.prompt, row.sample, sample.token);
            row.last = sample.token;
            goes_on.push(!response.ended && response.tokens.len() < sampling.max_tokens);
        }
        Ok(goes_on)
    };
    loop {
        // Waiting prompts are taken in some at a time: one by one, each would read all weights for itself.
        let free = max_rows - cache.rows();
        if cache.rows() == 0 || free * REFILL >= max_rows {
            while cache.rows() < max_rows && (!ready.is_empty() || next_prompt < prompts.len()) {
                if ready.is_empty() {
                    let wanted = (max_rows - cache.rows()).div_ceil(samples);
                    let taken = next_prompt..next_prompt + prefill_count(&prompts[next_prompt..], wanted);
                    next_prompt = taken.end;
                    let mut batch = FlatBatch::new();
                    let (mut rows, mut ends) = (Vec::new(), Vec::new());
                    for prompt in taken {
                        assert!(!prompts[prompt].is_empty(), "prompt {prompt} has no tokens");
                        batch.push(&prompts[prompt], None);
                        for sample in 0..samples {
                            rows.push(Growing { prompt, sample, last: 0, prompt_length: prompts[prompt].len() });
                            ends.push(batch.len() as i64 - 1);
                        }
                    }
                    let places = Tensor::from_slice(&ends).to_device(model.device());
                    let (hidden, prefilled) = model.backbone.prefill(&batch, &places);
                    let prefilled = Rc::new(prefilled);
                    let goes_on = draw(&mut out, &mut rows, &hidden)?;
                    for ((row, end), _) in rows.into_iter().zip(ends).zip(goes_on).filter(|(_, goes_on)| *goes_on) {
                        let end = end as usize + 1;
                        let range = end - row.prompt_length..end;
                        ready.push_back((row, Rc::clone(&prefilled), range));
                    }
                }
                while cache.rows() < max_rows {
                    let Some((row, prefilled, range)) = ready.pop_front() else { break };
                    cache.push(&prefilled, &range);
                    growing.push(row);
                }
            }
        }
        if growing.is_empty() {
            return Ok(out);
        }
        let tokens: Vec<i64> = growing.iter().map(|row| row.last).collect();
        let lengths: Vec<usize> = growing.iter().map(|row| row.prompt_length).collect();
        let hidden = model.backbone.decode(&mut cache, &tokens, &lengths);
        let goes_on = draw(&mut out, &mut growing, &hidden)?;
        for row in (0..goes_on.len()).rev().filter(|&row| !goes_on[row]) {
            cache.swap_remove(row);
            growing.swap_remove(row);
        }
    }
}

/// Waiting prompts are taken in when this part of the rows is free.
const REFILL: usize = 8;

/// Prompts are read in passes of up to this many tokens.
const PREFILL_TOKENS: usize = 8192;

/// A response that has not ended.
struct Growing {
    prompt: usize,
    sample: usize,
    /// The token drawn last, not yet in the cache.
    last: i64,
    prompt_length: usize,
}

/// How many of `prompts` go in one pass: at least one, at most `wanted`.
fn prefill_count(prompts: &[Vec<i64>], wanted: usize) -> usize {
    let mut tokens = 0;
    let fitting = prompts.iter().take(wanted).take_while(|prompt| {
        tokens += prompt.len();
        tokens <= PREFILL_TOKENS
    });
    fitting.count().max(1)
}

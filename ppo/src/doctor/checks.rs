//! The checks, in the order in which they can be made: text, sampling, evaluating, learning.

use std::collections::BTreeMap;

use align_core::progress::Progress;
use align_train::stage::doctor::{Check, max_abs_diff, single_sequence, to_host};

use super::*;
use crate::masked::{self, Table, mask};
use crate::trajectory::RolloutStats;

/// What the examination works with.
pub(super) struct Bed {
    pub(super) prompts: Vec<Vec<i64>>,
    pub(super) max_tokens: usize,
    pub(super) seed: u64,
    pub(super) temperature: f64,
    /// Whether log-probabilities are renormalised over the recorded nucleus.
    pub(super) nucleus: bool,
    pub(super) missing_end: (MissingEnd, f64),
    pub(super) normalize: Normalize,
    /// Whether the value model starts as the reward model.
    pub(super) shares_value: bool,
    /// Whether policy and reference compute in one dtype.
    pub(super) same_dtype: bool,
    /// How far logits of different batch shapes may be apart.
    pub(super) tolerance: f64,
    pub(super) end_id: i64,
    /// How the reward model reads responses.
    pub(super) reading: Reading,
    /// What is taken for granted of reward models that say nothing of themselves.
    pub(super) assumed: Vec<(&'static str, String)>,
    pub(super) pad_id: i64,
    pub(super) format: ChatFormat,
    /// The policy's folder, where its template is.
    pub(super) folder: PathBuf,
}

/// First tokens that are drawn for the comparison of the sampler with the softmax.
const DRAWS: usize = 2000;
const DRAWS_AT_ONCE: usize = 200;
/// A sampler that is right is called wrong once in a million times.
const LEAST_P: f64 = 1e-6;
/// How near to a token's edge of the cumulative distribution a draw may fall for rounding to change the
/// token.
const EDGE: f64 = 2e-3;

/// All checks.
pub(super) fn examine(subject: &mut dyn Subject, bed: &Bed, progress: &mut dyn Progress) -> Result<Vec<Check>> {
    progress.begin("examining", 6);
    let template = Check::template(&bed.folder, &bed.format, &|dialogue: &Dialogue| subject.prompt(dialogue))?;
    let mut checks = vec![template, tokenizers(subject)];
    checks.extend(bed.assumed.iter().map(|(key, assumed)| Check::new(key, assumed.as_str(), "that it is so", true)));
    let rollout = sample(subject, bed)?;
    progress.advance(1, "sampled tokens");
    checks.push(sampled_tokens(subject, bed, &rollout));
    progress.advance(1, "the sampler");
    checks.push(sampler(subject, bed)?);
    progress.advance(1, "each response alone");
    checks.extend(evaluation(subject, bed, &rollout));
    progress.advance(1, "ends");
    checks.push(inner_pad(subject, bed, &rollout));
    checks.push(end_values(subject, bed, &rollout));
    progress.advance(1, "a step");
    checks.extend(learning(subject, bed, &rollout)?);
    progress.advance(1, "");
    progress.end();
    Ok(checks)
}

fn tokenizers(subject: &dyn Subject) -> Check {
    let [policy, reward] = subject.tokenizers();
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let measured = format!("{} and {}", short(&policy), short(&reward));
    Check::new("policy and reward model have one tokenizer", measured, "equal", policy == reward)
}

fn draw(bed: &Bed, stream: u64, row: usize, position: usize) -> f64 {
    random::uniform(bed.seed, Purpose::Generate, u64::MAX - stream, row as u64, position as u64)
}

/// Two responses to every prompt.
fn sample(subject: &dyn Subject, bed: &Bed) -> Result<Rollout> {
    let draws = |prompt: usize, sample: usize, position: usize| draw(bed, 0, 2 * prompt + sample, position);
    let responses = subject.respond(&bed.prompts, 2, bed.max_tokens, &draws)?;
    Ok(Rollout { prompt_rows: (0..bed.prompts.len()).collect(), prompts: bed.prompts.clone(), samples: 2, responses })
}

/// Probabilities at a temperature, (R, V) by row; ids that no token uses left out.
fn softmax(subject: &dyn Subject, tokens: &[i64], from: usize, temperature: f64) -> Vec<Vec<f64>> {
    let _no_grad = tch::no_grad_guard();
    let policy = &subject.models().policy;
    let hidden = policy.hidden(&single_sequence(tokens), None);
    let hidden = hidden.narrow(0, from as i64, tokens.len() as i64 - from as i64);
    let logits = policy.head().logits(&hidden).to_kind(tch::Kind::Double);
    let width = subject.sampling().vocab.min(logits.size()[1]);
    let probabilities = (logits.narrow(1, 0, width) / temperature).softmax(-1, tch::Kind::Double);
    to_host(&probabilities).chunks(width as usize).map(<[f64]>::to_vec).collect()
}

/// The nucleus, ascending: ids and their cumulated mass.
fn nucleus(probabilities: &[f64], top_p: f64) -> Vec<(i64, f64)> {
    // Those below (1 − top-p) / V have less than 1 − top-p together, so none of them is needed.
    let least = (1.0 - top_p) / probabilities.len() as f64;
    let mut kept: Vec<usize> = (0..probabilities.len()).filter(|id| probabilities[*id] >= least).collect();
    if top_p < 1.0 {
        kept.sort_by(|&one, &other| probabilities[other].total_cmp(&probabilities[one]));
        let mut above = 0.0;
        let reached = kept.iter().position(|id| {
            above += probabilities[*id];
            above >= top_p
        });
        kept.truncate(reached.map_or(kept.len(), |last| last + 1));
        kept.sort_unstable();
    }
    let mut mass = 0.0;
    let cumulated = kept.into_iter().map(|id| {
        mass += probabilities[id];
        (id as i64, mass)
    });
    cumulated.collect()
}

/// Every sampled token against the distribution that the policy has, without its cache, at that place, and
/// the draw that was made.
fn sampled_tokens(subject: &dyn Subject, bed: &Bed, rollout: &Rollout) -> Check {
    let (mut wrong, mut tokens) = (0, 0);
    for (row, response) in rollout.responses.iter().enumerate() {
        let prompt = &rollout.prompts[row / 2];
        let sequence = [prompt.as_slice(), &response.tokens].concat();
        let probabilities = softmax(subject, &sequence, prompt.len() - 1, bed.temperature);
        for (position, (token, probabilities)) in response.tokens.iter().zip(&probabilities).enumerate() {
            let kept = nucleus(probabilities, subject.sampling().top_p);
            let aim = draw(bed, 0, row, position) * kept.last().map_or(0.0, |(_, mass)| *mass);
            let at = kept.iter().position(|(id, _)| id == token);
            let fits = at.is_some_and(|at| {
                let below = if at == 0 { 0.0 } else { kept[at - 1].1 };
                (below - EDGE..kept[at].1 + EDGE).contains(&aim)
            });
            // Rounding may swap neighbours of nearly one probability, or move the nucleus's edge.
            let probability = probabilities.get(*token as usize).copied().unwrap_or(0.0);
            let expected = kept.iter().find(|(_, mass)| aim < *mass).map_or(0.0, |(id, _)| probabilities[*id as usize]);
            wrong += usize::from(!fits && (probability - expected).abs() > EDGE * expected.max(1e-3));
            tokens += 1;
        }
    }
    let allowed = if bed.tolerance < 1e-3 { 0 } else { tokens / 5 };
    let measured = format!("{wrong} of {tokens} tokens differ");
    Check::new(
        "cached sampling draws what uncached logits give",
        measured,
        format!("at most {allowed}"),
        wrong <= allowed,
    )
}

/// χ² of many first tokens against the softmax at the temperature.
fn sampler(subject: &dyn Subject, bed: &Bed) -> Result<Check> {
    let name = "sampled tokens follow the softmax at the temperature (χ²)";
    let prompt = &bed.prompts[0];
    let probabilities = softmax(subject, prompt, prompt.len() - 1, bed.temperature).remove(0);
    let kept = nucleus(&probabilities, subject.sampling().top_p);
    let mass = kept.last().map_or(1.0, |(_, mass)| *mass);
    let mut counts: BTreeMap<i64, f64> = BTreeMap::new();
    for batch in 0..DRAWS / DRAWS_AT_ONCE {
        let draws = |_: usize, sample: usize, _: usize| draw(bed, 1, batch * DRAWS_AT_ONCE + sample, 0);
        for response in subject.respond(std::slice::from_ref(prompt), DRAWS_AT_ONCE, 1, &draws)? {
            *counts.entry(response.tokens[0]).or_default() += 1.0;
        }
    }
    // Tokens expected five times or more stand alone, the others together.
    let (mut statistic, mut cells, mut rest, mut rest_found) = (0.0, 0, 0.0, DRAWS as f64);
    let mut add = |expected: f64, found: f64| {
        statistic += (found - expected).powi(2) / expected;
        cells += 1;
    };
    for (id, _) in &kept {
        let expected = DRAWS as f64 * probabilities[*id as usize] / mass;
        if expected >= 5.0 {
            let found = counts.get(id).copied().unwrap_or(0.0);
            rest_found -= found;
            add(expected, found);
        } else {
            rest += expected;
        }
    }
    if rest >= 1.0 {
        add(rest, rest_found);
    } else if rest_found > 5.0 + 10.0 * rest {
        add(rest.max(1.0), rest_found); // Tokens that should hardly ever come.
    }
    if cells < 2 {
        return Ok(Check::new(name, "one token holds all probability", "nothing to compare", true));
    }
    let p = chi_square_p(statistic, f64::from(cells - 1));
    Ok(Check::new(name, format!("p = {p:.2e} over {cells} cells"), format!("at least {LEAST_P:.0e}"), p >= LEAST_P))
}

/// The upper tail of χ² by Wilson and Hilferty's cube root, good to a few percent where it matters here.
fn chi_square_p(statistic: f64, degrees: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees);
    let z = ((statistic / degrees).cbrt() - (1.0 - spread)) / spread.sqrt();
    normal_tail(z)
}

/// P(Z > z). Abramowitz and Stegun 26.2.17 for z ≥ 0, absolute error below 7.5e-8; beyond 5 the asymptotic
/// series' first term.
fn normal_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_tail(-z);
    }
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z > 5.0 {
        return density / z;
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    density * series.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t)
}

/// What each model says of one response, asked with that sequence alone.
struct Truth {
    policy: Vec<f64>,
    reference: Vec<f64>,
    values: Vec<f64>,
    score: f64,
}

fn truth(subject: &dyn Subject, bed: &Bed, prompt: &[i64], response: &Response) -> Truth {
    let _no_grad = tch::no_grad_guard();
    let models = subject.models();
    let sequence = [prompt, &response.tokens].concat();
    let before = prompt.len() as i64 - 1;
    let count = response.tokens.len() as i64;
    let logprobs = |model: &align_model::CausalLm| -> Vec<f64> {
        let hidden = model.hidden(&single_sequence(&sequence), None).narrow(0, before, count);
        let logits = model.head().logits(&hidden).to_kind(tch::Kind::Double) / bed.temperature; // (count, V)
        let taken = |row: usize| -> f64 {
            let logits = logits.get(row as i64);
            let over = if bed.nucleus {
                logits.index_select(0, &tch::Tensor::from_slice(&response.nucleus[row]).to_device(logits.device()))
            } else {
                logits.shallow_clone()
            };
            logits.double_value(&[response.tokens[row]]) - over.logsumexp([0i64], false).double_value(&[])
        };
        (0..count as usize).map(taken).collect()
    };
    let values = models.value_model.hidden(&single_sequence(&sequence), None).narrow(0, before, count);
    let mut scored = [bed.reading.prompts.get(prompt).map_or(prompt, Vec::as_slice), &response.tokens].concat();
    if scored.last() != Some(&bed.end_id) {
        scored.push(bed.end_id);
    }
    scored.extend(&bed.reading.tokens_after_end);
    let last = models.reward_model.hidden(&single_sequence(&scored), None).narrow(0, scored.len() as i64 - 1, 1);
    Truth {
        policy: logprobs(&models.policy),
        reference: logprobs(&models.ref_policy),
        values: to_host(&models.value_model.scalars(&values)),
        score: to_host(&models.reward_model.scalars(&last))[0],
    }
}

/// A rollout's log-probabilities and values, response after response.
struct Evaluated {
    old_logprobs: Vec<f64>,
    ref_logprobs: Vec<f64>,
    values: Vec<f64>,
}

impl Evaluated {
    fn new(subject: &dyn Subject, rollout: &Rollout) -> Self {
        let RolloutStats { old_logprobs, ref_logprobs, values, .. } = subject.evaluate(rollout);
        let response_mask = mask(&rollout.lengths());
        let flat = |table: &Table| masked::flat(table, &response_mask);
        Self { old_logprobs: flat(&old_logprobs), ref_logprobs: flat(&ref_logprobs), values: flat(&values) }
    }

    fn numbers(&self) -> [&Vec<f64>; 3] {
        [&self.old_logprobs, &self.ref_logprobs, &self.values]
    }
}

/// Log-probabilities, values and scores of the whole rollout against those of each response alone; the
/// reference against the policy; a second look against the first.
fn evaluation(subject: &dyn Subject, bed: &Bed, rollout: &Rollout) -> Vec<Check> {
    let (evaluated, scores) = (Evaluated::new(subject, rollout), subject.score(rollout));
    let truths: Vec<Truth> = rollout
        .responses
        .iter()
        .enumerate()
        .map(|(row, response)| truth(subject, bed, &rollout.prompts[row / 2], response))
        .collect();
    let all =
        |of: fn(&Truth) -> &Vec<f64>| truths.iter().flat_map(|truth| of(truth).iter().copied()).collect::<Vec<f64>>();
    let (policy, reference) = (&evaluated.old_logprobs, &evaluated.ref_logprobs);
    let expected_scores: Vec<f64> = truths.iter().map(|truth| truth.score).collect();
    // Values and scores are as large as the head makes them.
    let scale = expected_scores.iter().map(|score| score.abs()).fold(1.0, f64::max);
    let again = Evaluated::new(subject, rollout);
    let kl = max_abs_diff(policy, reference);
    let kl_limit = if bed.same_dtype { bed.tolerance / 10.0 } else { f64::INFINITY };
    vec![
        Check::compare(
            "log-probabilities do not depend on the batch",
            policy,
            &all(|truth| &truth.policy),
            bed.tolerance,
        ),
        Check::compare("nor do the reference's", reference, &all(|truth| &truth.reference), bed.tolerance),
        Check::compare(
            "values stand before their tokens",
            &evaluated.values,
            &all(|truth| &truth.values),
            scale * bed.tolerance,
        ),
        Check::compare("scores are read at the end token", &scores, &expected_scores, scale * bed.tolerance),
        Check::deterministic(&evaluated.numbers(), &again.numbers()),
        Check::new(
            "the KL is 0 before the first update",
            format!("{} log-ratios, at most {kl:.1e}", policy.len()),
            format!("at most {kl_limit:.0e}"),
            kl <= kl_limit,
        ),
    ]
}

/// A pad id inside a response is a token like any other.
fn inner_pad(subject: &dyn Subject, bed: &Bed, rollout: &Rollout) -> Check {
    let name = "a pad id inside a response counts as a token";
    let first = rollout.responses[0].tokens[0];
    let tokens = vec![first, bed.pad_id, first, bed.end_id];
    // Every token must be in its nucleus, whatever that is.
    let nucleus = vec![vec![first, bed.pad_id, bed.end_id]; if bed.nucleus { tokens.len() } else { 0 }];
    let response = Response { tokens, ended: true, nucleus };
    let expected = truth(subject, bed, &rollout.prompts[0], &response);
    let crafted = Rollout {
        prompt_rows: vec![0],
        prompts: vec![rollout.prompts[0].clone()],
        samples: 1,
        responses: vec![response],
    };
    let found = Evaluated::new(subject, &crafted);
    let apart = max_abs_diff(&found.old_logprobs, &expected.policy);
    let sound = found.old_logprobs.len() == 4 && found.values.len() == 4 && apart <= 10.0 * bed.tolerance;
    let measured = format!("{} log-probabilities, apart by {apart:.1e}", found.old_logprobs.len());
    Check::new(name, measured, format!("4, at most {:.0e}", 10.0 * bed.tolerance), sound)
}

/// The first value at an end token is the score there, shifted by the first rollout's mean.
fn end_values(subject: &mut dyn Subject, bed: &Bed, rollout: &Rollout) -> Check {
    let name = "the value at the end is the shifted score";
    let scores = subject.score(rollout);
    let ended = rollout.ended(bed.end_id);
    subject.shift_value_model(&scores, &ended);
    if !bed.shares_value {
        return Check::new(name, "the value model is not the reward model", "nothing to compare", true);
    }
    let adjusted = scores.iter().zip(&ended).map(|(score, ended)| match bed.missing_end {
        _ if *ended => *score,
        (MissingEnd::None, _) => *score,
        (MissingEnd::Subtract, value) => score - value,
        (MissingEnd::Replace, value) => value,
    });
    let mean = adjusted.sum::<f64>() / scores.len() as f64;
    let shift = if bed.normalize == Normalize::None { 0.0 } else { mean };
    let scale = scores.iter().map(|score| score.abs()).fold(1.0, f64::max);
    let expected: Vec<f64> = scores.iter().map(|score| score - shift).collect();
    let apart = max_abs_diff(&subject.end_values(rollout), &expected);
    let limit = scale * bed.tolerance;
    Check::new(
        name,
        format!("shift {:.4}, apart by {apart:.1e}", -shift),
        format!("at most {limit:.0e}"),
        apart <= limit,
    )
}

/// One learning step: its first ratio is 1, the policy moves, and reference and reward model do not.
fn learning(subject: &mut dyn Subject, bed: &Bed, rollout: &Rollout) -> Result<Vec<Check>> {
    let (before, scores) = (Evaluated::new(subject, rollout), subject.score(rollout));
    let metrics = subject.step(0)?;
    let (after, scores_after) = (Evaluated::new(subject, rollout), subject.score(rollout));
    let ratio = metrics.get("policy/ratio_max").unwrap_or(f64::NAN);
    let moved = max_abs_diff(&after.old_logprobs, &before.old_logprobs);
    let drifted = max_abs_diff(&after.ref_logprobs, &before.ref_logprobs);
    let rescored = max_abs_diff(&scores_after, &scores);
    let limit = if bed.tolerance < 1e-3 { 1e-5 } else { 1e-2 };
    Ok(vec![
        Check::new(
            "the first ratio is 1",
            format!("{ratio:.7}"),
            format!("1 ± {limit:.0e}"),
            (ratio - 1.0).abs() <= limit,
        ),
        Check::new("a step moves the policy", format!("by {moved:.1e}"), "more than 0", moved > 0.0),
        Check::new("the reference is frozen", format!("moved by {drifted:.1e}"), "0", drifted == 0.0),
        Check::new("the reward model is frozen", format!("moved by {rescored:.1e}"), "0", rescored == 0.0),
    ])
}

#[cfg(test)]
mod arithmetic {
    use super::*;

    #[test]
    fn tails_are_those_of_the_tables() {
        // Upper 5 % points: z 1.6449; χ² 3.841 (1), 18.307 (10), 124.342 (100).
        assert!((normal_tail(1.6449) - 0.05).abs() < 1e-5);
        assert!((normal_tail(-1.6449) - 0.95).abs() < 1e-5);
        for (statistic, degrees, within) in [(3.841, 1.0, 0.01), (18.307, 10.0, 0.002), (124.342, 100.0, 0.001)] {
            let p = chi_square_p(statistic, degrees);
            assert!((p - 0.05).abs() < within, "{p}");
        }
    }

    #[test]
    fn a_nucleus_ends_with_the_token_that_reaches_top_p() {
        let ids = |top_p| nucleus(&[0.15, 0.5, 0.05, 0.3], top_p).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(0.9), [0, 1, 3]);
        assert_eq!(ids(0.4), [1]);
        assert_eq!(ids(1.0), [0, 1, 2, 3]);
    }
}

//! The checks of sampling: tokens and their distribution against the logits of an uncached forward pass.

use std::collections::BTreeMap;

use align_train::stage::doctor::{Check, single_sequence, to_host};

use super::*;

/// Number of first tokens that are sampled to compare their frequencies with the softmax.
const DRAWS: usize = 2000;
const DRAWS_AT_ONCE: usize = 200;
/// The minimum p: a correct sampler fails once in a million runs.
const MIN_P: f64 = 1e-6;
/// The distance of a uniform number to an edge of the cumulative distribution below which rounding may change
/// the token.
const EDGE: f64 = 2e-3;

fn draw(setup: &Setup, stream: u64, row: usize, position: usize) -> f64 {
    random::uniform(setup.seed, Purpose::Generate, u64::MAX - stream, row as u64, position as u64)
}

/// Two responses to every prompt.
pub(super) fn sample(subject: &dyn Subject, setup: &Setup) -> Result<Rollout> {
    let draws = |prompt: usize, sample: usize, position: usize| draw(setup, 0, 2 * prompt + sample, position);
    let responses = subject.respond(&setup.prompts, 2, setup.max_tokens, &draws)?;
    Ok(Rollout {
        prompt_rows: (0..setup.prompts.len()).collect(),
        prompts: setup.prompts.clone(),
        samples: 2,
        responses,
    })
}

/// (R, V) probabilities at a temperature, by row, without ids beyond the vocabulary.
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

/// The nucleus: ids in ascending order, with their cumulative probabilities.
fn nucleus(probabilities: &[f64], top_p: f64) -> Vec<(i64, f64)> {
    // Tokens below (1 − top-p) / V have a total probability below 1 − top-p, so none of them is in the
    // nucleus.
    let threshold = (1.0 - top_p) / probabilities.len() as f64;
    let mut kept: Vec<usize> = (0..probabilities.len()).filter(|id| probabilities[*id] >= threshold).collect();
    if top_p < 1.0 {
        kept.sort_by(|&one, &other| probabilities[other].total_cmp(&probabilities[one]));
        let mut cumulative = 0.0;
        let reached = kept.iter().position(|id| {
            cumulative += probabilities[*id];
            cumulative >= top_p
        });
        kept.truncate(reached.map_or(kept.len(), |last| last + 1));
        kept.sort_unstable();
    }
    let mut mass = 0.0;
    let nucleus = kept.into_iter().map(|id| {
        mass += probabilities[id];
        (id as i64, mass)
    });
    nucleus.collect()
}

/// Compares every sampled token with the one that the same uniform number selects from the uncached
/// distribution.
pub(super) fn sampled_tokens(subject: &dyn Subject, setup: &Setup, rollout: &Rollout) -> Check {
    let (mut wrong, mut tokens) = (0, 0);
    for (row, response) in rollout.responses.iter().enumerate() {
        let prompt = &rollout.prompts[row / 2];
        let sequence = [prompt.as_slice(), &response.tokens].concat();
        let probabilities = softmax(subject, &sequence, prompt.len() - 1, setup.temperature);
        for (position, (token, probabilities)) in response.tokens.iter().zip(&probabilities).enumerate() {
            let kept = nucleus(probabilities, subject.sampling().top_p);
            let target = draw(setup, 0, row, position) * kept.last().map_or(0.0, |(_, mass)| *mass);
            let at = kept.iter().position(|(id, _)| id == token);
            let fits = at.is_some_and(|at| {
                let below = if at == 0 { 0.0 } else { kept[at - 1].1 };
                (below - EDGE..kept[at].1 + EDGE).contains(&target)
            });
            // Rounding may swap tokens of nearly equal probability, or move the cutoff of the nucleus.
            let probability = probabilities.get(*token as usize).copied().unwrap_or(0.0);
            let expected =
                kept.iter().find(|(_, mass)| target < *mass).map_or(0.0, |(id, _)| probabilities[*id as usize]);
            wrong += usize::from(!fits && (probability - expected).abs() > EDGE * expected.max(1e-3));
            tokens += 1;
        }
    }
    let allowed = if setup.tolerance < 1e-3 { 0 } else { tokens / 5 };
    let measured = format!("{wrong} of {tokens} tokens differ");
    Check::new(
        "cached sampling draws what uncached logits give",
        measured,
        format!("at most {allowed}"),
        wrong <= allowed,
    )
}

/// The χ² test of many first tokens against the softmax at the temperature.
pub(super) fn sampler(subject: &dyn Subject, setup: &Setup) -> Result<Check> {
    let name = "sampled tokens follow the softmax at the temperature (χ²)";
    let prompt = &setup.prompts[0];
    let probabilities = softmax(subject, prompt, prompt.len() - 1, setup.temperature).remove(0);
    let kept = nucleus(&probabilities, subject.sampling().top_p);
    let mass = kept.last().map_or(1.0, |(_, mass)| *mass);
    let mut counts: BTreeMap<i64, f64> = BTreeMap::new();
    for batch in 0..DRAWS / DRAWS_AT_ONCE {
        let draws = |_: usize, sample: usize, _: usize| draw(setup, 1, batch * DRAWS_AT_ONCE + sample, 0);
        for response in subject.respond(std::slice::from_ref(prompt), DRAWS_AT_ONCE, 1, &draws)? {
            *counts.entry(response.tokens[0]).or_default() += 1.0;
        }
    }
    // A cell for each token with an expected count of at least five, and one for all others.
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
        add(rest.max(1.0), rest_found); // Tokens with almost no probability were sampled.
    }
    if cells < 2 {
        return Ok(Check::new(name, "one token holds all probability", "nothing to compare", true));
    }
    let p = chi_square_p(statistic, f64::from(cells - 1));
    Ok(Check::new(name, format!("p = {p:.2e} over {cells} cells"), format!("at least {MIN_P:.0e}"), p >= MIN_P))
}

/// The upper tail of χ² by the cube root of Wilson and Hilferty, accurate to a few percent in the relevant
/// range.
fn chi_square_p(statistic: f64, degrees: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees);
    let z = ((statistic / degrees).cbrt() - (1.0 - spread)) / spread.sqrt();
    normal_tail(z)
}

/// P(Z > z). Abramowitz and Stegun 26.2.17 for z ≥ 0, absolute error below 7.5e-8; above 5 the first term of
/// the asymptotic series.
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

#[cfg(test)]
mod tests {
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

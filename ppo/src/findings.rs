//! Warning signs of a run, found in its metrics alone: one sentence each, with values and the step since
//! which it holds.
//!
//! A pathology must hold at the end. Metrics of held-out responses are not smoothed, since every evaluation
//! uses the same random numbers; those of training steps are means over five logged steps.

use align_run::metrics::Metrics;
use align_train::stage::Alert;

/// The logged metrics, by steps done, in order.
pub type Log = [(u64, Metrics)];

/// Logged training steps that are averaged, so that a single step is no finding. Our choice.
const WINDOW: usize = 5;
/// KL in nats per response that is a finding by itself. Our choice.
pub const KL_LIMIT: f64 = 20.0;
/// The share of the score's rise at the knee of the frontier. Our choice.
const MOST_OF_RISE: f64 = 0.8;
/// The growth of the KL after the knee that is a finding, as a multiple and in nats per response. Our choice.
const REST_COSTS: (f64, f64) = (2.0, 5.0);
/// Growth of the held-out length that is a finding. Our choice.
const LENGTH_GROWTH: f64 = 1.5;
/// Growth of held-out length that makes a score that correlates with length suspicious. Our choice.
const LENGTH_DRIFT: f64 = 1.1;
/// Correlation of score and length from which the score depends on length. Our choice.
const LENGTH_CORRELATION: f64 = 0.5;
/// Fraction of the first entropy below which the policy has collapsed. Our choice.
const ENTROPY_LEFT: f64 = 0.1;
/// Minimum share of distinct held-out responses; maximum share of prompts with identical responses. Our
/// choice.
const HALF: f64 = 0.5;
/// Fraction of the 4-grams of a response that are repetitions above which it is a finding. Our choice.
const REPETITION: f64 = 0.3;
/// Fraction of held-out responses with an end token below which it is a finding. Our choice.
const ENDED: f64 = 0.5;
/// Fraction of tokens with a clipped ratio above which it is a finding. Our choice.
const CLIP_FRAC: f64 = 0.3;

/// All findings. `kl_limit` replaces [`KL_LIMIT`] in a run with a limit of its own.
pub fn findings(log: &Log, kl_limit: Option<f64>) -> Vec<String> {
    let of_held_out = held_out_findings(log, kl_limit).into_iter().map(|finding| finding.text);
    of_held_out.chain(of_training(log)).collect()
}

/// Findings of the evaluations. A finding's name is the pathology and the set.
pub fn held_out_findings(log: &Log, kl_limit: Option<f64>) -> Vec<Alert> {
    let mut found = Vec::new();
    for set in sets(log) {
        let over_optimisation = over_optimisation(log, set, kl_limit.unwrap_or(KL_LIMIT));
        let found_in_set = [
            over_optimisation.map(|what| ("over-optimisation", what)),
            length_hacking(log, set).map(|what| ("length hacking", what)),
            collapse(log, set).map(|what| ("collapse", what)),
            repetition(log, set).map(|what| ("repetition", what)),
            no_end(log, set).map(|what| ("no end", what)),
        ];
        found.extend(found_in_set.into_iter().flatten().map(|(pathology, what)| Alert {
            name: format!("{pathology} on {set}"),
            text: format!("{pathology}: on {set} {what}"),
            over: format!("{pathology} on {set} is no longer found"),
        }));
    }
    found
}

/// The held-out sets, in the order of their first mention.
pub fn sets(log: &Log) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in log.iter().flat_map(|(_, metrics)| metrics.iter()) {
        let set = name.strip_prefix("eval/").and_then(|rest| rest.strip_suffix("/score_mean"));
        names.extend(set.filter(|set| !names.contains(set)));
    }
    names
}

/// The finite values of a metric, by step.
pub fn series(log: &Log, name: &str) -> Vec<(u64, f64)> {
    let measured = log.iter().filter_map(|(step, metrics)| metrics.get(name).map(|value| (*step, value)));
    measured.filter(|(_, value)| value.is_finite()).collect()
}

fn of_set(log: &Log, set: &str, metric: &str) -> Vec<(u64, f64)> {
    series(log, &format!("eval/{set}/{metric}"))
}

/// Each value replaced by the mean of the last [`WINDOW`] values up to it.
fn smooth(values: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let mean = |until: usize| {
        let window = &values[(until + 1).saturating_sub(WINDOW)..=until];
        window.iter().map(|(_, value)| value).sum::<f64>() / window.len() as f64
    };
    values.iter().enumerate().map(|(index, (step, _))| (*step, mean(index))).collect()
}

/// The last value, and the step since which `holds` is true of all values; `None` if it is not true of the
/// last one.
fn standing(values: &[(u64, f64)], holds: impl Fn(f64) -> bool) -> Option<(f64, u64)> {
    let since = values.iter().rev().take_while(|(_, value)| holds(*value)).last()?;
    values.last().map(|(_, last)| (*last, since.0))
}

/// The score of the reward model rises while that of the second one falls from its best by more than noise
/// (two standard errors of the difference of two means); otherwise the KL that the rise has cost, and the KL
/// to the reference: the second reward model may be fooled, too.
fn over_optimisation(log: &Log, set: &str, kl_limit: f64) -> Option<String> {
    falling_second_score(log, set).or_else(|| dear_score(log, set)).or_else(|| {
        let (kl, since) = standing(&of_set(log, set, "kl_ref"), |kl| kl > kl_limit)?;
        let second = if of_set(log, set, "second_score_mean").is_empty() {
            "no second reward model says whether the score still means anything"
        } else {
            "the second reward model's score has not fallen, but so far away it may be fooled as well"
        };
        Some(format!(
            "the policy is {kl:.1} nats a response away from the reference, more than {kl_limit}, \
             since step {since}; {second}"
        ))
    })
}

/// Most of the score's rise came early, and the rest has cost much KL: after the knee of the frontier, a
/// higher score rarely means better responses (Gao et al. 2022, arXiv 2210.10760).
fn dear_score(log: &Log, set: &str) -> Option<String> {
    let start = of_set(log, set, "reference_score_mean").first()?.1;
    let (scores, kl) = (of_set(log, set, "score_mean"), of_set(log, set, "kl_ref"));
    let (_, last) = *scores.last()?;
    let rise = last - start;
    let (knee, at_knee) = *scores.iter().find(|(_, score)| rise > 0.0 && score - start >= MOST_OF_RISE * rise)?;
    let (_, kl_at_knee) = *kl.iter().find(|(step, _)| *step == knee)?;
    let (times, nats) = REST_COSTS;
    let far = |kl: f64| kl > times * kl_at_knee && kl > kl_at_knee + nats;
    let (now, since) = standing(&kl, far)?;
    Some(format!(
        "most of the score's rise was there at step {knee}, {at_knee:.3} at {kl_at_knee:.1} nats a response from the reference; the way to \
         {last:.3} has cost {now:.1} nats, more than {times} times as many and {nats} more, since step {since}"
    ))
}

fn falling_second_score(log: &Log, set: &str) -> Option<String> {
    let with_start = |metric: &str, reference: &str| {
        let start = of_set(log, set, reference).first().map(|(_, value)| (0, *value));
        start.into_iter().chain(of_set(log, set, metric)).collect::<Vec<_>>()
    };
    let second = with_start("second_score_mean", "reference_second_score_mean");
    let (spread, count) = (of_set(log, set, "second_score_std").last()?.1, of_set(log, set, "responses").last()?.1);
    let noise = 2.0 * spread * (2.0 / count).sqrt();
    let (best_step, best) = second.iter().copied().reduce(|best, other| if other.1 > best.1 { other } else { best })?;
    let first = with_start("score_mean", "reference_score_mean");
    let at = |step: u64| first.iter().find(|(other, _)| *other == step).map(|(_, score)| *score);
    let at_best = at(best_step)?;
    // If the first score has not risen since then, the fall is no over-optimisation.
    let later = second.iter().filter(|(step, _)| *step > best_step);
    let falls: Vec<(u64, f64)> = later
        .filter_map(|(step, second)| Some((*step, if at(*step)? > at_best { best - second } else { 0.0 })))
        .collect();
    let (fall, since) = standing(&falls, |fall| fall > noise)?;
    Some(format!(
        "the reward model's score rose from {at_best:.3} to {:.3} while the second reward model's fell \
         from its best, {best:.3} at step {best_step}, to {:.3}, by more than the noise of {noise:.3}, since step {since}",
        first.last()?.1,
        best - fall,
    ))
}

/// Held-out responses have become much longer, or the score depends on a length that grows.
fn length_hacking(log: &Log, set: &str) -> Option<String> {
    let tokens = of_set(log, set, "tokens");
    let start = of_set(log, set, "reference_tokens").first().or(tokens.first())?.1;
    if let Some((last, since)) = standing(&tokens, |tokens| tokens > LENGTH_GROWTH * start) {
        let growth = 100.0 * (last / start - 1.0);
        return Some(format!(
            "responses have grown by {growth:.0} %, from {start:.1} to {last:.1} tokens, by more than half \
             since step {since}"
        ));
    }
    let correlation = of_set(log, set, "score_length_correlation");
    let at_first = correlation.first()?.1;
    let (last, since) = standing(&correlation, |now| now > LENGTH_CORRELATION && now > at_first)?;
    let grown = tokens.last()?.1;
    (grown > LENGTH_DRIFT * start).then(|| {
        format!(
            "score and length correlate with {last:.2}, {at_first:.2} at first, while responses grow from \
             {start:.1} to {grown:.1} tokens; above {LENGTH_CORRELATION} since step {since}"
        )
    })
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn collapse(log: &Log, set: &str) -> Option<String> {
    let (share, since) = standing(&of_set(log, set, "distinct"), |share| share < HALF)?;
    Some(format!("only {} of the responses differ from each other, below half since step {since}", percent(share)))
}

fn repetition(log: &Log, set: &str) -> Option<String> {
    let (share, since) = standing(&of_set(log, set, "repetition"), |share| share > REPETITION)?;
    let limit = percent(REPETITION);
    Some(format!(
        "{} of a response's 4-grams have occurred in it before, above {limit} since step {since}",
        percent(share)
    ))
}

fn no_end(log: &Log, set: &str) -> Option<String> {
    let (share, since) = standing(&of_set(log, set, "ended"), |share| share < ENDED)?;
    Some(format!("only {} of the responses end by themselves, below half since step {since}", percent(share)))
}

/// Findings of the training steps.
fn of_training(log: &Log) -> Vec<String> {
    let mut found = Vec::new();
    let entropy = series(log, "policy/entropy");
    if let Some((_, first)) = entropy.first().copied().filter(|(_, first)| *first > 0.0) {
        let collapsed = standing(&smooth(&entropy), |entropy| entropy < ENTROPY_LEFT * first);
        found.extend(collapsed.map(|(entropy, since)| {
            format!(
                "collapse: the policy's entropy is {entropy:.4} nats a token, {} of its first {first:.4}, below {} since step {since}",
                percent(entropy / first),
                percent(ENTROPY_LEFT)
            )
        }));
    }
    let identical = standing(&smooth(&series(log, "response/identical")), |share| share > HALF);
    found.extend(identical.map(|(share, since)| {
        format!(
            "collapse: all responses to a prompt are the same for {} of the prompts, for more than half since step {since}",
            percent(share)
        )
    }));
    let trained: Vec<(u64, Metrics)> =
        log.iter().filter(|(_, metrics)| metrics.get("phase") == Some(1.0)).cloned().collect();
    let explained = standing(&smooth(&series(&trained, "value/explained_variance")), |share| share < 0.0);
    found.extend(explained.map(|(share, since)| {
        format!(
            "blind value model: after the value warm-up it predicts returns worse than a constant, explained variance {share:.2}, \
             below 0 since step {since}"
        )
    }));
    let clipped = standing(&smooth(&series(&trained, "policy/clip_frac")), |share| share > CLIP_FRAC);
    found.extend(clipped.map(|(share, since)| {
        format!(
            "steps too large: the policy's ratio is clipped at {} of the tokens, above {} since step {since}",
            percent(share),
            percent(CLIP_FRAC)
        )
    }));
    found
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;

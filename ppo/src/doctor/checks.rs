//! The checks of a PPO step, in the order of the step: text, sampling, evaluation, update.

use align_core::progress::Progress;
use align_train::stage::doctor::{Check, max_abs_diff, single_sequence, to_host};

use super::sampling::{sample, sampled_tokens, sampler};
use super::*;
use crate::masked::{self, Table, mask};
use crate::trajectory::RolloutStats;

/// Runs all checks.
pub(super) fn examine(subject: &mut dyn Subject, setup: &Setup, progress: &mut dyn Progress) -> Result<Vec<Check>> {
    progress.begin("examining", 6);
    let template = Check::template(&setup.folder, &setup.format, &|dialogue: &Dialogue| subject.prompt(dialogue))?;
    let mut checks = vec![template, tokenizers(subject)];
    checks.extend(
        setup
            .assumed
            .iter()
            .map(|(key, assumed)| Check::new(key, assumed.as_str(), "as the reward model was trained", true)),
    );
    let rollout = sample(subject, setup)?;
    progress.advance(1, "sampled tokens");
    checks.push(sampled_tokens(subject, setup, &rollout));
    progress.advance(1, "the sampler");
    checks.push(sampler(subject, setup)?);
    progress.advance(1, "each response alone");
    checks.extend(evaluation(subject, setup, &rollout));
    progress.advance(1, "ends");
    checks.push(inner_pad(subject, setup, &rollout));
    checks.push(end_values(subject, setup, &rollout));
    progress.advance(1, "a step");
    checks.extend(learning(subject, setup, &rollout)?);
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

/// The evaluation of one response by each model, in a batch of its own.
struct SingleSequence {
    policy: Vec<f64>,
    reference: Vec<f64>,
    values: Vec<f64>,
    score: f64,
}

fn evaluate_alone(subject: &dyn Subject, setup: &Setup, prompt: &[i64], response: &Response) -> SingleSequence {
    let _no_grad = tch::no_grad_guard();
    let models = subject.models();
    let sequence = [prompt, &response.tokens].concat();
    let before = prompt.len() as i64 - 1;
    let count = response.tokens.len() as i64;
    let logprobs = |model: &align_model::CausalLm| -> Vec<f64> {
        let hidden = model.hidden(&single_sequence(&sequence), None).narrow(0, before, count);
        let logits = model.head().logits(&hidden).to_kind(tch::Kind::Double) / setup.temperature; // (count, V)
        let logprob = |row: usize| -> f64 {
            let logits = logits.get(row as i64);
            let normaliser = if setup.nucleus {
                logits.index_select(0, &tch::Tensor::from_slice(&response.nucleus[row]).to_device(logits.device()))
            } else {
                logits.shallow_clone()
            };
            logits.double_value(&[response.tokens[row]]) - normaliser.logsumexp([0i64], false).double_value(&[])
        };
        (0..count as usize).map(logprob).collect()
    };
    let values = models.value_model.hidden(&single_sequence(&sequence), None).narrow(0, before, count);
    let mut scored = [setup.reading.prompts.get(prompt).map_or(prompt, Vec::as_slice), &response.tokens].concat();
    if scored.last() != Some(&setup.end_id) {
        scored.push(setup.end_id);
    }
    scored.extend(&setup.reading.tokens_after_end);
    let last = models.reward_model.hidden(&single_sequence(&scored), None).narrow(0, scored.len() as i64 - 1, 1);
    SingleSequence {
        policy: logprobs(&models.policy),
        reference: logprobs(&models.ref_policy),
        values: to_host(&models.value_model.scalars(&values)),
        score: to_host(&models.reward_model.scalars(&last))[0],
    }
}

/// The log-probabilities and values of a rollout, response after response.
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

/// Compares log-probabilities, values and scores of the whole rollout with those of each response alone, the
/// reference with the policy, and a second evaluation with the first.
fn evaluation(subject: &dyn Subject, setup: &Setup, rollout: &Rollout) -> Vec<Check> {
    let (evaluated, scores) = (Evaluated::new(subject, rollout), subject.score(rollout));
    let singles: Vec<SingleSequence> = rollout
        .responses
        .iter()
        .enumerate()
        .map(|(row, response)| evaluate_alone(subject, setup, &rollout.prompts[row / 2], response))
        .collect();
    let all = |of: fn(&SingleSequence) -> &Vec<f64>| {
        singles.iter().flat_map(|single| of(single).iter().copied()).collect::<Vec<f64>>()
    };
    let (policy, reference) = (&evaluated.old_logprobs, &evaluated.ref_logprobs);
    let expected_scores: Vec<f64> = singles.iter().map(|single| single.score).collect();
    // The tolerance of values and scores is relative: their scale depends on the head.
    let scale = expected_scores.iter().map(|score| score.abs()).fold(1.0, f64::max);
    let repeated = Evaluated::new(subject, rollout);
    let kl = max_abs_diff(policy, reference);
    let kl_limit = if setup.same_dtype { setup.tolerance / 10.0 } else { f64::INFINITY };
    vec![
        Check::compare(
            "log-probabilities do not depend on the batch",
            policy,
            &all(|single| &single.policy),
            setup.tolerance,
        ),
        Check::compare("nor do the reference's", reference, &all(|single| &single.reference), setup.tolerance),
        Check::compare(
            "values are read before their tokens",
            &evaluated.values,
            &all(|single| &single.values),
            scale * setup.tolerance,
        ),
        Check::compare("scores are read at the end token", &scores, &expected_scores, scale * setup.tolerance),
        Check::deterministic(&evaluated.numbers(), &repeated.numbers()),
        Check::new(
            "the KL is 0 before the first update",
            format!("{} log-ratios, at most {kl:.1e}", policy.len()),
            format!("at most {kl_limit:.0e}"),
            kl <= kl_limit,
        ),
    ]
}

/// A pad id inside a response is a token like any other.
fn inner_pad(subject: &dyn Subject, setup: &Setup, rollout: &Rollout) -> Check {
    let name = "a pad id inside a response counts as a token";
    let first = rollout.responses[0].tokens[0];
    let tokens = vec![first, setup.pad_id, first, setup.end_id];
    // Every token must be in the nucleus; what else is in it does not matter.
    let nucleus = vec![vec![first, setup.pad_id, setup.end_id]; if setup.nucleus { tokens.len() } else { 0 }];
    let response = Response { tokens, ended: true, nucleus };
    let expected = evaluate_alone(subject, setup, &rollout.prompts[0], &response);
    let crafted = Rollout {
        prompt_rows: vec![0],
        prompts: vec![rollout.prompts[0].clone()],
        samples: 1,
        responses: vec![response],
    };
    let found = Evaluated::new(subject, &crafted);
    let apart = max_abs_diff(&found.old_logprobs, &expected.policy);
    let sound = found.old_logprobs.len() == 4 && found.values.len() == 4 && apart <= 10.0 * setup.tolerance;
    let measured = format!("{} log-probabilities, apart by {apart:.1e}", found.old_logprobs.len());
    Check::new(name, measured, format!("4, at most {:.0e}", 10.0 * setup.tolerance), sound)
}

/// The initial value at an end token is the score there, shifted by the mean of the first rollout.
fn end_values(subject: &mut dyn Subject, setup: &Setup, rollout: &Rollout) -> Check {
    let name = "the value at the end is the shifted score";
    let scores = subject.score(rollout);
    let ended = rollout.ended(setup.end_id);
    subject.shift_value_model(&scores, &ended);
    if !setup.shares_value {
        return Check::new(name, "the value model is not the reward model", "nothing to compare", true);
    }
    let adjusted = scores.iter().zip(&ended).map(|(score, ended)| match setup.missing_end {
        _ if *ended => *score,
        (MissingEnd::None, _) => *score,
        (MissingEnd::Subtract, value) => score - value,
        (MissingEnd::Replace, value) => value,
    });
    let mean = adjusted.sum::<f64>() / scores.len() as f64;
    let shift = if setup.normalize == Normalize::None { 0.0 } else { mean };
    let scale = scores.iter().map(|score| score.abs()).fold(1.0, f64::max);
    let expected: Vec<f64> = scores.iter().map(|score| score - shift).collect();
    let apart = max_abs_diff(&subject.end_values(rollout), &expected);
    let limit = scale * setup.tolerance;
    Check::new(
        name,
        format!("shift {:.4}, apart by {apart:.1e}", -shift),
        format!("at most {limit:.0e}"),
        apart <= limit,
    )
}

/// After one step, the policy has changed, and reference and reward model have not; the first ratio is 1.
fn learning(subject: &mut dyn Subject, setup: &Setup, rollout: &Rollout) -> Result<Vec<Check>> {
    let (before, scores) = (Evaluated::new(subject, rollout), subject.score(rollout));
    let metrics = subject.step(0)?;
    let (after, scores_after) = (Evaluated::new(subject, rollout), subject.score(rollout));
    let ratio = metrics.get("policy/ratio_max").unwrap_or(f64::NAN);
    let moved = max_abs_diff(&after.old_logprobs, &before.old_logprobs);
    let drifted = max_abs_diff(&after.ref_logprobs, &before.ref_logprobs);
    let rescored = max_abs_diff(&scores_after, &scores);
    let limit = if setup.tolerance < 1e-3 { 1e-5 } else { 1e-2 };
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

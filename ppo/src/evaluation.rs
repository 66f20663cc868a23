//! The evaluation on held-out prompts: responses of the policy and of the reference, sampled with the same
//! random numbers.

use align_core::error::Result;
use align_core::random::{self, Purpose};
use align_model::{CausalLm, ScalarModel};
use align_run::metrics::Metrics;
use align_run::metrics::markdown::{prompt_and_response, side_by_side};
use align_run::plot::Plot;
use align_run::run::Run;
use align_text::chatml::ChatFormat;
use serde_json::{Map, json};

use crate::charts::{SCORE_SOURCES, by_length, frontier};
use crate::findings::Log;
use crate::held_out::{self, measured_deciles};
use crate::masked::{self, mask};
use crate::rewards::kl_per_response;
use crate::rollout::{Reading, Rollout};
use crate::statistics::{mean_std, of_held_out};
use crate::train::Trainer;
use crate::trajectory::{RolloutStats, ScoredRollout, Trajectory};

/// Number of prompts of a rollout, and of each held-out set, in samples.jsonl.
const SAMPLES: usize = 4;

/// A held-out file of prompts.
pub(crate) struct EvalSet {
    pub(crate) name: String,
    pub(crate) prompts: Vec<Vec<i64>>,
    /// The policy's responses, if evaluated since the last step.
    pub(crate) latest: Option<Rollout>,
    /// The reference's responses, computed at the first evaluation. Neither the reference nor the random
    /// numbers change.
    pub(crate) reference: Option<Reference>,
}

/// The reference's responses to a set.
pub(crate) struct Reference {
    rollout: Rollout,
    scores: Vec<f64>,
    /// Scores of the second reward model, if any.
    second_scores: Option<Vec<f64>>,
}

/// All held-out sets, and the models that score them.
pub(crate) struct Evaluation {
    pub(crate) sets: Vec<EvalSet>,
    pub(crate) format: ChatFormat,
    /// The second reward model, which scores held-out responses only, and how it reads them.
    pub(crate) second_reward_model: Option<(ScalarModel, Reading)>,
}

impl Evaluation {
    /// Evaluates the policy on every set, and writes samples of the sets and of the latest step.
    pub(crate) fn measure(
        &mut self,
        trainer: &Trainer,
        last: Option<&Trajectory>,
        run: &mut Run,
        done: u64,
    ) -> Result<Metrics> {
        if let Some(trajectory) = last {
            write_samples(run, done, "train", &self.format, &trajectory.scored(), None)?;
        }
        let mut metrics = Metrics::new();
        for set in &mut self.sets {
            let (found, scored) = measure(trainer, set, self.second_reward_model.as_ref())?;
            set.latest = Some(scored.rollout.clone());
            metrics.extend(found.iter().map(|(name, value)| (format!("eval/{}/{name}", set.name), value)));
            write_samples(run, done, &set.name, &self.format, &scored, set.reference.as_ref())?;
        }
        Ok(metrics)
    }

    /// Plots the evaluations so far in TensorBoard, set by set.
    pub(crate) fn draw(&self, run: &mut Run, done: u64, log: &Log) -> Result<()> {
        for EvalSet { name, .. } in &self.sets {
            let deciles = log.last().map_or_else(Vec::new, |(_, metrics)| measured_deciles(metrics, name));
            let plots = [
                ("frontier", frontier(log, name, "score over KL", &SCORE_SOURCES)),
                ("reward_by_length", by_length(&[(done, deciles)])),
            ];
            for (tag, plot) in plots {
                let plot = Plot { caption: format!("{}: {}", name, plot.caption), ..plot };
                if let Some(png) = plot.png()? {
                    run.image(done, &format!("{tag}/{name}"), &png)?;
                }
            }
        }
        Ok(())
    }
}

/// The metrics of one sampled response to every prompt of a set, and the responses.
fn measure(
    trainer: &Trainer,
    set: &mut EvalSet,
    second: Option<&(ScalarModel, Reading)>,
) -> Result<(Metrics, ScoredRollout)> {
    let (mut metrics, scored) = measure_policy(trainer, respond(trainer, &trainer.models.policy, &set.prompts)?);
    if set.reference.is_none() {
        let rollout = respond(trainer, &trainer.models.ref_policy, &set.prompts)?;
        let scores = trainer.score(&rollout);
        let second_scores = second.map(|(model, reading)| trainer.score_by(model, reading, &rollout));
        set.reference = Some(Reference { rollout, scores, second_scores });
    }
    if let Some((model, reading)) = second {
        let (mean, std) = mean_std(&trainer.score_by(model, reading, &scored.rollout));
        metrics.set("second_score_mean", mean);
        metrics.set("second_score_std", std);
    }
    if let Some(reference) = &set.reference {
        metrics.set("reference_score_mean", mean_std(&reference.scores).0);
        if let Some(scores) = &reference.second_scores {
            metrics.set("reference_second_score_mean", mean_std(scores).0);
        }
        let tokens = reference.rollout.lengths().iter().sum::<usize>();
        metrics.set("reference_tokens", tokens as f64 / reference.scores.len() as f64);
    }
    let responses: Vec<&[i64]> = scored.rollout.responses.iter().map(|response| response.tokens.as_slice()).collect();
    metrics.merge(held_out::describe(&responses, &scored.scores));
    Ok((metrics, scored))
}

/// One response to every prompt. The random numbers depend on the prompt alone, so that evaluations differ
/// only by the model, and so do policy and reference.
pub(crate) fn respond(trainer: &Trainer, model: &CausalLm, prompts: &[Vec<i64>]) -> Result<Rollout> {
    let seed = trainer.config.ppo.seed;
    let responses = trainer.respond(model, &trainer.sampling, prompts, 1, &|prompt, _, position| {
        random::uniform(seed, Purpose::Generate, 0, prompt as u64, position as u64)
    })?;
    Ok(Rollout { prompt_rows: (0..prompts.len()).collect(), prompts: prompts.to_vec(), samples: 1, responses })
}

/// The metrics of responses of the policy, and the responses with their scores and divergences.
fn measure_policy(trainer: &Trainer, rollout: Rollout) -> (Metrics, ScoredRollout) {
    let scores = trainer.score(&rollout);
    let RolloutStats { old_logprobs, ref_logprobs, .. } = trainer.evaluate_only(&rollout);
    let response_mask = mask(&rollout.lengths());
    // Evaluations compute the difference in fp32; a training step computes it in f64.
    let difference = |policy: f64, reference: f64| f64::from(policy as f32 - reference as f32);
    let kl = masked::zip_with(&old_logprobs, &ref_logprobs, &response_mask, difference); // (B, R)
    let metrics = of_held_out(&rollout, &scores, kl_per_response(&kl, &response_mask), trainer.end_id);
    (metrics, ScoredRollout { kl: masked::row_sums(&kl, &response_mask), rollout, scores })
}

/// Writes the responses to the first prompts to samples.jsonl and TensorBoard, and histograms of all scores,
/// divergences and lengths.
fn write_samples(
    run: &mut Run,
    done: u64,
    set: &str,
    format: &ChatFormat,
    scored: &ScoredRollout,
    reference: Option<&Reference>,
) -> Result<()> {
    let (rollout, tokenizer) = (&scored.rollout, format.tokenizer());
    let lengths: Vec<f64> = rollout.lengths().into_iter().map(|tokens| tokens as f64).collect();
    for (what, values) in [("score", &scored.scores), ("kl", &scored.kl), ("tokens", &lengths)] {
        run.histogram(done, &format!("responses/{set}/{what}"), values)?;
    }
    for (row, response) in rollout.responses.iter().enumerate().take(SAMPLES * rollout.samples) {
        let prompt = tokenizer.decode(&rollout.prompts[row / rollout.samples]);
        let text = tokenizer.decode(&response.tokens);
        let (score, kl) = (scored.scores[row], scored.kl[row]);
        let of_reference = reference
            .map(|reference| (tokenizer.decode(&reference.rollout.responses[row].tokens), reference.scores[row]));
        if row % rollout.samples == 0 {
            let shown = match &of_reference {
                None => {
                    format!("{}\n\n**score** {score:.3}, **kl** {kl:.3}", prompt_and_response(&prompt, &text))
                }
                Some((other, other_score)) => side_by_side(
                    &prompt,
                    (&format!("policy: score {score:.3}, kl {kl:.3}"), &text),
                    (&format!("reference: score {other_score:.3}"), other),
                ),
            };
            run.text(done, &format!("samples/{set}/{}", row / rollout.samples), &shown)?;
        }
        let mut sample = Map::new();
        sample.insert("set".to_owned(), json!(set));
        sample.insert("prompt_row".to_owned(), json!(rollout.prompt_rows[row / rollout.samples]));
        sample.insert("prompt".to_owned(), json!(prompt));
        sample.insert("response".to_owned(), json!(text));
        sample.insert("tokens".to_owned(), json!(response.tokens.len()));
        sample.insert("score".to_owned(), json!(score));
        sample.insert("kl".to_owned(), json!(kl));
        if let Some((text, score)) = of_reference {
            sample.insert("reference_response".to_owned(), json!(text));
            sample.insert("reference_score".to_owned(), json!(score));
        }
        run.sample(done, &sample)?;
    }
    Ok(())
}

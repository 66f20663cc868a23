//! The trainer: one PPO step on one screen.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Instant;

use align_core::error::{Error, Result};
use align_core::random::{self, Purpose};
use align_data::Batches;
use align_model::generate::{Response, Sampling, generate};
use align_model::{CausalLm, ScalarModel};
use align_train::optim::AdamW;

use crate::config::{Phase, PpoConfig};
use crate::gae::{Credit, GaeParams, gae};
use crate::masked::{self, mask};
use crate::models::{Convention, Models, ReferencePass, ReusedForward, score};
use crate::ptx::PtxStream;
use crate::record::Record;
use crate::rewards::{
    KlController, RunningMoments, ScoreNormalization, kl_k1, kl_per_response, token_rewards, value_shift,
};
use crate::rollout::{Reading, Rollout};
use crate::statistics::{Seconds, StepReport, UpdateStats};
use crate::trajectory::{RolloutStats, Trajectory};

/// The models, optimizers, data and state of PPO.
pub struct Trainer {
    pub(crate) config: PpoConfig,
    pub(crate) models: Models,
    pub(crate) policy_optimizer: AdamW,
    pub(crate) value_optimizer: AdamW,
    pub(crate) prompts: Vec<Vec<i64>>,
    /// The prompts of each step.
    pub(crate) batches: Batches,
    pub(crate) ptx: Option<PtxStream>,
    pub(crate) moments: RunningMoments,
    pub(crate) kl_controller: KlController,
    pub(crate) sampling: Sampling,
    /// The token that ends a response, at which it is scored.
    pub(crate) end_id: i64,
    /// How the reward model reads responses.
    pub(crate) reading: Reading,
    /// The constant added to the value model; `None` before the first rollout.
    pub(crate) value_shift: Option<f64>,
    /// The data of the latest step.
    pub(crate) record: Option<Record>,
}

impl Trainer {
    /// One PPO step: sample, evaluate, reward, advantage, update.
    ///
    /// # Errors
    /// [`Error::NonFinite`] before anything is updated with it.
    pub fn step(&mut self, step: u64) -> Result<StepReport> {
        let (started, phase, kl_coef) = (Instant::now(), self.config.phase(step), self.kl_controller.kl_coef());
        self.record = None;
        // 1. Sample responses to this step's prompts.
        let rollout = self.sample(step)?;
        let sampled = Instant::now();

        // 2. Evaluate responses by the reward model, their tokens by policy, reference and value model.
        let scores = self.score(&rollout); // (B)
        let normalized_scores = self.normalize_scores(&scores, &rollout.ended(self.end_id)); // (B)
        self.shift_new_value_model();
        let minibatches = self.minibatches(step, scores.len());
        let (stats, mut reused) = self.evaluate(&rollout, step, &minibatches[0]); // (B, R)
        let evaluated = Instant::now();

        // 3. Reward every token with the KL penalty, the last one with the score.
        let response_mask = mask(&rollout.lengths()); // (B, R)
        let kl = kl_k1(&stats.old_logprobs, &stats.ref_logprobs, &response_mask);
        let rewards = token_rewards(&normalized_scores, &kl, &response_mask, kl_coef);

        // 4. Advantages and returns, over the whole rollout.
        let Credit { mut advantages, returns } = gae(&rewards, &stats.values, &response_mask, &self.gae_params());
        if self.config.ppo.whiten_advantages {
            advantages = masked::whiten(&advantages, &response_mask);
        }
        let kl_mean = kl_per_response(&kl, &response_mask);

        // 5. Update in minibatches. The value warm-up leaves the policy and the KL weight alone.
        let trajectory = Rc::new(Trajectory {
            rollout,
            response_mask,
            stats,
            scores,
            normalized_scores,
            kl,
            rewards,
            advantages,
            returns,
        });
        self.record = Some(Record { step, trajectory: Rc::clone(&trajectory), minibatches: Vec::new() });
        let mut update = UpdateStats::default();
        for rows in minibatches {
            update.add(&self.update(&trajectory, &rows, phase, reused.take())?);
        }
        if phase == Phase::Ppo {
            self.kl_controller.update(kl_mean, trajectory.scores.len());
        }
        let seconds = Seconds::between(started, sampled, evaluated);
        let (running_mean, has_text, end_id) = (self.moments.mean(), self.ptx.is_some(), self.end_id);
        Ok(StepReport { trajectory, phase, update, kl_coef, running_mean, has_text, end_id, seconds })
    }

    /// Samples responses to the prompts of `step`. The random numbers of a response depend on its prompt and
    /// its sample index, and on the number of earlier occurrences of the prompt in the step.
    pub(crate) fn sample(&self, step: u64) -> Result<Rollout> {
        let prompt_rows = self.prompt_rows(step);
        let prompts: Vec<Vec<i64>> = prompt_rows.iter().map(|row| self.prompts[*row].clone()).collect();
        let samples = self.config.rollout.responses_per_prompt;
        let earlier = |prompt: usize| prompt_rows[..prompt].iter().filter(|row| **row == prompt_rows[prompt]).count();
        let streams: Vec<usize> =
            (0..prompt_rows.len()).map(|prompt| earlier(prompt) * self.prompts.len() + prompt_rows[prompt]).collect();
        let responses =
            self.respond(&self.models.policy, &self.sampling, &prompts, samples, &|prompt, sample, position| {
                let stream = (streams[prompt] * samples + sample) as u64;
                random::uniform(self.config.ppo.seed, Purpose::Rollout, step, stream, position as u64)
            });
        let responses = responses.map_err(|error| match error {
            // The sampler fails where logits are not finite.
            Error::Failed(_) => Error::NonFinite { what: "a logit of the policy".to_owned(), number: f64::NAN },
            other => other,
        })?;
        Ok(Rollout { prompt_rows, prompts, samples, responses })
    }

    /// Rows of the prompts of `step`.
    pub(crate) fn prompt_rows(&self, step: u64) -> Vec<usize> {
        self.batches.rows(step).collect()
    }

    /// Generates with the policy or the reference.
    ///
    /// # Errors
    /// As [`generate`].
    pub(crate) fn respond(
        &self,
        model: &CausalLm,
        sampling: &Sampling,
        prompts: &[Vec<i64>],
        samples: usize,
        draws: &dyn Fn(usize, usize, usize) -> f64,
    ) -> Result<Vec<Response>> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + sampling.max_tokens;
        let max_rows = rollout_rows(self.config.ppo.microbatch_tokens, longest, samples);
        let responses =
            generate(model, prompts, samples, sampling, max_rows, draws, &mut |_, _, _| ControlFlow::Continue(()))?;
        Ok(responses.into_iter().flatten().collect())
    }

    /// Raw scores of a rollout (B).
    pub(crate) fn score(&self, rollout: &Rollout) -> Vec<f64> {
        self.score_by(&self.models.reward_model, &self.reading, rollout)
    }

    /// As [`Trainer::score`], with another reward model.
    pub(crate) fn score_by(&self, model: &ScalarModel, reading: &Reading, rollout: &Rollout) -> Vec<f64> {
        score(model, rollout, &self.microbatches(rollout), self.end_id, reading)
    }

    /// The scores to reward. Updates the running statistics first.
    pub(crate) fn normalize_scores(&mut self, scores: &[f64], ended: &[bool]) -> Vec<f64> {
        let normalization = ScoreNormalization {
            missing_end: self.config.rollout.missing_end,
            missing_end_value: self.config.rollout.missing_end_value,
            normalize: self.config.reward.normalize,
            clip: self.config.reward.clip,
        };
        normalization.apply(scores, ended, &mut self.moments)
    }

    /// Shifts a value model that is initialised from the reward model by the mean that normalisation
    /// subtracts from the first rollout's scores. Later calls have no effect.
    pub(crate) fn shift_new_value_model(&mut self) {
        if self.value_shift.is_none() {
            let shift = value_shift(&self.moments, self.config.reward.normalize);
            self.models.value_model.set_shift(shift);
            self.value_shift = Some(shift);
        }
    }

    /// Log-probabilities of policy and reference, values and entropies of a rollout. If the step's first
    /// minibatch is the whole rollout in one microbatch, the update reuses these forward passes.
    fn evaluate(
        &self,
        rollout: &Rollout,
        step: u64,
        first_minibatch: &[usize],
    ) -> (RolloutStats, Option<ReusedForward>) {
        let (convention, microbatches) = (self.convention(), self.microbatches(rollout));
        // The first step after the warm-up still samples from the initial policy.
        let is_unmoved = step <= self.config.ppo.value_warmup_steps;
        let reference = if is_unmoved { ReferencePass::OfPolicy } else { ReferencePass::Own };
        if microbatches.len() == 1 && first_minibatch == microbatches[0] {
            let phase = self.config.phase(step);
            let (stats, reused) = self.models.evaluate_for_update(rollout, convention, reference, phase);
            return (stats, Some(reused));
        }
        (self.models.evaluate(rollout, &microbatches, convention, reference), None)
    }

    /// As [`Trainer::evaluate`], for a rollout that is not trained on.
    pub(crate) fn evaluate_only(&self, rollout: &Rollout) -> RolloutStats {
        self.models.evaluate(rollout, &self.microbatches(rollout), self.convention(), ReferencePass::Own)
    }

    fn microbatches(&self, rollout: &Rollout) -> Vec<Vec<usize>> {
        rollout.split_into_microbatches(&rollout.rows(), self.config.ppo.microbatch_tokens)
    }

    pub(crate) fn convention(&self) -> Convention {
        Convention { temperature: self.config.rollout.temperature, nucleus: self.sampling.record_nucleus }
    }

    fn gae_params(&self) -> GaeParams {
        GaeParams { gamma: self.config.ppo.gamma, gae_lambda: self.config.ppo.gae_lambda }
    }
}

/// The number of responses that are decoded at once. A decoded token costs only its keys and values, so there
/// may be more rows than in an update.
pub(crate) fn rollout_rows(microbatch_tokens: usize, longest: usize, samples: usize) -> usize {
    (4 * microbatch_tokens / longest.max(1)).max(samples)
}

#[cfg(test)]
#[path = "train_tests.rs"]
pub(crate) mod tests;

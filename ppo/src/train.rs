//! The trainer: one PPO step on one screen, and the update inside it.

use std::time::Instant;

use crate::masked::{self, mask, table};
use align_core::error::{Error, Result, finite};
use align_core::random::{self, Permutation, Purpose};
use align_data::Batches;
use align_model::CausalLm;
use align_model::generate::{Sampling, generate};
use align_run::metrics::Metrics;
use align_tokens::LmRow;
use align_train::optim::{AdamW, clip_scale};
use tch::Tensor;

use crate::config::PpoConfig;
use crate::gae::{GaeParams, gae};
use crate::loss::{PolicyStats, explained_variance, policy_loss, value_loss};
use crate::models::{Ahead, Convention, Models, Opinions, before, score, values};
use crate::ptx::{PtxStream, add_grads, ptx_backward, take_grads};
use crate::record::{Minibatch, Record};
use crate::rewards::{
    KlController, RunningMoments, ScoreShaping, kl_k1, kl_k3, kl_per_response, token_rewards, value_shift,
};
use crate::rollout::{Reading, Rollout, Rows};

/// What a step trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The value model alone: policy, its moments and its schedule stay as they are.
    ValueWarmup,
    /// Policy and value model.
    Ppo,
}

/// Everything a step needs; its state carries what changes.
pub struct Trainer {
    pub(crate) config: PpoConfig,
    pub(crate) models: Models,
    pub(crate) policy_optimizer: AdamW,
    pub(crate) value_optimizer: AdamW,
    pub(crate) prompts: Vec<Vec<i64>>,
    /// Which of them each step takes.
    pub(crate) batches: Batches,
    pub(crate) ptx: Option<PtxStream>,
    pub(crate) moments: RunningMoments,
    pub(crate) kl_controller: KlController,
    pub(crate) sampling: Sampling,
    /// The token that ends a response and at which it is scored.
    pub(crate) end_id: i64,
    /// How the reward model reads responses.
    pub(crate) reading: Reading,
    /// The constant added to the value model, once known.
    pub(crate) value_shift: Option<f64>,
    /// What the latest step worked on.
    pub(crate) record: Option<Record>,
}

/// A step's metrics, and its rollout with what was found about each response.
pub struct StepReport {
    /// By the names of the run folder's metrics.jsonl.
    pub metrics: Metrics,
    /// The prompts and responses.
    pub rollout: Rollout,
    /// (B) raw scores.
    pub scores: Vec<f64>,
    /// (B) Σ k1 over each response.
    pub kl: Vec<f64>,
}

/// Per-token targets of the update, (N) in the order of rows.
struct Targets {
    old_logprobs: Vec<f32>,
    old_values: Vec<f32>,
    advantages: Vec<f32>,
    returns: Vec<f32>,
    /// Start of each response in the (N) vectors, and their end.
    offsets: Vec<usize>,
}

/// Means over the optimiser steps of one PPO step.
#[derive(Default)]
struct Learned {
    updates: f64,
    policy: PolicyStats,
    /// The largest |log-ratio| of the first optimiser step, which has the rollout's own weights.
    first_gap: f64,
    policy_grad_norm: f64,
    value_loss: f64,
    value_clip_frac: f64,
    value_grad_norm: f64,
    ptx_loss: f64,
    ptx_grad_norm: f64,
}

impl Trainer {
    /// One PPO step: sample, judge, credit, learn, report.
    ///
    /// # Errors
    /// [`Error::NonFinite`] before anything is updated with it.
    pub fn step(&mut self, step: u64) -> Result<StepReport> {
        let started = Instant::now();
        self.record = None;
        // 1. Sample responses to this step's prompts.
        let rollout = self.sample(step)?;
        let (rows, lengths) = ((0..rollout.responses.len()).collect::<Vec<_>>(), rollout.lengths());
        let microbatches = rollout.fill(&rows, self.config.ppo.microbatch_tokens);
        let sampled = Instant::now();

        // 2. Judge whole responses; the score's scale drifts, so normalise by its running statistics.
        let scores = score(&self.models.reward_model, &rollout, &microbatches, self.end_id, &self.reading); // (B)
        let ended: Vec<bool> = rollout.responses.iter().map(|r| r.tokens.last() == Some(&self.end_id)).collect();
        let scores_shaped = self.shape(&scores, &ended); // (B)
        let moved = step > self.config.ppo.value_warmup_steps;
        let (phase, minibatches) = (self.phase_at(step), self.minibatches(step, rows.len()));
        // Where the update begins with the very pass that judges, it is taken once.
        let ahead = (microbatches.len() == 1 && minibatches[0] == rows).then_some(phase);
        let (opinions, mut ahead) = self.models.opine(&rollout, &microbatches, self.convention(), moved, ahead); // (N)
        let judged = Instant::now();

        // 3. Credit tokens: KL penalty everywhere, score on the last counted token, then GAE.
        let response_mask = mask(&lengths); // (B, R)
        let to_table = |flat: &[f32]| table(&flat.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), &lengths);
        let (logprobs, ref_logprobs) = (to_table(&opinions.old_logprobs), to_table(&opinions.ref_logprobs));
        let kl = kl_k1(&logprobs, &ref_logprobs, &response_mask);
        let kl_coef = self.kl_controller.kl_coef();
        let rewards = token_rewards(&scores_shaped, &kl, &response_mask, kl_coef);
        let old_values = to_table(&opinions.values);
        let credit = gae(&rewards, &old_values, &response_mask, &self.gae_params());
        let advantages = if self.config.ppo.whiten_advantages {
            masked::whiten(&credit.advantages, &response_mask)
        } else {
            credit.advantages
        };

        // 4. Learn in minibatches. The first steps update only the value model.
        let to_flat = |table: &masked::Table| -> Vec<f32> {
            masked::flat(table, &response_mask).into_iter().map(|x| x as f32).collect()
        };
        let record = Record {
            step,
            rollout: rollout.clone(),
            opinions: opinions.clone(),
            scores: scores.clone(),
            scores_shaped,
            rewards: to_flat(&rewards),
            advantages: to_flat(&advantages),
            returns: to_flat(&credit.returns),
            minibatches: Vec::new(),
        };
        let targets = Targets::new(&record);
        self.record = Some(record);
        let mut learned = Learned::default();
        for minibatch in minibatches {
            self.update(&rollout, &minibatch, &targets, phase, ahead.take(), &mut learned)?;
        }
        let kl_mean = kl_per_response(&kl, &response_mask);
        if phase == Phase::Ppo {
            self.kl_controller.update(kl_mean, rollout.responses.len());
        }

        // 5. Report: every mean uses the response mask, like the losses.
        let kl_rows = masked::row_sums(&kl, &response_mask);
        let mut metrics = Metrics::new();
        metrics.set("phase", if phase == Phase::Ppo { 1.0 } else { 0.0 });
        let (mean, std) = mean_std(&scores);
        metrics.set("score/mean", mean);
        metrics.set("score/std", std);
        metrics.set("score/running_mean", self.moments.mean());
        metrics
            .set("reward/mean", masked::row_sums(&rewards, &response_mask).iter().sum::<f64>() / scores.len() as f64);
        metrics.set("kl/ref", kl_mean);
        metrics.set("kl/ref_k3", kl_per_response(&kl_k3(&logprobs, &ref_logprobs, &response_mask), &response_mask));
        metrics.set("kl/coef", kl_coef);
        learned.report(&mut metrics, phase, self.ptx.is_some(), &opinions);
        metrics.set("value/explained_variance", explained_variance(&old_values, &credit.returns, &response_mask));
        metrics.set("response/tokens", lengths.iter().sum::<usize>() as f64 / lengths.len() as f64);
        metrics.set("response/ended", ended.iter().filter(|ended| **ended).count() as f64 / ended.len() as f64);
        metrics.set("response/identical", identical_share(&rollout));
        let secs = |from: Instant, to: Instant| (to - from).as_secs_f64();
        metrics.set("time/rollout", secs(started, sampled));
        metrics.set("time/score", secs(sampled, judged));
        metrics.set("time/update", judged.elapsed().as_secs_f64());
        Ok(StepReport { metrics, rollout, scores, kl: kl_rows })
    }

    /// Judges a rollout without learning from it.
    pub(crate) fn judge_only(&self, rollout: Rollout) -> StepReport {
        let (rows, lengths) = ((0..rollout.responses.len()).collect::<Vec<_>>(), rollout.lengths());
        let microbatches = rollout.fill(&rows, self.config.ppo.microbatch_tokens);
        let scores = score(&self.models.reward_model, &rollout, &microbatches, self.end_id, &self.reading);
        let opinions = self.models.opine(&rollout, &microbatches, self.convention(), true, None).0;
        let difference = opinions.old_logprobs.iter().zip(&opinions.ref_logprobs).map(|(p, r)| f64::from(p - r));
        let kl = table(&difference.collect::<Vec<_>>(), &lengths); // (B, R)
        let response_mask = mask(&lengths);
        let count = lengths.len() as f64;
        let ended = rollout.responses.iter().filter(|response| response.tokens.last() == Some(&self.end_id)).count();
        let mut metrics = Metrics::new();
        let (mean, std) = mean_std(&scores);
        metrics.set("score_mean", mean);
        metrics.set("score_std", std);
        metrics.set("kl_ref", kl_per_response(&kl, &response_mask));
        metrics.set("tokens", lengths.iter().sum::<usize>() as f64 / count);
        metrics.set("ended", ended as f64 / count);
        StepReport { metrics, rollout, scores, kl: masked::row_sums(&kl, &response_mask) }
    }

    /// One optimiser step on a minibatch (rows, ordered): forward and backward by microbatch, clip, step.
    fn update(
        &mut self,
        rollout: &Rollout,
        minibatch: &[usize],
        targets: &Targets,
        phase: Phase,
        ahead: Option<Ahead>,
        learned: &mut Learned,
    ) -> Result<()> {
        let config = &self.config.ppo;
        let microbatches = rollout.fill(minibatch, config.microbatch_tokens);
        let num_tokens = num_tokens(rollout, &microbatches);
        let (ptx_rows, ptx_taken) = match (phase, &self.ptx) {
            (Phase::Ppo, Some(stream)) => {
                stream.peek(((num_tokens as f64 * self.config.ptx.tokens_per_ppo_token).round() as usize).max(1))
            }
            (_, stream) => (Vec::new(), stream.as_ref().map_or(0, |stream| stream.taken)),
        };
        if let Some(record) = &mut self.record {
            let ptx = ptx_rows.iter().flat_map(|row| &row.pieces).map(|piece| piece.tokens.clone()).collect();
            record.minibatches.push(Minibatch { rows: minibatch.to_vec(), ptx });
        }
        let (ahead_hidden, ahead_values) = ahead.map(|ahead| (ahead.hidden, ahead.values)).unzip();
        // The policy first: its gradient waits where the value model's will be while that of the text is found.
        let (policy, policy_grad_norm) = match phase {
            Phase::Ppo => self.policy_gradient(rollout, &microbatches, targets, ahead_hidden, &ptx_rows, learned)?,
            Phase::ValueWarmup => (PolicyStats::default(), 0.0),
        };
        let (value_total, clip_frac) = self.value_gradient(rollout, &microbatches, targets, ahead_values);
        // All that can be no number, before anything is updated.
        learned.value_loss += finite("value/loss", value_total)?;
        let value_grad_norm = finite("value/grad_norm", self.value_optimizer.grad_norm())?;
        learned.value_grad_norm += value_grad_norm;
        let config = &self.config.ppo;
        if phase == Phase::Ppo {
            self.policy_optimizer.step(config.policy_lr, clip_scale(policy_grad_norm, config.grad_clip));
        }
        self.value_optimizer.step(config.value_lr, clip_scale(value_grad_norm, config.grad_clip));
        if let Some(stream) = &mut self.ptx {
            stream.taken = ptx_taken;
        }
        if learned.updates == 0.0 {
            learned.first_gap = policy.log_ratio_max;
        }
        learned.updates += 1.0;
        learned.policy.add(&policy);
        learned.value_clip_frac += clip_frac;
        Ok(())
    }

    /// Accumulates the policy's gradient: of the PPO loss over the microbatches of a minibatch, and of the text's. The value model's must
    /// be zero, and are so after. Returns the norm of both together too.
    fn policy_gradient(
        &self,
        rollout: &Rollout,
        microbatches: &[Rows],
        targets: &Targets,
        mut ahead: Option<Tensor>,
        ptx_rows: &[LmRow],
        learned: &mut Learned,
    ) -> Result<(PolicyStats, f64)> {
        let (config, model) = (&self.config.ppo, &self.models.policy);
        let num_tokens = num_tokens(rollout, microbatches);
        let mut stats = PolicyStats::default();
        for rows in microbatches {
            let layout = rollout.layout(rows, model.device());
            let of = |flat: &[f32]| Tensor::from_slice(&targets.gather(flat, rows)).to_device(model.device()); // (N)
            let (old_logprobs, advantages) = (of(&targets.old_logprobs), of(&targets.advantages));
            let hidden = ahead.take().unwrap_or_else(|| before(model, &layout)); // (N, D)
            self.convention().over(rollout, rows, |over| {
                model.backward(&hidden, &layout.tokens, over, &mut |range, logprobs| {
                    let rows = |tensor: &Tensor| tensor.narrow(0, range.start as i64, range.len() as i64);
                    let (old_logprobs, advantages) = (rows(&old_logprobs), rows(&advantages));
                    let loss = policy_loss(logprobs, &old_logprobs, &advantages, config.cliprange, num_tokens);
                    stats.add(&loss.stats);
                    loss.grad
                })
            });
        }
        finite("policy/loss", stats.loss)?;
        let mut grad_norm = finite("policy/grad_norm", self.policy_optimizer.grad_norm())?;
        learned.policy_grad_norm += grad_norm;
        if !ptx_rows.is_empty() {
            let ppo_grads = take_grads(model.parameters(), self.models.value_model.parameters());
            let loss = ptx_backward(model, ptx_rows, self.config.ptx.coef, config.microbatch_tokens);
            let norm = self.policy_optimizer.grad_norm();
            add_grads(model.parameters(), ppo_grads);
            learned.ptx_loss += finite("ptx/loss", loss)?;
            learned.ptx_grad_norm += finite("ptx/grad_norm", norm)?;
            grad_norm = self.policy_optimizer.grad_norm();
        }
        Ok((stats, grad_norm))
    }

    /// Accumulates the value model's gradient over the microbatches of a minibatch; returns the loss and the clipped part.
    fn value_gradient(
        &self,
        rollout: &Rollout,
        microbatches: &[Rows],
        targets: &Targets,
        mut ahead: Option<Tensor>,
    ) -> (f64, f64) {
        let num_tokens = num_tokens(rollout, microbatches);
        let (mut total, mut clip_frac) = (0.0, 0.0);
        for rows in microbatches {
            let layout = rollout.layout(rows, self.models.policy.device());
            let values = ahead.take().unwrap_or_else(|| values(&self.models.value_model, &layout)); // (N)
            let of = |flat: &[f32]| Tensor::from_slice(&targets.gather(flat, rows)).to_device(values.device()); // (N)
            let (old_values, returns) = (of(&targets.old_values), of(&targets.returns));
            let loss = value_loss(&values, &old_values, &returns, self.config.ppo.cliprange_value, num_tokens);
            self.models.value_model.backward(&loss.loss);
            total += loss.loss.double_value(&[]);
            clip_frac += loss.clip_frac;
        }
        (total, clip_frac)
    }

    /// Repeats the last optimiser step that a record tells of, with the weights as they stand, on what the record says.
    pub(crate) fn repeat_update(&mut self, mut record: Record) -> Result<()> {
        let (targets, rollout, phase) = (Targets::new(&record), record.rollout.clone(), self.phase_at(record.step));
        let minibatch = record.minibatches.pop().expect("a record of an optimiser step").rows;
        self.record = Some(record);
        self.update(&rollout, &minibatch, &targets, phase, None, &mut Learned::default())
    }

    /// Samples responses to the prompts of `step`. The draws of a response depend on its prompt and sample alone, and on how often
    /// the step has had that prompt before.
    fn sample(&self, step: u64) -> Result<Rollout> {
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
        // Sampling fails for one reason.
        let responses =
            responses.map_err(|_| Error::NonFinite { what: "a logit of the policy".to_owned(), number: f64::NAN })?;
        Ok(Rollout { prompt_rows, prompts, samples, responses })
    }

    /// Rows of the prompts of `step`.
    pub(crate) fn prompt_rows(&self, step: u64) -> Vec<usize> {
        self.batches.rows(step).collect()
    }

    /// Generates with a model as it stands: the policy or its reference.
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
    ) -> Result<Vec<align_model::generate::Response>> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + sampling.max_tokens;
        let max_rows = rollout_rows(self.config.ppo.microbatch_tokens, longest, samples);
        let responses = generate(model, prompts, samples, sampling, max_rows, draws, &mut |_, _, _| {})?;
        Ok(responses.into_iter().flatten().collect())
    }

    /// The rows of each optimiser step: all epochs, minibatch by minibatch, each ordered.
    fn minibatches(&self, step: u64, num_rows: usize) -> Vec<Vec<usize>> {
        let size = self.config.minibatch_rows();
        let mut minibatches = Vec::new();
        for epoch in 0..self.config.ppo.epochs {
            let key = step * self.config.ppo.epochs + epoch;
            let order = Permutation::new(num_rows as u64, self.config.ppo.seed, Purpose::Minibatch, key);
            let shuffled: Vec<usize> = (0..num_rows as u64).map(|row| order.get(row) as usize).collect();
            minibatches.extend(shuffled.chunks(size).map(|rows| {
                let mut rows = rows.to_vec();
                rows.sort_unstable();
                rows
            }));
        }
        minibatches
    }

    /// The scores to reward. The first rollout's give the value model its constant shift.
    pub(crate) fn shape(&mut self, scores: &[f64], ended: &[bool]) -> Vec<f64> {
        let shaped = self.shaping().shape(scores, ended, &mut self.moments);
        if self.value_shift.is_none() {
            let shift = value_shift(&self.moments, self.config.reward.normalize);
            self.models.value_model.set_shift(shift);
            self.value_shift = Some(shift);
        }
        shaped
    }

    fn phase_at(&self, step: u64) -> Phase {
        if step < self.config.ppo.value_warmup_steps { Phase::ValueWarmup } else { Phase::Ppo }
    }

    pub(crate) fn convention(&self) -> Convention {
        Convention { temperature: self.config.rollout.temperature, nucleus: self.sampling.record_nucleus }
    }

    fn shaping(&self) -> ScoreShaping {
        ScoreShaping {
            missing_end: self.config.rollout.missing_end,
            missing_end_value: self.config.rollout.missing_end_value,
            normalize: self.config.reward.normalize,
            clip: self.config.reward.clip,
        }
    }

    fn gae_params(&self) -> GaeParams {
        GaeParams { gamma: self.config.ppo.gamma, gae_lambda: self.config.ppo.gae_lambda }
    }
}

impl Targets {
    fn new(record: &Record) -> Self {
        Self {
            old_logprobs: record.opinions.old_logprobs.clone(),
            old_values: record.opinions.values.clone(),
            advantages: record.advantages.clone(),
            returns: record.returns.clone(),
            offsets: offsets(&record.rollout.lengths()),
        }
    }

    fn gather(&self, flat: &[f32], rows: &[usize]) -> Vec<f32> {
        rows.iter().flat_map(|row| &flat[self.offsets[*row]..self.offsets[row + 1]]).copied().collect()
    }
}

impl Learned {
    /// Writes the means. What was not measured (the policy's loss during the value warm-up) is not a number.
    fn report(&self, metrics: &mut Metrics, phase: Phase, with_ptx: bool, opinions: &Opinions) {
        let mean = |sum: f64| sum / self.updates;
        let trained = |sum: f64| if phase == Phase::Ppo { mean(sum) } else { f64::NAN };
        metrics.set("kl/old", mean(self.policy.approx_kl));
        metrics.set("policy/loss", trained(self.policy.loss));
        metrics.set("policy/clip_frac", mean(self.policy.clip_frac));
        let entropy: f64 = opinions.entropy.iter().map(|nats| f64::from(*nats)).sum();
        metrics.set("policy/entropy", entropy / opinions.entropy.len() as f64);
        metrics.set("policy/ratio_limited", self.policy.num_limited as f64);
        metrics.set("policy/ratio_max", if phase == Phase::Ppo { self.policy.ratio_max } else { 1.0 });
        metrics.set("policy/logprob_gap", self.first_gap);
        metrics.set("policy/grad_norm", mean(self.policy_grad_norm));
        metrics.set("value/loss", mean(self.value_loss));
        metrics.set("value/clip_frac", mean(self.value_clip_frac));
        metrics.set("value/grad_norm", mean(self.value_grad_norm));
        if with_ptx {
            metrics.set("ptx/loss", trained(self.ptx_loss));
            metrics.set("ptx/grad_norm", mean(self.ptx_grad_norm));
        }
    }
}

/// Response tokens of some microbatches.
fn num_tokens(rollout: &Rollout, microbatches: &[Rows]) -> usize {
    microbatches.iter().flatten().map(|row| rollout.responses[*row].tokens.len()).sum()
}

/// Responses that grow at once. A growing token costs its keys and values alone, so there may be more of them than in an update.
pub(crate) fn rollout_rows(microbatch_tokens: usize, longest: usize, samples: usize) -> usize {
    (4 * microbatch_tokens / longest.max(1)).max(samples)
}

/// Where each response starts in the flat (N) order, and where the last one ends.
fn offsets(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Mean and standard deviation (biased) of whole-response numbers.
pub(crate) fn mean_std(numbers: &[f64]) -> (f64, f64) {
    let mut moments = RunningMoments::new();
    moments.update(numbers);
    (moments.mean(), moments.std())
}

/// The part of prompts whose responses are all the same.
fn identical_share(rollout: &Rollout) -> f64 {
    let groups = rollout.responses.chunks(rollout.samples);
    let same = groups.filter(|group| group.len() > 1 && group.iter().all(|r| r.tokens == group[0].tokens)).count();
    same as f64 / rollout.prompts.len() as f64
}

#[cfg(test)]
#[path = "train_tests.rs"]
pub(crate) mod tests;

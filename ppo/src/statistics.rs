//! The metrics of a step, computed after it, by their names in metrics.jsonl. Every mean over tokens uses the
//! response mask, like the losses.

use std::rc::Rc;
use std::time::Instant;

use align_run::metrics::Metrics;

use crate::config::Phase;
use crate::loss::{PolicyStats, explained_variance};
use crate::masked;
use crate::rewards::{RunningMoments, kl_k3, kl_per_response};
use crate::rollout::Rollout;
use crate::trajectory::Trajectory;

/// The statistics of one optimizer step. Fields that the value warm-up does not compute are 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct MinibatchStats {
    /// Of the policy loss.
    pub policy: PolicyStats,
    /// The norm of the policy loss's gradient.
    pub policy_grad_norm: f64,
    /// The value loss.
    pub value_loss: f64,
    /// Fraction of tokens whose value loss is clipped.
    pub value_clip_frac: f64,
    /// The norm of the value loss's gradient.
    pub value_grad_norm: f64,
    /// The loss on pretraining text, without its weight.
    pub ptx_loss: f64,
    /// The norm of the gradient on the text, with its weight.
    pub ptx_grad_norm: f64,
}

/// Sums over the optimizer steps of one PPO step.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpdateStats {
    /// Number of optimizer steps.
    pub updates: u64,
    /// The sums; for maxima the maximum.
    pub sums: MinibatchStats,
    /// The maximum |log-ratio| of the first optimizer step. The weights have not changed since sampling, so
    /// it is 0 but for rounding.
    pub first_max_logratio: f64,
}

impl UpdateStats {
    /// Adds an optimizer step.
    pub fn add(&mut self, step: &MinibatchStats) {
        if self.updates == 0 {
            self.first_max_logratio = step.policy.log_ratio_max;
        }
        self.updates += 1;
        let sums = &mut self.sums;
        sums.policy.add(&step.policy);
        sums.policy_grad_norm += step.policy_grad_norm;
        sums.value_loss += step.value_loss;
        sums.value_clip_frac += step.value_clip_frac;
        sums.value_grad_norm += step.value_grad_norm;
        sums.ptx_loss += step.ptx_loss;
        sums.ptx_grad_norm += step.ptx_grad_norm;
    }
}

/// The result of a step, for its metrics.
pub struct StepReport {
    /// The rollout and everything computed from it.
    pub trajectory: Rc<Trajectory>,
    /// The phase: which models were trained.
    pub phase: Phase,
    /// Statistics of the optimizer steps.
    pub update: UpdateStats,
    /// The weight of the KL penalty in this step.
    pub kl_coef: f64,
    /// The mean of all scores so far.
    pub running_mean: f64,
    /// Whether the run has pretraining text.
    pub has_text: bool,
    /// The token that ends a response.
    pub end_id: i64,
    /// Its duration.
    pub seconds: Seconds,
}

/// The durations of the parts of a step.
#[derive(Debug, Clone, Copy)]
pub struct Seconds {
    /// Sampling.
    pub rollout: f64,
    /// Scores, log-probabilities and values.
    pub score: f64,
    /// Rewards, advantages and optimizer steps.
    pub update: f64,
}

impl Seconds {
    /// The durations of a step that ends now.
    pub fn between(started: Instant, sampled: Instant, evaluated: Instant) -> Self {
        Self {
            rollout: (sampled - started).as_secs_f64(),
            score: (evaluated - sampled).as_secs_f64(),
            update: evaluated.elapsed().as_secs_f64(),
        }
    }
}

impl StepReport {
    /// The step's line of metrics.jsonl.
    pub fn metrics(&self) -> Metrics {
        let Trajectory { rollout, response_mask, stats, scores, kl, rewards, returns, .. } = &*self.trajectory;
        let mut metrics = Metrics::new();
        metrics.set("phase", if self.phase == Phase::Ppo { 1.0 } else { 0.0 });
        let (mean, std) = mean_std(scores);
        metrics.set("score/mean", mean);
        metrics.set("score/std", std);
        metrics.set("score/running_mean", self.running_mean);
        let totals = masked::row_sums(rewards, response_mask);
        metrics.set("reward/mean", totals.iter().sum::<f64>() / scores.len() as f64);
        metrics.set("kl/ref", kl_per_response(kl, response_mask));
        let k3 = kl_k3(&stats.old_logprobs, &stats.ref_logprobs, response_mask);
        metrics.set("kl/ref_k3", kl_per_response(&k3, response_mask));
        metrics.set("kl/coef", self.kl_coef);
        self.set_update(&mut metrics);
        metrics.set("value/explained_variance", explained_variance(&stats.values, returns, response_mask));
        metrics.set("response/tokens", mean_tokens(rollout));
        metrics.set("response/ended", ended_share(rollout, self.end_id));
        metrics.set("response/identical", identical_share(rollout));
        metrics.set("time/rollout", self.seconds.rollout);
        metrics.set("time/score", self.seconds.score);
        metrics.set("time/update", self.seconds.update);
        metrics
    }

    /// Means over the optimizer steps. Values that the phase does not compute (the policy loss in the value
    /// warm-up) are NaN.
    fn set_update(&self, metrics: &mut Metrics) {
        let Trajectory { response_mask, stats, .. } = &*self.trajectory;
        let UpdateStats { updates, sums, first_max_logratio } = &self.update;
        let mean = |sum: f64| sum / *updates as f64;
        let trained = |sum: f64| if self.phase == Phase::Ppo { mean(sum) } else { f64::NAN };
        metrics.set("kl/old", mean(sums.policy.approx_kl));
        metrics.set("policy/loss", trained(sums.policy.loss));
        metrics.set("policy/clip_frac", mean(sums.policy.clip_frac));
        metrics.set("policy/entropy", masked::mean(&stats.entropy, response_mask));
        metrics.set("policy/ratio_limited", sums.policy.num_limited as f64);
        metrics.set("policy/ratio_max", if self.phase == Phase::Ppo { sums.policy.ratio_max } else { 1.0 });
        metrics.set("policy/logprob_gap", *first_max_logratio);
        metrics.set("policy/grad_norm", mean(sums.policy_grad_norm));
        metrics.set("value/loss", mean(sums.value_loss));
        metrics.set("value/clip_frac", mean(sums.value_clip_frac));
        metrics.set("value/grad_norm", mean(sums.value_grad_norm));
        if self.has_text {
            metrics.set("ptx/loss", trained(sums.ptx_loss));
            metrics.set("ptx/grad_norm", mean(sums.ptx_grad_norm));
        }
    }
}

/// Metrics of responses to held-out prompts; `kl` is the divergence per response.
pub(crate) fn of_held_out(rollout: &Rollout, scores: &[f64], kl: f64, end_id: i64) -> Metrics {
    let mut metrics = Metrics::new();
    let (mean, std) = mean_std(scores);
    metrics.set("score_mean", mean);
    metrics.set("score_std", std);
    metrics.set("kl_ref", kl);
    metrics.set("tokens", mean_tokens(rollout));
    metrics.set("ended", ended_share(rollout, end_id));
    metrics
}

/// Mean and biased standard deviation.
pub(crate) fn mean_std(numbers: &[f64]) -> (f64, f64) {
    let mut moments = RunningMoments::new();
    moments.update(numbers);
    (moments.mean(), moments.std())
}

fn mean_tokens(rollout: &Rollout) -> f64 {
    let lengths = rollout.lengths();
    lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
}

/// Fraction of responses with an end token.
fn ended_share(rollout: &Rollout, end_id: i64) -> f64 {
    let ended = rollout.ended(end_id);
    ended.iter().filter(|ended| **ended).count() as f64 / ended.len() as f64
}

/// Fraction of prompts whose responses are all equal.
fn identical_share(rollout: &Rollout) -> f64 {
    let groups = rollout.responses.chunks(rollout.samples);
    let same = groups.filter(|group| group.len() > 1 && group.iter().all(|r| r.tokens == group[0].tokens)).count();
    same as f64 / rollout.prompts.len() as f64
}

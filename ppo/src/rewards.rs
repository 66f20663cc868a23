//! From the reward model's scores to a reward for every token: responses without an end token, normalisation
//! by running statistics, clipping, and the KL penalty.

use crate::masked::{self, EPSILON, Mask, Table};
use serde::{Deserialize, Serialize};

/// How the score of a response that was cut off before its end token changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingEnd {
    /// Not at all.
    None,
    /// A value is subtracted from the score.
    Subtract,
    /// A value replaces the score.
    Replace,
}

/// The scores with a penalty for responses without an end token; those of ended responses are unchanged.
///
/// # Shapes
/// `scores` and `ended` (B) → (B).
pub fn apply_missing_end(scores: &[f64], ended: &[bool], missing_end: MissingEnd, value: f64) -> Vec<f64> {
    assert_eq!(scores.len(), ended.len(), "one flag per score");
    let apply = |(&score, &ended): (&f64, &bool)| match missing_end {
        _ if ended => score,
        MissingEnd::None => score,
        MissingEnd::Subtract => score - value,
        MissingEnd::Replace => value,
    };
    scores.iter().zip(ended).map(apply).collect()
}

/// How scores are normalised before they become rewards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Not at all.
    None,
    /// The running mean is subtracted. Qwen report, section 3.2.2.
    RunningMean,
    /// The running mean is subtracted, and the rest divided by the running standard deviation.
    RunningMeanStd,
}

/// Mean and variance of all values so far, with equal weight. Values are added one by one (Welford), so that
/// the state after a stream does not depend on how it was split into batches, to the last bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningMoments {
    count: u64,
    mean: f64,
    /// Sum of squared distances from the mean.
    m2: f64,
}

impl RunningMoments {
    /// No values yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a batch.
    pub fn update(&mut self, numbers: &[f64]) {
        for &number in numbers {
            self.count += 1;
            let distance = number - self.mean;
            self.mean += distance / self.count as f64;
            self.m2 += distance * (number - self.mean);
        }
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; 0 before the first.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Their biased variance; 0 before the second.
    pub fn variance(&self) -> f64 {
        self.m2 / self.count.max(1) as f64
    }

    /// Their standard deviation (biased); 0 before the second.
    pub fn std(&self) -> f64 {
        self.variance().sqrt()
    }

    /// The normalised scores. Call `update` first: the running statistics include the current batch.
    pub fn normalize(&self, scores: &[f64], normalize: Normalize) -> Vec<f64> {
        let (shift, scale) = match normalize {
            Normalize::None => (0.0, 1.0),
            Normalize::RunningMean => (self.mean, 1.0),
            Normalize::RunningMeanStd => (self.mean, (self.variance() + EPSILON).sqrt().recip()),
        };
        scores.iter().map(|score| (score - shift) * scale).collect()
    }
}

/// The scores clipped to ±`clip`; unchanged when it is absent.
pub fn clip_scores(scores: &[f64], clip: Option<f64>) -> Vec<f64> {
    let clip = clip.unwrap_or(f64::INFINITY);
    scores.iter().map(|score| score.clamp(-clip, clip)).collect()
}

/// How raw scores are converted to those that are rewarded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreNormalization {
    /// How scores of responses without an end token change.
    pub missing_end: MissingEnd,
    /// The value that [`MissingEnd`] subtracts or sets.
    pub missing_end_value: f64,
    /// How scores are normalised.
    pub normalize: Normalize,
    /// Bound of the normalised score.
    pub clip: Option<f64>,
}

impl ScoreNormalization {
    /// The scores to reward. In order: missing ends; an update of the running statistics; normalisation;
    /// clipping.
    ///
    /// # Shapes
    /// `scores` and `ended` (B) → (B).
    pub fn apply(&self, scores: &[f64], ended: &[bool], moments: &mut RunningMoments) -> Vec<f64> {
        let scores = apply_missing_end(scores, ended, self.missing_end, self.missing_end_value);
        moments.update(&scores);
        clip_scores(&moments.normalize(&scores, self.normalize), self.clip)
    }
}

/// The constant that is added to a reward model to initialise the value model: the value at an end token is
/// then the normalised score. `moments` must be those of the first rollout alone.
///
/// A constant does not scale: under [`Normalize::RunningMeanStd`] the initial value is centred, but not
/// divided by the standard deviation.
pub fn value_shift(moments: &RunningMoments, normalize: Normalize) -> f64 {
    match normalize {
        Normalize::None => 0.0,
        Normalize::RunningMean | Normalize::RunningMeanStd => -moments.mean(),
    }
}

/// The unbiased per-token estimate of KL(policy ‖ reference): `logprob − ref_logprob` ("k1"); 0 outside the
/// mask.
///
/// # Shapes
/// All (B, R).
///
/// Source: J. Schulman, "Approximating KL Divergence" (2020).
pub fn kl_k1(logprobs: &Table, ref_logprobs: &Table, response_mask: &Mask) -> Table {
    masked::zip_with(logprobs, ref_logprobs, response_mask, |policy, reference| policy - reference)
}

/// The non-negative per-token estimate of KL(policy ‖ reference): `exp(d) − 1 − d` with `d = ref_logprob −
/// logprob` ("k3"); 0 outside the mask. For reports only: as a reward its gradient is biased.
///
/// # Shapes
/// All (B, R).
///
/// Source: J. Schulman, "Approximating KL Divergence" (2020).
pub fn kl_k3(logprobs: &Table, ref_logprobs: &Table, response_mask: &Mask) -> Table {
    masked::zip_with(logprobs, ref_logprobs, response_mask, |policy, reference| {
        let difference = reference - policy;
        difference.exp_m1() - difference
    })
}

/// The mean over responses of the KL summed over tokens; 0 without responses.
///
/// # Shapes
/// Both (B, R).
pub fn kl_per_response(kl: &Table, response_mask: &Mask) -> f64 {
    masked::sum(kl, response_mask) / kl.nrows().max(1) as f64
}

/// The reward of each token: `−kl_coef · kl`, plus the score on the last token of the response; 0 outside the
/// mask. A response without tokens has no reward.
///
/// # Shapes
/// `scores` (B), `kl` and `response_mask` (B, R) → (B, R).
///
/// # Panics
/// When shapes differ or a row's mask is not a prefix.
///
/// Source: arXiv 1909.08593, equation 2.
pub fn token_rewards(scores: &[f64], kl: &Table, response_mask: &Mask, kl_coef: f64) -> Table {
    assert_eq!(scores.len(), kl.nrows(), "every response needs a score");
    let mut rewards = masked::zip_with(kl, kl, response_mask, |kl, _| -kl_coef * kl);
    for (row, (length, score)) in masked::lengths(response_mask).into_iter().zip(scores).enumerate() {
        if let Some(last) = length.checked_sub(1) {
            rewards[(row, last)] += score;
        }
    }
    rewards
}

/// The weight of the KL penalty over the steps. Checkpoints save its state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum KlController {
    /// A constant weight.
    Fixed {
        /// The weight.
        kl_coef: f64,
    },
    /// A weight that is adapted to the divergence.
    Adaptive {
        /// The current weight.
        kl_coef: f64,
        /// The target divergence, in nats per response.
        target: f64,
        /// Number of responses over which an error is corrected in full.
        horizon: f64,
    },
}

impl KlController {
    /// The current weight.
    pub fn kl_coef(&self) -> f64 {
        match self {
            KlController::Fixed { kl_coef } | KlController::Adaptive { kl_coef, .. } => *kl_coef,
        }
    }

    /// Updates the weight after a step with this mean divergence per response. The adaptive weight is
    /// multiplied by `1 + clip(kl/target − 1, ±0.2) · num_responses / horizon`.
    ///
    /// Source: arXiv 1909.08593, section 2.2.
    pub fn update(&mut self, kl: f64, num_responses: usize) {
        if let KlController::Adaptive { kl_coef, target, horizon } = self {
            let error = (kl / *target - 1.0).clamp(-0.2, 0.2);
            *kl_coef *= 1.0 + error * num_responses as f64 / *horizon;
        }
    }
}

#[cfg(test)]
#[path = "rewards_tests.rs"]
mod tests;

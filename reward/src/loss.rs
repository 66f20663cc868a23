//! The reward model's loss over comparisons, and its statistics.
//!
//! A comparison is a list of dialogues with an order: a chosen and a rejected one, or K ranked ones. A list
//! contributes the mean of its pairs, and the loss is the mean over lists, so that a list of nine answers has
//! the weight of a pair. The scalars of a microbatch are one flat tensor; losses and statistics are the
//! microbatch's contribution to the *batch's* mean, and the contributions add up.

use std::ops::Range;

use tch::{Kind, Tensor};

/// Parameters of the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossParams {
    /// Weight of the mean of (chosen + rejected)², which keeps scores near 0. Arxiv 2312.09244, section 2.
    pub center_coef: f64,
    /// The assumed probability that a label is wrong, in [0, ½).
    pub label_smoothing: f64,
}

/// The pairs of a microbatch, as indices of scalars, with the margin and the weight of each pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs {
    chosen: Vec<i64>,
    rejected: Vec<i64>,
    margins: Vec<f64>,
    weights: Vec<f64>,
    num_comparisons: usize,
}

impl Pairs {
    /// No pairs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a comparison with the scalars at `scalars`, best first: each dialogue is better than all later
    /// ones.
    pub fn push_ranked(&mut self, scalars: Range<usize>) {
        let pairs = ranked_pairs(scalars.len());
        self.push(scalars.start, &pairs, |_| 0.0);
    }

    /// Adds a comparison with the scalars at `scalars` and the data's scores of the same dialogues. Two
    /// dialogues with equal scores are no pair. A comparison without a pair does not count.
    ///
    /// # Panics
    /// When there are not as many scores as scalars.
    pub fn push_scored(&mut self, scalars: Range<usize>, scores: &[f64]) {
        self.push_scored_pairs(scalars, scores, |_| 0.0);
    }

    /// As [`Pairs::push_scored`], with the difference of the data's scores as the margin of each pair.
    ///
    /// # Panics
    /// When there are not as many scores as scalars.
    ///
    /// Source: arXiv 2307.09288, equation 2.
    pub fn push_scored_with_margin(&mut self, scalars: Range<usize>, scores: &[f64]) {
        self.push_scored_pairs(scalars, scores, |(chosen, rejected)| scores[chosen] - scores[rejected]);
    }

    /// Number of comparisons with a pair.
    pub fn num_comparisons(&self) -> usize {
        self.num_comparisons
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    fn push_scored_pairs(&mut self, scalars: Range<usize>, scores: &[f64], margin: impl Fn((usize, usize)) -> f64) {
        assert_eq!(scores.len(), scalars.len(), "every dialogue of a scored list needs a score");
        self.push(scalars.start, &scored_pairs(scores), margin);
    }

    fn push(&mut self, start: usize, pairs: &[(usize, usize)], margin: impl Fn((usize, usize)) -> f64) {
        for &(chosen, rejected) in pairs {
            self.chosen.push((start + chosen) as i64);
            self.rejected.push((start + rejected) as i64);
            self.margins.push(margin((chosen, rejected)));
            self.weights.push(1.0 / pairs.len() as f64);
        }
        self.num_comparisons += usize::from(!pairs.is_empty());
    }
}

/// The pairs (better, worse) of a list of `len` dialogues, best first.
pub fn ranked_pairs(len: usize) -> Vec<(usize, usize)> {
    (0..len).flat_map(|better| (better + 1..len).map(move |worse| (better, worse))).collect()
}

/// The pairs (better, worse) of a list with scores: any two dialogues whose scores differ, ordered by the
/// lower and then the higher index.
pub fn scored_pairs(scores: &[f64]) -> Vec<(usize, usize)> {
    let ordered = |(first, second): (usize, usize)| {
        let difference = scores[first] - scores[second];
        if difference > 0.0 {
            Some((first, second))
        } else if difference < 0.0 {
            Some((second, first))
        } else {
            None
        }
    };
    ranked_pairs(scores.len()).into_iter().filter_map(ordered).collect()
}

/// A microbatch's contribution to the loss.
#[derive(Debug)]
pub struct RewardLoss {
    /// (): the loss, differentiable through the scalars.
    pub loss: Tensor,
    /// The statistics to report.
    pub stats: RewardStats,
}

/// Statistics of the loss; each is a contribution to the batch's mean over comparisons.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RewardStats {
    /// The loss.
    pub loss: f64,
    /// Fraction of pairs whose chosen scalar is higher; a tie counts one half.
    pub accuracy: f64,
    /// Chosen minus rejected scalar.
    pub margin: f64,
}

impl RewardStats {
    /// Adds another microbatch's contribution.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.accuracy += other.accuracy;
        self.margin += other.margin;
    }
}

/// The Bradley-Terry loss, per pair with `x = chosen − rejected − margin`: `−(1 − label_smoothing)·ln σ(x) −
/// label_smoothing·ln σ(−x) + center_coef·(chosen + rejected)²`, averaged over each list's pairs and over the
/// batch's `num_comparisons` lists. `ln σ` is computed without overflow at any x.
///
/// # Shapes
/// `scalars` (S), of any float kind; `pairs` are indices into it.
///
/// Source: arXiv 2203.02155, equation 1.
pub fn reward_loss(scalars: &Tensor, pairs: &Pairs, num_comparisons: usize, params: &LossParams) -> RewardLoss {
    assert_eq!(scalars.dim(), 1, "`scalars` must be flat");
    let (kind, device) = (scalars.kind(), scalars.device());
    let to_scalars = |numbers: &[f64]| Tensor::from_slice(numbers).to_kind(kind).to_device(device);
    let at = |indices: &[i64]| scalars.index_select(0, &Tensor::from_slice(indices).to_device(device));
    let (chosen, rejected) = (at(&pairs.chosen), at(&pairs.rejected)); // (pairs)
    let difference = &chosen - &rejected;
    let logit = &difference - to_scalars(&pairs.margins);
    let weights = to_scalars(&pairs.weights) / num_comparisons.max(1) as f64;

    let mut per_pair = -logit.log_sigmoid() * (1.0 - params.label_smoothing);
    if params.label_smoothing != 0.0 {
        per_pair -= (-&logit).log_sigmoid() * params.label_smoothing;
    }
    if params.center_coef != 0.0 {
        per_pair += (&chosen + &rejected).square() * params.center_coef;
    }
    let loss = (&per_pair * &weights).sum(kind);

    let share = |per_pair: &Tensor| {
        let _no_grad = tch::no_grad_guard();
        (per_pair.to_kind(Kind::Double) * weights.to_kind(Kind::Double)).sum(Kind::Double).double_value(&[])
    };
    let correct = (difference.sign() + 1.0) * 0.5;
    let stats = RewardStats { loss: share(&per_pair), accuracy: share(&correct), margin: share(&difference) };
    RewardLoss { loss, stats }
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;

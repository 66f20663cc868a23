//! Strengths of models from comparisons of pairs: Bradley and Terry's model, and Davidson's, in which a tie
//! is an outcome of its own.

use std::f64::consts::LN_10;

use crate::linear::{Local, maximize};

/// The outcomes of comparisons of two models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairOutcomes {
    /// The index of the model whose response was shown first.
    pub first: usize,
    /// The index of the other model.
    pub second: usize,
    /// How often the first won.
    pub first_wins: f64,
    /// How often they tied.
    pub ties: f64,
    /// How often the second won.
    pub second_wins: f64,
}

/// What a tie is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ties {
    /// Half a win of each (Bradley-Terry, as Chatbot Arena fits it).
    HalfAWin,
    /// An outcome with a probability of its own (Davidson).
    Outcome,
}

/// Whether the response that is shown first may have an advantage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderEffect {
    /// No.
    None,
    /// γ is fitted: the first model has the strength θ + γ/2, the second θ − γ/2.
    FirstShown,
}

/// Fitted strengths.
#[derive(Debug, Clone, PartialEq)]
pub struct Strengths {
    /// (M) The log strength θ of each model; their mean is 0.
    pub theta: Vec<f64>,
    /// The logarithm of Davidson's ν; `None` for Bradley-Terry, and if nothing tied (then ν is 0).
    pub ln_nu: Option<f64>,
    /// γ, the advantage of being shown first.
    pub first_shown: Option<f64>,
    /// Minus the log-likelihood.
    pub negative_log_likelihood: f64,
}

/// The penalty ½ · ridge · |parameters|², which also sets the mean of θ to 0. It is too small to matter for
/// other models, and keeps one that never loses (or never wins) finite.
pub const RIDGE: f64 = 1e-6;

/// Elo ratings of log strengths: 1000 + 400 / ln 10 · (θ − `reference`). FastChat's reference is the mean, 0.
pub fn elo(theta: f64, reference: f64) -> f64 {
    1000.0 + 400.0 / LN_10 * (theta - reference)
}

/// Where the parameters are.
struct Layout {
    ln_nu: Option<usize>,
    first_shown: Option<usize>,
    size: usize,
}

impl Layout {
    fn new(models: usize, pairs: &[PairOutcomes], ties: Ties, order: OrderEffect) -> Self {
        let has_ties = pairs.iter().any(|pair| pair.ties > 0.0);
        let ln_nu = (ties == Ties::Outcome && has_ties).then_some(models);
        let next = models + usize::from(ln_nu.is_some());
        let first_shown = (order == OrderEffect::FirstShown).then_some(next);
        Self { ln_nu, first_shown, size: next + usize::from(first_shown.is_some()) }
    }
}

/// Fits the strengths of `models` models by maximum likelihood with a small ridge ([`RIDGE`]), from those of
/// an earlier fit if given. For i shown before j,
///
/// P(i wins) : P(j wins) : P(tie) = e^(θi + γ/2) : e^(θj − γ/2) : ν e^((θi + θj)/2).
///
/// `None` if the maximum was not found. Models in parts of the data that no comparison connects have no
/// common scale: see [`connected_parts`].
///
/// Source: R. A. Bradley, M. E. Terry, Biometrika 39 (1952); R. R. Davidson, "On extending the Bradley-Terry
/// model to accommodate ties in paired comparison experiments", JASA 65 (1970); the order effect is that of
/// R. R. Davidson, R. J. Beaver, Biometrics 33 (1977), split evenly over the two.
///
/// # Panics
/// When an index is not below `models`.
pub fn fit(
    models: usize,
    pairs: &[PairOutcomes],
    ties: Ties,
    order: OrderEffect,
    start: Option<&Strengths>,
) -> Option<Strengths> {
    assert!(pairs.iter().all(|pair| pair.first.max(pair.second) < models), "indices of models");
    let layout = Layout::new(models, pairs, ties, order);
    let mut point = vec![0.0; layout.size];
    if let Some(start) = start {
        point[..models].copy_from_slice(&start.theta);
        for (index, value) in [(layout.ln_nu, start.ln_nu), (layout.first_shown, start.first_shown)] {
            if let Some(index) = index {
                point[index] = value.unwrap_or(0.0);
            }
        }
    }
    let (point, local) = maximize(point, |point| local(&layout, pairs, ties, point))?;
    let penalty: f64 = point.iter().map(|value| RIDGE / 2.0 * value * value).sum();
    let mean = point[..models].iter().sum::<f64>() / models as f64;
    Some(Strengths {
        theta: point[..models].iter().map(|theta| theta - mean).collect(),
        ln_nu: layout.ln_nu.map(|index| point[index]),
        first_shown: layout.first_shown.map(|index| point[index]),
        negative_log_likelihood: -(local.value + penalty),
    })
}

/// The penalized log-likelihood around a point. Each outcome o has the log-odds xₒᵀβ, so the gradient is
/// Σ (nₒ − n pₒ) xₒ, and the negative Hessian n (Σ pₒ xₒ xₒᵀ − x̄ x̄ᵀ) with x̄ = Σ pₒ xₒ.
fn local(layout: &Layout, pairs: &[PairOutcomes], ties: Ties, point: &[f64]) -> Local {
    let size = layout.size;
    let mut local = Local { value: 0.0, gradient: vec![0.0; size], curvature: vec![0.0; size * size] };
    for pair in pairs {
        let half = if ties == Ties::HalfAWin { pair.ties / 2.0 } else { 0.0 };
        // The parameters that matter here, and how much for each outcome: first, second, tie.
        let parameters = [Some(pair.first), Some(pair.second), layout.ln_nu, layout.first_shown];
        let outcomes = [
            (pair.first_wins + half, [1.0, 0.0, 0.0, 0.5]),
            (pair.second_wins + half, [0.0, 1.0, 0.0, -0.5]),
            (pair.ties, [0.5, 0.5, 1.0, 0.0]),
        ];
        let outcomes = if layout.ln_nu.is_some() { &outcomes[..] } else { &outcomes[..2] };
        let count: f64 = outcomes.iter().map(|(count, _)| count).sum();
        if count == 0.0 {
            continue;
        }
        let parameter = |index: usize| parameters[index].map_or(0.0, |parameter| point[parameter]);
        let logits = outcomes.iter().map(|(_, x)| (0..4).map(|index| x[index] * parameter(index)).sum::<f64>());
        let logits: Vec<f64> = logits.collect();
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = highest + logits.iter().map(|logit| (logit - highest).exp()).sum::<f64>().ln();
        let shares: Vec<f64> = logits.iter().map(|logit| (logit - log_sum).exp()).collect();
        let mut mean = [0.0; 4];
        for ((outcome, share), logit) in outcomes.iter().zip(&shares).zip(&logits) {
            local.value += outcome.0 * (logit - log_sum);
            (0..4).for_each(|index| mean[index] += share * outcome.1[index]);
        }
        for row in 0..4 {
            let Some(at) = parameters[row] else { continue };
            for ((observed, x), share) in outcomes.iter().zip(&shares) {
                local.gradient[at] += (observed - count * share) * x[row];
            }
            for column in 0..4 {
                let Some(other) = parameters[column] else { continue };
                let second = outcomes.iter().zip(&shares).map(|((_, x), share)| share * x[row] * x[column]);
                local.curvature[at * size + other] += count * (second.sum::<f64>() - mean[row] * mean[column]);
            }
        }
    }
    for (index, value) in point.iter().enumerate() {
        local.value -= RIDGE / 2.0 * value * value;
        local.gradient[index] -= RIDGE * value;
        local.curvature[index * size + index] += RIDGE;
    }
    local
}

/// For each model, the smallest index of a model that comparisons connect it with.
pub fn connected_parts(models: usize, pairs: &[PairOutcomes]) -> Vec<usize> {
    let mut part: Vec<usize> = (0..models).collect();
    let compared = |pair: &&PairOutcomes| pair.first_wins + pair.ties + pair.second_wins > 0.0;
    for pair in pairs.iter().filter(compared) {
        let (from, to) = (part[pair.first].max(part[pair.second]), part[pair.first].min(part[pair.second]));
        part.iter_mut().filter(|at| **at == from).for_each(|at| *at = to);
    }
    part
}

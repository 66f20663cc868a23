//! Logistic regression, and the win rate at equal length that it gives.

use crate::linear::{Local, maximize, solve};

/// An observation of a logistic regression.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// (P) The covariates; an intercept is a 1.
    pub covariates: Vec<f64>,
    /// From 0 to 1; ½ is a tie.
    pub outcome: f64,
    /// How often it counts.
    pub weight: f64,
}

/// A fitted logistic regression.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    /// (P) The coefficients.
    pub coefficients: Vec<f64>,
    /// (P) Their standard errors, from the inverse of the negative Hessian.
    pub standard_errors: Vec<f64>,
    /// Minus the log-likelihood, without the ridge.
    pub negative_log_likelihood: f64,
}

/// σ(x) = 1 / (1 + e⁻ˣ).
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// Fits P(outcome) = σ(βᵀx) by maximum likelihood with the penalty ½ · `ridge` · |β|². `None` if the maximum
/// does not exist (separable data without a ridge, or covariates that depend on each other).
///
/// # Panics
/// When observations differ in the number of covariates.
pub fn logistic(observations: &[Observation], ridge: f64) -> Option<Logistic> {
    let size = observations.first()?.covariates.len();
    let evaluate = |beta: &[f64]| {
        let mut local = Local { value: 0.0, gradient: vec![0.0; size], curvature: vec![0.0; size * size] };
        for observation in observations.iter().filter(|observation| observation.weight > 0.0) {
            let Observation { covariates, outcome, weight } = observation;
            assert_eq!(covariates.len(), size, "as many covariates everywhere");
            let logit: f64 = beta.iter().zip(covariates).map(|(beta, x)| beta * x).sum();
            let share = sigmoid(logit);
            // outcome · ln σ(z) + (1 − outcome) · ln σ(−z) = outcome · z − ln(1 + eᶻ)
            local.value += weight * (outcome * logit - (logit.max(0.0) + (-logit.abs()).exp().ln_1p()));
            for row in 0..size {
                local.gradient[row] += weight * (outcome - share) * covariates[row];
                for column in 0..size {
                    local.curvature[row * size + column] +=
                        weight * share * (1.0 - share) * covariates[row] * covariates[column];
                }
            }
        }
        for (index, beta) in beta.iter().enumerate() {
            local.value -= ridge / 2.0 * beta * beta;
            local.gradient[index] -= ridge * beta;
            local.curvature[index * size + index] += ridge;
        }
        local
    };
    let (coefficients, local) = maximize(vec![0.0; size], evaluate)?;
    let variance = |index: usize| {
        let unit: Vec<f64> = (0..size).map(|other| f64::from(u8::from(other == index))).collect();
        solve(&local.curvature, &unit).map(|column| column[index])
    };
    let standard_errors = (0..size).map(|index| variance(index).map(f64::sqrt)).collect::<Option<Vec<_>>>()?;
    let penalty: f64 = coefficients.iter().map(|beta| ridge / 2.0 * beta * beta).sum();
    Some(Logistic { coefficients, standard_errors, negative_log_likelihood: -(local.value + penalty) })
}

/// A comparison of a response with a baseline's: how it ended and how much longer it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthObservation {
    /// 1 for a win, ½ for a tie, 0 for a loss, or a probability in between.
    pub outcome: f64,
    /// Length of the response − length of the baseline's, in characters.
    pub difference: f64,
    /// How often it counts.
    pub weight: f64,
}

/// The ridge of the length regression, so that a model that always wins has a rate.
const LENGTH_RIDGE: f64 = 1e-6;

/// The win rate that is predicted for responses as long as the baseline's: σ(β₀) of the regression
/// P(win) = σ(β₀ + β₁ · tanh(Δ / s)), with s the standard deviation of Δ. `None` if all Δ are equal.
///
/// Source: Y. Dubois, B. Galambosi, P. Liang, T. Hashimoto, "Length-controlled AlpacaEval", arXiv 2404.04475;
/// without its terms for models and instructions.
pub fn length_controlled_win_rate(observations: &[LengthObservation]) -> Option<f64> {
    let weighted = |value: &dyn Fn(&LengthObservation) -> f64| -> f64 {
        observations.iter().map(|observation| observation.weight * value(observation)).sum()
    };
    let count = weighted(&|_| 1.0);
    let mean = weighted(&|observation| observation.difference) / count;
    let variance = weighted(&|observation| (observation.difference - mean).powi(2)) / (count - 1.0);
    if variance.is_nan() || variance <= 0.0 {
        return None;
    }
    let deviation = variance.sqrt();
    let observations: Vec<Observation> = observations
        .iter()
        .map(|&LengthObservation { outcome, difference, weight }| Observation {
            covariates: vec![1.0, (difference / deviation).tanh()],
            outcome,
            weight,
        })
        .collect();
    logistic(&observations, LENGTH_RIDGE).map(|fit| sigmoid(fit.coefficients[0]))
}

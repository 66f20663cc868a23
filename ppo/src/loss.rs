//! The losses of PPO over the flat response tokens of a minibatch, and their statistics.
//!
//! A minibatch is computed in chunks. Each chunk gives its sum over tokens, divided by the number of tokens
//! of the whole *minibatch*. These contributions add up to the mean over the minibatch; how it is
//! split changes only rounding.

use crate::masked::{self, Mask, Table};
use tch::{Kind, Tensor};

/// Log-ratios are clamped to ± this before the exponential, so that no ratio overflows.
pub const LOG_RATIO_LIMIT: f64 = 20.0;

/// A chunk's contribution to the policy loss, with the loss's gradient in closed form.
#[derive(Debug)]
pub struct PolicyLoss {
    /// (N): ∂loss/∂logprob.
    pub grad: Tensor,
    /// The statistics to report.
    pub stats: PolicyStats,
}

/// Statistics of the policy loss. All but the last three are contributions to the minibatch's token mean.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PolicyStats {
    /// The loss.
    pub loss: f64,
    /// Fraction of tokens where clipping binds: the clipped loss is above the unclipped one, and the gradient
    /// is 0.
    pub clip_frac: f64,
    /// KL(old ‖ new) by `ratio − 1 − ln ratio`, which is never negative.
    pub approx_kl: f64,
    /// The maximum ratio.
    pub ratio_max: f64,
    /// The maximum |log-ratio|.
    pub log_ratio_max: f64,
    /// Number of tokens whose log-ratio exceeds ±[`LOG_RATIO_LIMIT`].
    pub num_limited: usize,
}

impl PolicyStats {
    /// Adds another chunk's contribution.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.clip_frac += other.clip_frac;
        self.approx_kl += other.approx_kl;
        self.ratio_max = self.ratio_max.max(other.ratio_max);
        self.log_ratio_max = self.log_ratio_max.max(other.log_ratio_max);
        self.num_limited += other.num_limited;
    }
}

/// The clipped policy loss, which is the negated objective: `loss = Σ max(−A·ratio,
/// −A·clip(ratio, 1 ± cliprange)) / num_tokens`, `ratio = exp(clamp(logprob − old_logprob, ±20))`.
///
/// The gradient is `−A·ratio / num_tokens`, and 0 where clipping binds or the log-ratio is clamped. No graph
/// is recorded.
///
/// # Shapes
/// `logprobs`, `old_logprobs`, `advantages` (N), of one kind; `num_tokens` counts the whole minibatch's
/// tokens.
///
/// Source: arXiv 1707.06347, equation 7.
pub fn policy_loss(
    logprobs: &Tensor,
    old_logprobs: &Tensor,
    advantages: &Tensor,
    cliprange: f64,
    num_tokens: usize,
) -> PolicyLoss {
    flat_alike(&[("logprobs", logprobs), ("old_logprobs", old_logprobs), ("advantages", advantages)]);
    let _no_grad = tch::no_grad_guard();
    let difference = logprobs - old_logprobs;
    let log_ratio = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT);
    let ratio = log_ratio.exp();
    let loss = -advantages * &ratio;
    let clipped_loss = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange);
    let binds = clipped_loss.gt_tensor(&loss);
    let limited = difference.abs().gt(LOG_RATIO_LIMIT);
    let grad = (&loss / num_tokens as f64).masked_fill(&binds.logical_or(&limited), 0.0);
    let share = |tensor: &Tensor| token_mean(tensor, num_tokens);
    let stats = PolicyStats {
        loss: share(&loss.maximum(&clipped_loss)),
        clip_frac: share(&binds),
        approx_kl: share(&(log_ratio.expm1() - &log_ratio)),
        ratio_max: largest(&ratio),
        log_ratio_max: largest(&difference.abs()),
        num_limited: limited.sum(Kind::Int64).int64_value(&[]) as usize,
    };
    PolicyLoss { grad, stats }
}

fn largest(tensor: &Tensor) -> f64 {
    if tensor.numel() == 0 { 0.0 } else { tensor.max().double_value(&[]) }
}

/// A chunk's contribution to the value loss.
#[derive(Debug)]
pub struct ValueLoss {
    /// (): the loss, differentiable through the values.
    pub loss: Tensor,
    /// Fraction of tokens where clipping binds; they have no gradient.
    pub clip_frac: f64,
}

/// Half the squared error of the values. Moving further than `cliprange_value` from the old values does not
/// lower the loss: `½ · Σ max((V − R)², (clip(V, V_old ± cliprange_value) − R)²) / num_tokens`. An infinite
/// range does not clip.
///
/// # Shapes
/// `values`, `old_values`, `returns` (N), of one kind; `num_tokens` counts the whole minibatch's tokens.
///
/// Source: `pposgd`/`ppo2` of openai/baselines, as in arXiv 1909.08593's code; the range 0.15 is the Qwen
/// report's.
pub fn value_loss(
    values: &Tensor,
    old_values: &Tensor,
    returns: &Tensor,
    cliprange_value: f64,
    num_tokens: usize,
) -> ValueLoss {
    flat_alike(&[("values", values), ("old_values", old_values), ("returns", returns)]);
    let moved = values - old_values;
    let clipped = old_values + moved.clamp(-cliprange_value, cliprange_value);
    let loss = (values - returns).square();
    let clipped_loss = (clipped - returns).square();
    // Within the range both losses are equal up to rounding, which does not count as clipping.
    let binds = moved.abs().gt(cliprange_value).logical_and(&clipped_loss.gt_tensor(&loss));
    let clip_frac = token_mean(&binds, num_tokens);
    ValueLoss { loss: loss.maximum(&clipped_loss).sum(loss.kind()) * (0.5 / num_tokens.max(1) as f64), clip_frac }
}

/// A chunk's contribution to a token mean: the sum over the chunk (in f64), divided by the number of tokens
/// of the minibatch.
///
/// # Shapes
/// `tensor` (N).
pub fn token_mean(tensor: &Tensor, num_tokens: usize) -> f64 {
    tensor.detach().sum(Kind::Double).double_value(&[]) / num_tokens.max(1) as f64
}

/// The share of the returns' variance that the values explain: `1 − Var(R − V) / Var(R)` over the response
/// tokens. 1 is perfect, 0 no better than a constant, below 0 worse. 0 if the returns do not vary.
///
/// # Shapes
/// All (B, R).
pub fn explained_variance(values: &Table, returns: &Table, response_mask: &Mask) -> f64 {
    let spread = masked::variance(returns, response_mask);
    if spread == 0.0 {
        return 0.0;
    }
    let residual = masked::zip_with(returns, values, response_mask, |found, value| found - value);
    1.0 - masked::variance(&residual, response_mask) / spread
}

/// Checks that all tensors are (N), with the same N and kind.
fn flat_alike(tensors: &[(&str, &Tensor)]) {
    let (first_name, first) = tensors[0];
    for (name, tensor) in tensors {
        assert_eq!(tensor.dim(), 1, "`{name}` must be flat");
        assert_eq!(tensor.size(), first.size(), "`{name}` must be as long as `{first_name}`");
        assert_eq!(tensor.kind(), first.kind(), "`{name}` must be of the kind of `{first_name}`");
    }
}

#[cfg(test)]
mod tests {
    use crate::masked::mask;
    use ndarray::array;
    use proptest::prelude::*;

    use align_kernels::HOST;

    use super::*;

    fn tensor(numbers: &[f64]) -> Tensor {
        Tensor::from_slice(numbers)
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).expect("a flat tensor of f64")
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
    }

    #[test]
    fn the_first_ratio_is_one() {
        let logprobs = tensor(&[-1.0, -0.25, -3.0]);
        let policy = policy_loss(&logprobs, &logprobs, &tensor(&[1.0, -2.0, 4.0]), 0.2, 3);
        close(
            &[policy.stats.loss, policy.stats.clip_frac, policy.stats.approx_kl, policy.stats.ratio_max],
            &[-1.0, 0.0, 0.0, 1.0],
        );
        close(&numbers(&policy.grad), &[-1.0 / 3.0, 2.0 / 3.0, -4.0 / 3.0]);
    }

    #[test]
    fn clipping_binds_on_the_side_that_gains() {
        // Ratios 1.5, 1.5, 0.5, 0.5 with advantages 1, −1, 1, −1: a further move improves the objective only
        // at the first and the last.
        let (up, down) = (1.5f64.ln(), 0.5f64.ln());
        let policy =
            policy_loss(&tensor(&[up, up, down, down]), &tensor(&[0.0; 4]), &tensor(&[1.0, -1.0, 1.0, -1.0]), 0.2, 4);
        close(&numbers(&policy.grad), &[0.0, 1.5 / 4.0, -0.5 / 4.0, 0.0]);
        close(&[policy.stats.loss], &[(-1.2 + 1.5 - 0.5 + 0.8) / 4.0]);
        assert_eq!((policy.stats.clip_frac, policy.stats.num_limited), (0.5, 0));
    }

    #[test]
    fn a_runaway_token_stays_finite_and_is_counted() {
        for kind in [Kind::Float, Kind::Double] {
            let of = |numbers: &[f64]| tensor(numbers).to_kind(kind);
            let policy = policy_loss(&of(&[0.0, 0.0]), &of(&[-100.0, 100.0]), &of(&[-1.0, 1.0]), 0.2, 2);
            assert_eq!(policy.stats.num_limited, 2);
            assert!(policy.stats.loss.is_finite() && policy.stats.approx_kl.is_finite());
            assert!((policy.stats.ratio_max / 20.0f64.exp() - 1.0).abs() < 1e-6);
            assert_eq!(numbers(&policy.grad), [0.0, 0.0]);
        }
    }

    #[test]
    fn a_clipped_value_has_no_gradient() {
        let values = tensor(&[1.4]).set_requires_grad(true);
        let value = value_loss(&values, &tensor(&[1.0]), &tensor(&[1.3]), 0.15, 1);
        close(&[value.loss.double_value(&[]), value.clip_frac], &[0.01125, 1.0]);
        value.loss.backward();
        assert_eq!(numbers(&values.grad()), [0.0]);
    }

    #[test]
    fn rounding_is_no_clipping() {
        tch::manual_seed(1);
        let near_zero = || Tensor::randn([1000], (Kind::Float, HOST)).clamp(-3.0, 3.0) * 0.02;
        let (old_values, values) = (near_zero(), near_zero());
        let moved = &old_values + (&values - &old_values);
        assert!(!moved.equal(&values), "expected some to be rounded");
        assert_eq!(value_loss(&values, &old_values, &values.zeros_like(), 0.15, 1000).clip_frac, 0.0);
    }

    #[test]
    fn an_infinite_range_is_half_the_squared_error() {
        let values = tensor(&[1.5, -2.0]).set_requires_grad(true);
        let value = value_loss(&values, &tensor(&[1.0, 7.0]), &tensor(&[1.0, 0.0]), f64::INFINITY, 2);
        close(&[value.loss.double_value(&[]), value.clip_frac], &[(0.25 + 4.0) / 4.0, 0.0]);
        value.loss.backward();
        close(&numbers(&values.grad()), &[0.25, -1.0]);
    }

    #[test]
    fn explained_variance_by_hand() {
        let (returns, mask) = (array![[1.0, 3.0], [5.0, f64::NAN]], mask(&[2, 1]));
        assert_eq!(explained_variance(&returns, &returns, &mask), 1.0);
        assert_eq!(explained_variance(&array![[2.0, 2.0], [2.0, 0.0]], &returns, &mask), 0.0);
        // Residuals −1, 0, 1 of returns 1, 3, 5: 1 − (2/3)/(8/3).
        close(&[explained_variance(&array![[2.0, 3.0], [4.0, 0.0]], &returns, &mask)], &[0.75]);
        assert_eq!(explained_variance(&array![[2.0]], &array![[1.0]], &array![[true]]), 0.0);
    }

    #[test]
    fn no_tokens_no_loss() {
        let none = Tensor::zeros([0], (Kind::Float, HOST));
        let policy = policy_loss(&none, &none, &none, 0.2, 0);
        assert_eq!(policy.stats, PolicyStats::default());
        assert_eq!(value_loss(&none, &none, &none, 0.15, 0).loss.double_value(&[]), 0.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// The closed form equals the gradient by automatic differentiation of the same objective, written
        /// with other operations.
        #[test]
        fn the_gradient_is_the_objectives(tokens in prop::collection::vec((-3.0..0.0f64, -3.0..0.0f64, -2.0..2.0f64), 1..8)) {
            let column = |f: fn(&(f64, f64, f64)) -> f64| tensor(&tokens.iter().map(f).collect::<Vec<_>>());
            let (logprobs, old, advantages) = (column(|t| t.0).set_requires_grad(true), column(|t| t.1), column(|t| t.2));
            let ratio = (&logprobs - &old).exp();
            let objective = (&ratio * &advantages).minimum(&(ratio.clip(0.8, 1.2) * &advantages)).mean(Kind::Double);
            (-&objective).backward();
            let policy = policy_loss(&logprobs, &old, &advantages, 0.2, tokens.len());
            prop_assert!((policy.stats.loss + objective.double_value(&[])).abs() < 1e-12);
            for (found, expected) in numbers(&policy.grad).into_iter().zip(numbers(&logprobs.grad())) {
                prop_assert!((found - expected).abs() < 1e-12);
            }
        }

        #[test]
        fn chunks_add_up(tokens in prop::collection::vec((-3.0..0.0f64, -3.0..0.0f64, -2.0..2.0f64), 2..8), cut in 1..7i64) {
            let (n, cut) = (tokens.len(), cut.min(tokens.len() as i64 - 1));
            let column = |f: fn(&(f64, f64, f64)) -> f64| tensor(&tokens.iter().map(f).collect::<Vec<_>>());
            let (logprobs, old, advantages) = (column(|t| t.0), column(|t| t.1), column(|t| t.2));
            let whole = policy_loss(&logprobs, &old, &advantages, 0.2, n);
            let mut stats = PolicyStats::default();
            for (start, length) in [(0, cut), (cut, n as i64 - cut)] {
                let part = |tensor: &Tensor| tensor.narrow(0, start, length);
                stats.add(&policy_loss(&part(&logprobs), &part(&old), &part(&advantages), 0.2, n).stats);
            }
            prop_assert!((stats.loss - whole.stats.loss).abs() < 1e-12);
            prop_assert!((stats.clip_frac - whole.stats.clip_frac).abs() < 1e-12);
            prop_assert!((stats.approx_kl - whole.stats.approx_kl).abs() < 1e-12);
            prop_assert_eq!(stats.ratio_max, whole.stats.ratio_max);
        }
    }
}

//! Means of right answers: their intervals, and whether two of them differ.

use serde::Serialize;

/// The 97.5 % point of the normal distribution, for two-sided 95 % intervals.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % score interval of a proportion observed in `count` trials; [0, 1] without trials.
///
/// Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
/// (1927).
pub fn wilson(proportion: f64, count: u64) -> [f64; 2] {
    if count == 0 {
        return [0.0, 1.0];
    }
    let (count, z2) = (count as f64, Z_95 * Z_95);
    let center = proportion + z2 / (2.0 * count);
    let half_width = Z_95 * (proportion * (1.0 - proportion) / count + z2 / (4.0 * count * count)).sqrt();
    let scale = 1.0 + z2 / count;
    [((center - half_width) / scale).max(0.0), ((center + half_width) / scale).min(1.0)]
}

/// The mean of a sample, and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// Number of values.
    pub count: u64,
    /// Their mean; 0 without values.
    pub mean: f64,
    /// Of the mean: s / √n, s with n − 1 in its denominator; `None` below two values.
    pub stderr: Option<f64>,
}

impl Mean {
    /// Of these values.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let stderr = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
        Self { count: values.len() as u64, mean, stderr }
    }

    /// The variance of the mean; 0 where it is unknown.
    fn variance(&self) -> f64 {
        self.stderr.map_or(0.0, |stderr| stderr * stderr)
    }
}

/// The mean over groups, each of which counts the same. Its variance is that of a stratified sample,
/// Σ s²ₖ/nₖ / K²; groups of one value add nothing to it.
///
/// Source: W. G. Cochran, Sampling Techniques (1977), 5.3.
pub fn macro_mean(groups: &[Mean]) -> Mean {
    let groups_count = (groups.len() as f64).max(1.0);
    let mean = groups.iter().map(|group| group.mean).sum::<f64>() / groups_count;
    let variance = groups.iter().map(Mean::variance).sum::<f64>() / (groups_count * groups_count);
    let count = groups.iter().map(|group| group.count).sum();
    let is_known = groups.iter().any(|group| group.stderr.is_some());
    Mean { count, mean, stderr: is_known.then(|| variance.sqrt()) }
}

/// The standard error that lm-evaluation-harness gives the mean over all values of several groups:
/// √(Σ (nₖ − 1)·nₖ·seₖ² / (Σ nₖ − K) / Σ nₖ).
pub fn pooled_stderr(groups: &[Mean]) -> Option<f64> {
    let total: f64 = groups.iter().map(|group| group.count as f64).sum();
    let squares: f64 = groups.iter().map(|g| (g.count as f64 - 1.0) * g.count as f64 * g.variance()).sum();
    let freedom = total - groups.len() as f64;
    (freedom > 0.0).then(|| (squares / freedom / total).sqrt())
}

/// Fewer values than this are too often all alike for their spread to say anything. Our choice.
pub const FEWEST_FOR_SPREAD: usize = 5;

/// A normal 95 % interval inside [`low`, `high`].
pub fn normal_interval(mean: f64, stderr: f64, [low, high]: [f64; 2]) -> [f64; 2] {
    [(mean - Z_95 * stderr).max(low), (mean + Z_95 * stderr).min(high)]
}

/// Two-sided p of the exact McNemar test: of `first + second` questions that only one of two models answers
/// right, `first` are the first model's. Twice the smaller tail of Binomial(n, ½), at most 1.
///
/// Source: Q. McNemar, Psychometrika 12 (1947); exact form as in statsmodels' `mcnemar(exact=True)`.
pub fn mcnemar_exact(first: u64, second: u64) -> f64 {
    let (count, fewer) = (first + second, first.min(second));
    // ln C(n, k), one factor after the other: 2⁻ⁿ alone underflows.
    let (mut ln_choose, mut tail) = (0.0, 0.0);
    for k in 0..=fewer {
        if k > 0 {
            ln_choose += ((count - k + 1) as f64).ln() - (k as f64).ln();
        }
        tail += (ln_choose - count as f64 * std::f64::consts::LN_2).exp();
    }
    (2.0 * tail).min(1.0)
}

/// The probability that one of `k` programs passes, from `passed` of `count`: 1 − C(n−c, k)/C(n, k).
///
/// Source: Chen et al., "Evaluating Large Language Models Trained on Code" (2021), equation 1.
pub fn pass_at_k(count: u64, passed: u64, k: u64) -> f64 {
    if count - passed < k {
        return 1.0;
    }
    1.0 - (count - passed + 1..=count).map(|n| 1.0 - k as f64 / n as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: the roots of `(p − s)² = z²·p·(1 − p)/n` for 8 and 0 successes of 10, found by
    /// bisection.
    #[test]
    fn wilson_of_known_proportions() {
        for (proportion, [low, high]) in [(0.8, [0.490_162_5, 0.943_317_8]), (0.0, [0.0, 0.277_532_8])] {
            let found = wilson(proportion, 10);
            assert!((found[0] - low).abs() < 1e-7 && (found[1] - high).abs() < 1e-7, "{found:?}");
        }
    }

    /// The observed proportion is 1.96 standard errors away from either end of the interval.
    #[test]
    fn wilson_bounds_solve_their_equation() {
        for (proportion, count) in [(0.5, 1), (0.5, 7), (0.625, 4), (0.7, 10_000)] {
            for bound in wilson(proportion, count) {
                let error = (bound * (1.0 - bound) / count as f64).sqrt();
                assert!(((proportion - bound).abs() / error - Z_95).abs() < 1e-9);
            }
        }
    }

    /// By hand: of 1, 0, 1, 1 the mean is 3/4, Σ(x − m)² = 3/4, so s² = 1/4 and s²/n = 1/16.
    #[test]
    fn the_standard_error_of_a_mean() {
        assert_eq!(Mean::of(&[1.0, 0.0, 1.0, 1.0]), Mean { count: 4, mean: 0.75, stderr: Some(0.25) });
        assert_eq!(Mean::of(&[1.0]), Mean { count: 1, mean: 1.0, stderr: None });
    }

    /// By hand: groups of 4 (mean ¾, variance of the mean 1/16) and 2 (mean ½, s² = ½, variance ¼): macro 5/8
    /// with variance (1/16 + 1/4)/4; micro is 4/6. Pooled: (3·4/16 + 1·2/4) / 4 / 6.
    #[test]
    fn groups_count_the_same_in_a_macro_mean() {
        let groups = [Mean::of(&[1.0, 0.0, 1.0, 1.0]), Mean::of(&[1.0, 0.0])];
        let found = macro_mean(&groups);
        assert_eq!((found.count, found.mean), (6, 0.625));
        assert!((found.stderr.unwrap() - (0.3125_f64 / 4.0).sqrt()).abs() < 1e-15);
        assert!((pooled_stderr(&groups).unwrap() - (1.25_f64 / 24.0).sqrt()).abs() < 1e-15);
    }

    /// By hand: 2·(1 + 5)/2⁵; equal counts; none. The last by Python's
    /// `2 * sum(Fraction(comb(3000, k), 2**3000) for k in range(1401))`.
    #[test]
    fn mcnemar_by_counting() {
        assert!((mcnemar_exact(1, 4) - 0.375).abs() < 1e-15);
        assert_eq!(mcnemar_exact(3, 3), 1.0);
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        let large = mcnemar_exact(1400, 1600);
        assert!((large / 0.0002785639610392337 - 1.0).abs() < 1e-9, "{large}");
    }

    /// By hand: 1 − C(3, 2)/C(5, 2) = 1 − 3/10.
    #[test]
    fn pass_at_k_by_counting() {
        assert!((pass_at_k(5, 2, 2) - 0.7).abs() < 1e-15);
        assert_eq!((pass_at_k(5, 4, 2), pass_at_k(3, 0, 1)), (1.0, 0.0));
        assert!((pass_at_k(4, 1, 1) - 0.25).abs() < 1e-15);
    }
}

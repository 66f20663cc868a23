//! Statistics of held-out responses other than their scores: how varied they are, whether they repeat
//! themselves, and how the score correlates with their length.

use std::collections::HashSet;

use align_run::metrics::Metrics;

/// Length of the n-grams that are counted as repetitions.
const REPEATED: usize = 4;
/// Number of groups by length.
const GROUPS: usize = 10;

/// A group of responses of about the same length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decile {
    /// Mean score.
    pub score: f64,
    /// Mean length, in tokens.
    pub tokens: f64,
}

/// All statistics of this module, under their names in metrics.jsonl without the prefix `eval/<set>/`.
///
/// # Shapes
/// `responses` and `scores`: (B).
pub fn describe(responses: &[&[i64]], scores: &[f64]) -> Metrics {
    let lengths: Vec<f64> = responses.iter().map(|response| response.len() as f64).collect();
    let mut metrics = Metrics::new();
    metrics.set("responses", responses.len() as f64);
    metrics.set("distinct", distinct(responses));
    metrics.set("distinct_1", distinct_n(responses, 1));
    metrics.set("distinct_2", distinct_n(responses, 2));
    metrics.set("repetition", repetition(responses));
    metrics.set("score_length_correlation", correlation(scores, &lengths));
    for (index, decile) in deciles(scores, &lengths).into_iter().flatten().enumerate() {
        metrics.set(format!("decile_{}/score", index + 1), decile.score);
        metrics.set(format!("decile_{}/tokens", index + 1), decile.tokens);
    }
    metrics
}

/// The groups in metrics with names `eval/<set>/…`; empty if the set was too small.
pub fn measured_deciles(metrics: &Metrics, set: &str) -> Vec<Decile> {
    let of = |group: usize, what: &str| metrics.get(&format!("eval/{set}/decile_{group}/{what}"));
    (1..=GROUPS).filter_map(|group| Some(Decile { score: of(group, "score")?, tokens: of(group, "tokens")? })).collect()
}

/// The share of distinct responses.
pub fn distinct(responses: &[&[i64]]) -> f64 {
    responses.iter().collect::<HashSet<_>>().len() as f64 / responses.len().max(1) as f64
}

/// Distinct n-grams over all n-grams of all responses; 0 if no response has n tokens. An n-gram does not
/// cross responses.
///
/// Source: Li et al., "A diversity-promoting objective function for neural conversation models", arXiv
/// 1510.03055.
///
/// # Panics
/// When `n` is 0.
pub fn distinct_n(responses: &[&[i64]], n: usize) -> f64 {
    let all = || responses.iter().flat_map(|response| response.windows(n));
    all().collect::<HashSet<_>>().len() as f64 / all().count().max(1) as f64
}

/// The share of a response's 4-grams that occur earlier in it, averaged over responses; 0 for a response
/// without a 4-gram.
pub fn repetition(responses: &[&[i64]]) -> f64 {
    let share = |response: &&[i64]| {
        let mut seen = HashSet::new();
        let repeated = response.windows(REPEATED).filter(|gram| !seen.insert(*gram)).count();
        repeated as f64 / response.windows(REPEATED).count().max(1) as f64
    };
    responses.iter().map(share).sum::<f64>() / responses.len().max(1) as f64
}

/// Pearson's correlation; 0 if either side is constant.
///
/// # Shapes
/// `xs` and `ys`: (B).
pub fn correlation(xs: &[f64], ys: &[f64]) -> f64 {
    debug_assert_eq!(xs.len(), ys.len(), "pairs");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (x_mean, y_mean) = (mean(xs), mean(ys));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in xs.iter().zip(ys) {
        let (dx, dy) = (x - x_mean, y - y_mean);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    let found = xy / (xx * yy).sqrt();
    if found.is_finite() { found } else { 0.0 }
}

/// The responses, sorted by length (stable) and split into ten groups of equal size up to rounding; `None`
/// with fewer than ten responses.
///
/// # Shapes
/// `scores` and `lengths`: (B).
pub fn deciles(scores: &[f64], lengths: &[f64]) -> Option<[Decile; GROUPS]> {
    let count = lengths.len();
    if count < GROUPS {
        return None;
    }
    let mut rows: Vec<usize> = (0..count).collect();
    rows.sort_by(|a, b| lengths[*a].total_cmp(&lengths[*b]));
    Some(std::array::from_fn(|group| {
        let rows = &rows[group * count / GROUPS..(group + 1) * count / GROUPS];
        let mean = |values: &[f64]| rows.iter().map(|row| values[*row]).sum::<f64>() / rows.len() as f64;
        Decile { score: mean(scores), tokens: mean(lengths) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn ngrams_are_counted_over_all_responses_and_end_with_each() {
        let responses: [&[i64]; 2] = [&[1, 2, 1, 2], &[1, 2]];
        assert_close(distinct_n(&responses, 1), 2.0 / 6.0); // 1 and 2, of 6 tokens
        assert_close(distinct_n(&responses, 2), 2.0 / 4.0); // 12 and 21, of 12 21 12 and 12; "2 1" across the two does not count
        assert_close(distinct_n(&responses, 4), 1.0);
        assert_close(distinct_n(&responses, 5), 0.0);
        assert_close(distinct_n(&[], 1), 0.0);
    }

    #[test]
    fn a_response_repeats_what_it_has_said_not_what_others_have() {
        // The last three of 1234 2341 3412 4123 1234 2341 3412 are repetitions.
        let said_again: &[i64] = &[1, 2, 3, 4, 1, 2, 3, 4, 1, 2];
        assert_close(repetition(&[said_again]), 3.0 / 7.0);
        assert_close(repetition(&[said_again, &[5, 6]]), 3.0 / 14.0);
        assert_close(repetition(&[&[1, 2, 3, 4], &[1, 2, 3, 4]]), 0.0);
        assert_close(repetition(&[&[7; 5]]), 1.0 / 2.0);
        assert_close(repetition(&[]), 0.0);
    }

    #[test]
    fn responses_differ_in_any_token() {
        assert_close(distinct(&[&[1, 2], &[1, 2], &[2, 1], &[1]]), 3.0 / 4.0);
        assert_close(distinct(&[&[1], &[1]]), 1.0 / 2.0);
    }

    #[test]
    fn correlations_of_numbers_small_enough_for_paper() {
        // Deviations (−1.5, −0.5, 0.5, 1.5) and (−0.5, −1.5, 1.5, 0.5): 3 / √(5 · 5).
        assert_close(correlation(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 4.0, 3.0]), 0.6);
        assert_close(correlation(&[0.0, 5.0], &[3.0, 1.0]), -1.0);
        assert_close(correlation(&[1.0, 2.0, 3.0], &[7.0, 7.0, 7.0]), 0.0);
        assert_close(correlation(&[1.0], &[7.0]), 0.0);
        assert_close(correlation(&[], &[]), 0.0);
    }

    #[test]
    fn twelve_responses_make_ten_groups() {
        // Lengths 12 to 1, scores ten times that: groups of 1 1 1 1 2 1 1 1 1 2, shortest first.
        let lengths: Vec<f64> = (1..=12).rev().map(f64::from).collect();
        let scores: Vec<f64> = lengths.iter().map(|length| 10.0 * length).collect();
        let tokens = deciles(&scores, &lengths).unwrap().map(|decile| decile.tokens);
        assert_eq!(tokens, [1.0, 2.0, 3.0, 4.0, 5.5, 7.0, 8.0, 9.0, 10.0, 11.5]);
        let scores = deciles(&scores, &lengths).unwrap().map(|decile| decile.score);
        assert_eq!(scores, [10.0, 20.0, 30.0, 40.0, 55.0, 70.0, 80.0, 90.0, 100.0, 115.0]);
        assert_eq!(deciles(&[0.0; 9], &[1.0; 9]), None);
    }

    #[test]
    fn fewer_than_ten_responses_have_no_deciles() {
        let of = |count: usize| describe(&vec![&[1i64, 2][..]; count], &vec![0.5; count]);
        assert!(of(9).iter().all(|(name, _)| !name.starts_with("decile")));
        let ten = of(10);
        assert_eq!((ten.get("decile_10/score"), ten.get("decile_1/tokens")), (Some(0.5), Some(2.0)));
        assert_eq!((ten.get("responses"), ten.get("score_length_correlation")), (Some(10.0), Some(0.0)));
    }
}

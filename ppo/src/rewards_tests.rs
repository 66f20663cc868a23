use crate::masked::mask;
use ndarray::array;
use proptest::prelude::*;

use super::*;

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }
}

#[test]
fn the_score_lands_on_the_last_counted_token() {
    let expected = [-0.004, 0.002, 1.492];
    let rewards = token_rewards(&[1.5], &array![[0.1, -0.05, 0.2]], &mask(&[3]), 0.04);
    close(&masked::flat(&rewards, &mask(&[3])), &expected);
    let wide_mask = array![[true, true, true, false]];
    let wide = token_rewards(&[1.5], &array![[0.1, -0.05, 0.2, f64::NAN]], &wide_mask, 0.04);
    close(&masked::flat(&wide, &wide_mask), &expected);
    assert_eq!(wide[(0, 3)], 0.0);
    assert_eq!(token_rewards(&[1.5], &array![[0.5]], &array![[false]], 0.04), array![[0.0]]);
}

#[test]
fn rewards_sum_to_the_score_less_the_penalty() {
    let (kl, mask) = (array![[0.1, -0.05, 0.2], [0.3, 0.0, 0.0]], mask(&[3, 1]));
    let sums = masked::row_sums(&token_rewards(&[1.5, -2.0], &kl, &mask, 0.04), &mask);
    close(&sums, &[1.5 - 0.04 * 0.25, -2.0 - 0.04 * 0.3]);
    close(&[kl_per_response(&kl, &mask)], &[0.275]);
}

#[test]
fn kl_estimates_by_hand() {
    let (policy, reference, mask) =
        (array![[-1.0, -2.0, 5.0]], array![[-1.5, -1.0, f64::NAN]], array![[true, true, false]]);
    close(&masked::flat(&kl_k1(&policy, &reference, &mask), &mask), &[0.5, -1.0]);
    // e^-0.5 - 1 + 0.5 and e - 2
    close(
        &masked::flat(&kl_k3(&policy, &reference, &mask), &mask),
        &[0.106_530_659_712_633_4, 0.718_281_828_459_045_1],
    );
}

#[test]
fn a_missing_end_costs_exactly_its_value() {
    let (scores, ended) = ([2.0, 2.0], [true, false]);
    assert_eq!(apply_missing_end(&scores, &ended, MissingEnd::None, 1.0), [2.0, 2.0]);
    assert_eq!(apply_missing_end(&scores, &ended, MissingEnd::Subtract, 1.0), [2.0, 1.0]);
    assert_eq!(apply_missing_end(&scores, &ended, MissingEnd::Replace, -1.0), [2.0, -1.0]);
}

#[test]
fn running_statistics_include_the_batch_and_weigh_all_alike() {
    let shaping = ScoreNormalization {
        missing_end: MissingEnd::None,
        missing_end_value: 1.0,
        normalize: Normalize::RunningMean,
        clip: None,
    };
    let mut moments = RunningMoments::new();
    close(&shaping.apply(&[1.0, 3.0], &[true; 2], &mut moments), &[-1.0, 1.0]);
    // mean of 1, 3, 8 is 4
    close(&shaping.apply(&[8.0], &[true], &mut moments), &[4.0]);
    assert_eq!(moments.count(), 3);
    close(&[moments.mean(), moments.variance()], &[4.0, 26.0 / 3.0]);
}

#[test]
fn shaping_penalises_then_normalises_then_clips() {
    let shaping = ScoreNormalization {
        missing_end: MissingEnd::Subtract,
        missing_end_value: 1.0,
        normalize: Normalize::RunningMean,
        clip: Some(2.0),
    };
    // after the penalty 5, 1, 0, of mean 2: 3 is clipped
    close(&shaping.apply(&[5.0, 2.0, 0.0], &[true, false, true], &mut RunningMoments::new()), &[2.0, -1.0, -2.0]);
}

#[test]
fn one_score_or_equal_scores_stay_finite() {
    for scores in [vec![7.0], vec![7.0, 7.0, 7.0]] {
        let mut moments = RunningMoments::new();
        moments.update(&scores);
        assert!(moments.normalize(&scores, Normalize::RunningMeanStd).iter().all(|&score| score == 0.0));
    }
    assert_eq!(RunningMoments::new().normalize(&[1.0], Normalize::RunningMean), [1.0]);
}

#[test]
fn the_value_at_an_end_token_starts_as_the_normalised_score() {
    let scores = [0.25, -1.5, 4.0];
    let mut moments = RunningMoments::new();
    moments.update(&scores);
    let shift = value_shift(&moments, Normalize::RunningMean);
    let values: Vec<f64> = scores.iter().map(|score| score + shift).collect();
    close(&values, &moments.normalize(&scores, Normalize::RunningMean));
    assert_eq!(value_shift(&moments, Normalize::None), 0.0);
}

#[test]
fn state_survives_json() {
    let mut moments = RunningMoments::new();
    moments.update(&[0.1, 0.2, 0.7]);
    let text = serde_json::to_string(&moments).expect("plain numbers");
    assert_eq!(serde_json::from_str::<RunningMoments>(&text).expect("what was just written"), moments);
    let controller = KlController::Adaptive { kl_coef: 0.1 + 0.2, target: 6.0, horizon: 1e4 };
    let text = serde_json::to_string(&controller).expect("plain numbers");
    assert_eq!(serde_json::from_str::<KlController>(&text).expect("what was just written"), controller);
    assert_eq!(serde_json::to_string(&Normalize::RunningMeanStd).expect("a name"), "\"running-mean-std\"");
}

#[test]
fn controllers_by_hand() {
    let mut fixed = KlController::Fixed { kl_coef: 0.04 };
    fixed.update(100.0, 64);
    assert_eq!(fixed.kl_coef(), 0.04);
    let mut adaptive = KlController::Adaptive { kl_coef: 0.1, target: 6.0, horizon: 10_000.0 };
    adaptive.update(60.0, 1000);
    close(&[adaptive.kl_coef()], &[0.102]);
    adaptive.update(5.4, 1000);
    close(&[adaptive.kl_coef()], &[0.102 * 0.99]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn batches_do_not_matter_to_running_statistics(scores in prop::collection::vec(-100.0..100.0f64, 1..40), cut in 0..40usize) {
        let cut = cut.min(scores.len());
        let (mut whole, mut parts) = Default::default();
        RunningMoments::update(&mut whole, &scores);
        RunningMoments::update(&mut parts, &scores[..cut]);
        RunningMoments::update(&mut parts, &scores[cut..]);
        prop_assert_eq!(whole, parts);

        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        prop_assert!((whole.mean() - mean).abs() < 1e-9);
    }

    #[test]
    fn k3_is_never_negative(policy in -20.0..0.0f64, reference in -20.0..0.0f64) {
        prop_assert!(kl_k3(&array![[policy]], &array![[reference]], &array![[true]])[(0, 0)] >= 0.0);
    }
}

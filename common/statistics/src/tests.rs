//! Comparison with other programs: published examples, and the values of `tests/golden/evaluation/`.

use std::path::Path;

use serde::Deserialize;

use crate::agreement::{Metric, fleiss_kappa, krippendorff_alpha, pairwise_agreement};
use crate::bootstrap::{Draws, ratio_interval};
use crate::comparison_models::{OrderEffect, PairOutcomes, Strengths, Ties, connected_parts, elo, fit};
use crate::logistic::{LengthObservation, Observation, length_controlled_win_rate, logistic};
use crate::sign_tests::{exact_sign_test, sign_permutation_test};
use crate::soft_preferences::soft_win_rate;

const METRICS: [Metric; 4] = [Metric::Nominal, Metric::Ordinal, Metric::Interval, Metric::Ratio];

#[derive(Deserialize)]
struct Golden {
    alpha: Vec<AlphaCase>,
    fleiss: Vec<FleissCase>,
    davidson: Vec<DavidsonCase>,
    logistic: LogisticCase,
    length: LengthCase,
    tests: TestsCase,
    bootstrap: BootstrapCase,
    soft: SoftCase,
}

#[derive(Deserialize)]
struct AlphaCase {
    units: Vec<Vec<Option<f64>>>,
    alpha: Alphas,
}

#[derive(Deserialize)]
struct Alphas {
    nominal: f64,
    ordinal: f64,
    interval: f64,
    ratio: f64,
}

#[derive(Deserialize)]
struct FleissCase {
    table: Vec<Vec<u32>>,
    kappa: f64,
}

#[derive(Deserialize)]
struct DavidsonCase {
    pairs: Vec<(usize, usize, f64, f64, f64)>,
    theta: Vec<f64>,
    ln_nu: f64,
    first_shown: Option<f64>,
    negative_log_likelihood: f64,
}

#[derive(Deserialize)]
struct LogisticCase {
    x: Vec<[f64; 2]>,
    y: Vec<f64>,
    coefficients: Vec<f64>,
    standard_errors: Vec<f64>,
    negative_log_likelihood: f64,
}

#[derive(Deserialize)]
struct LengthCase {
    difference: Vec<f64>,
    outcome: Vec<f64>,
    rate: f64,
}

#[derive(Deserialize)]
struct TestsCase {
    sign: Vec<(u64, u64, f64)>,
    differences: Vec<f64>,
    permutation: f64,
}

#[derive(Deserialize)]
struct BootstrapCase {
    totals: Vec<f64>,
    sizes: Vec<f64>,
    interval: [f64; 2],
}

#[derive(Deserialize)]
struct SoftCase {
    preferences: Vec<f64>,
    win_rate: f64,
    standard_error: f64,
}

/// PandaLM's test set: pairs of models with the labels of three people: 0 tie, 1 first, 2 second.
#[derive(Deserialize)]
struct PandaLm {
    models: Vec<String>,
    rows: Vec<(usize, usize, u8, u8, u8)>,
}

fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/evaluation").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[track_caller]
fn assert_near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
}

fn pair((first, second, first_wins, ties, second_wins): (usize, usize, f64, f64, f64)) -> PairOutcomes {
    PairOutcomes { first, second, first_wins, ties, second_wins }
}

/// Four annotators, twelve units, with gaps: the example of Krippendorff, "Computing Krippendorff's
/// alpha-reliability" (2011), C; the values are those of krippendorff 0.9.0.
#[test]
fn alpha_of_krippendorffs_example() {
    const GAP: f64 = 0.0;
    let annotators = [
        [1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 4.0, 1.0, 2.0, GAP, GAP, GAP],
        [1.0, 2.0, 3.0, 3.0, 2.0, 2.0, 4.0, 1.0, 2.0, 5.0, GAP, 3.0],
        [GAP, 3.0, 3.0, 3.0, 2.0, 3.0, 4.0, 2.0, 2.0, 5.0, 1.0, GAP],
        [1.0, 2.0, 3.0, 3.0, 2.0, 4.0, 4.0, 1.0, 2.0, 5.0, 1.0, GAP],
    ];
    let unit = |index: usize| annotators.iter().map(|given| given[index]).filter(|&value| value != GAP).collect();
    let units: Vec<Vec<f64>> = (0..12).map(unit).collect();
    for (metric, expected) in METRICS.into_iter().zip([0.743421, 0.815388, 0.849107, 0.797403]) {
        assert_near(krippendorff_alpha(&units, metric).unwrap(), expected, 5e-7);
    }
}

#[test]
fn alpha_with_missing_values() {
    for AlphaCase { units, alpha } in read::<Golden>("statistics.json").alpha {
        let units: Vec<Vec<f64>> = units.into_iter().map(|unit| unit.into_iter().flatten().collect()).collect();
        for (metric, expected) in METRICS.into_iter().zip([alpha.nominal, alpha.ordinal, alpha.interval, alpha.ratio]) {
            assert_near(krippendorff_alpha(&units, metric).unwrap(), expected, 1e-12);
        }
    }
    assert_eq!(krippendorff_alpha(&[vec![1.0, 1.0], vec![1.0]], Metric::Nominal), None);
    assert_eq!(krippendorff_alpha(&[vec![1.0], vec![2.0]], Metric::Nominal), None);
}

/// Ten units, fourteen annotators, five categories: the table of Fleiss' κ that reference works print.
#[test]
fn kappa_of_fleiss_example() {
    let table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ];
    assert_near(fleiss_kappa(&table).unwrap(), 0.209931, 5e-7);
    for FleissCase { table, kappa } in read::<Golden>("statistics.json").fleiss {
        assert_near(fleiss_kappa(&table).unwrap(), kappa, 1e-12);
    }
    assert_eq!(fleiss_kappa(&[[2, 1], [1, 1]]), None, "different numbers of annotators");
}

#[test]
fn agreement_of_pandalm() {
    let PandaLm { rows, .. } = read("pandalm.json");
    assert_eq!(rows.len(), 999);
    let labels: Vec<[u8; 3]> = rows.iter().map(|&(_, _, a, b, c)| [a, b, c]).collect();
    let count = |unit: &[u8; 3]| [0, 1, 2].map(|label| unit.iter().filter(|&&given| given == label).count() as u32);
    let table: Vec<[u32; 3]> = labels.iter().map(count).collect();
    assert_near(fleiss_kappa(&table).unwrap(), 0.864175, 5e-7);
    let nominal: Vec<[f64; 3]> = labels.iter().map(|unit| unit.map(f64::from)).collect();
    assert_near(krippendorff_alpha(&nominal, Metric::Nominal).unwrap(), 0.864221, 5e-7);
    // Loss < tie < win of the first response.
    let ordered: Vec<[f64; 3]> = labels.iter().map(|unit| unit.map(|label| [1.0, 2.0, 0.0][label as usize])).collect();
    assert_near(krippendorff_alpha(&ordered, Metric::Ordinal).unwrap(), 0.877464, 5e-7);
    assert_near(krippendorff_alpha(&ordered, Metric::Interval).unwrap(), 0.877217, 5e-7);
    assert_near(pairwise_agreement(&labels).unwrap(), 0.919920, 5e-7);
}

fn pandalm_pairs() -> (usize, Vec<PairOutcomes>) {
    let PandaLm { models, rows } = read("pandalm.json");
    assert_eq!(models, ["bloom-7b", "cerebras-gpt-6.7B", "llama-7b", "opt-7b", "pythia-6.9b"]);
    let verdicts = rows.iter().flat_map(|&(first, second, a, b, c)| [a, b, c].map(|label| (first, second, label)));
    let is = |label, value| f64::from(u8::from(label == value));
    let pairs = verdicts.map(|(first, second, label)| pair((first, second, is(label, 1), is(label, 0), is(label, 2))));
    (models.len(), pairs.collect())
}

/// The ratings that FastChat's `compute_bt` gives for the same verdicts.
#[test]
fn bradley_terry_of_pandalm() {
    let (models, pairs) = pandalm_pairs();
    let fitted = fit(models, &pairs, Ties::HalfAWin, OrderEffect::None, None).unwrap();
    let expected = [997.769, 903.647, 1120.806, 962.769, 1015.009];
    fitted.theta.iter().zip(expected).for_each(|(&theta, expected)| assert_near(elo(theta, 0.0), expected, 2e-3));
    assert_eq!((fitted.ln_nu, fitted.first_shown), (None, None));
}

/// Found by scipy's BFGS.
#[test]
fn davidson_of_pandalm() {
    let (models, pairs) = pandalm_pairs();
    let fitted = fit(models, &pairs, Ties::Outcome, OrderEffect::None, None).unwrap();
    let expected = [-0.01469, -0.62944, 0.78948, -0.24306, 0.09771];
    fitted.theta.iter().zip(expected).for_each(|(&theta, expected)| assert_near(theta, expected, 1e-5));
    assert_near(fitted.ln_nu.unwrap(), -1.34408, 1e-5);
    assert_near(fitted.negative_log_likelihood, 2714.5372, 5e-5);
}

#[test]
fn davidson_with_and_without_an_order_effect() {
    for case in read::<Golden>("statistics.json").davidson {
        let pairs: Vec<PairOutcomes> = case.pairs.iter().copied().map(pair).collect();
        let order = if case.first_shown.is_some() { OrderEffect::FirstShown } else { OrderEffect::None };
        let fitted = fit(4, &pairs, Ties::Outcome, order, None).unwrap();
        fitted.theta.iter().zip(&case.theta).for_each(|(&theta, &expected)| assert_near(theta, expected, 2e-6));
        assert_near(fitted.ln_nu.unwrap(), case.ln_nu, 2e-6);
        assert_near(fitted.negative_log_likelihood, case.negative_log_likelihood, 1e-6);
        assert_eq!(fitted.first_shown.is_some(), case.first_shown.is_some());
        if let (Some(found), Some(expected)) = (fitted.first_shown, case.first_shown) {
            assert_near(found, expected, 2e-6);
        }
        // From its own maximum, nothing changes.
        let again = fit(4, &pairs, Ties::Outcome, order, Some(&fitted)).unwrap();
        again.theta.iter().zip(&fitted.theta).for_each(|(&again, &theta)| assert_near(again, theta, 1e-9));
    }
}

/// Two models: the maximum is in closed form. With w wins, l losses and t ties, e^θ's ratio is (w / l), and
/// ν = t / √(w l).
#[test]
fn davidson_of_two_models_by_hand() {
    let pairs = [pair((0, 1, 24.0, 12.0, 6.0))];
    let Strengths { theta, ln_nu, .. } = fit(2, &pairs, Ties::Outcome, OrderEffect::None, None).unwrap();
    assert_near(theta[0] - theta[1], 4f64.ln(), 1e-6);
    assert_near(ln_nu.unwrap(), 1f64.ln(), 1e-6);
    // 400 points of Elo are odds of ten to one.
    assert_near(elo(10f64.ln(), 0.0), 1400.0, 1e-9);
}

#[test]
fn a_model_that_never_loses_is_finite() {
    let pairs = [pair((0, 1, 20.0, 0.0, 0.0)), pair((1, 2, 10.0, 0.0, 10.0))];
    for ties in [Ties::HalfAWin, Ties::Outcome] {
        let fitted = fit(3, &pairs, ties, OrderEffect::None, None).unwrap();
        assert!(fitted.theta[0] > 5.0 && fitted.theta[0] < 20.0, "{fitted:?}");
        assert!(fitted.theta[0] - fitted.theta[1] > 10.0);
        assert_eq!(fitted.ln_nu, None);
    }
    assert!(fit(2, &[pair((0, 1, 0.0, 5.0, 0.0))], Ties::Outcome, OrderEffect::None, None).is_some());
    assert_eq!(connected_parts(4, &[pair((0, 3, 1.0, 0.0, 0.0)), pair((1, 2, 0.0, 0.0, 0.0))]), [0, 1, 2, 0]);
}

#[test]
fn logistic_regression() {
    let LogisticCase { x, y, coefficients, standard_errors, negative_log_likelihood } =
        read::<Golden>("statistics.json").logistic;
    let observation =
        |(x, &outcome): (&[f64; 2], &f64)| Observation { covariates: vec![1.0, x[0], x[1]], outcome, weight: 1.0 };
    let observations: Vec<Observation> = x.iter().zip(&y).map(observation).collect();
    let fitted = logistic(&observations, 0.0).unwrap();
    fitted.coefficients.iter().zip(&coefficients).for_each(|(&found, &expected)| assert_near(found, expected, 1e-8));
    let errors = fitted.standard_errors.iter().zip(&standard_errors);
    errors.for_each(|(&found, &expected)| assert_near(found, expected, 1e-8));
    assert_near(fitted.negative_log_likelihood, negative_log_likelihood, 1e-8);
    // Weights count as repeated rows.
    let twice: Vec<Observation> = observations.iter().chain(&observations).cloned().collect();
    let mut weighted = observations;
    weighted.iter_mut().for_each(|observation| observation.weight = 2.0);
    let (twice, weighted) = (logistic(&twice, 0.1).unwrap(), logistic(&weighted, 0.1).unwrap());
    twice.coefficients.iter().zip(&weighted.coefficients).for_each(|(&one, &other)| assert_near(one, other, 1e-10));
}

#[test]
fn win_rate_at_equal_length() {
    let LengthCase { difference, outcome, rate } = read::<Golden>("statistics.json").length;
    let observations = difference.iter().zip(&outcome);
    let observations: Vec<LengthObservation> =
        observations.map(|(&difference, &outcome)| LengthObservation { outcome, difference, weight: 1.0 }).collect();
    assert_near(length_controlled_win_rate(&observations).unwrap(), rate, 1e-7);
    let same = [LengthObservation { outcome: 1.0, difference: 3.0, weight: 1.0 }; 4];
    assert_eq!(length_controlled_win_rate(&same), None);
}

#[test]
fn sign_tests() {
    let TestsCase { sign, differences, permutation } = read::<Golden>("statistics.json").tests;
    sign.iter().for_each(|&(wins, losses, p)| assert_near(exact_sign_test(wins, losses), p, 1e-12));
    // By hand: 2 · (1 + 5) / 32.
    assert_near(exact_sign_test(4, 1), 0.375, 1e-12);
    assert_near(exact_sign_test(0, 0), 1.0, 1e-12);
    assert_near(sign_permutation_test(&differences, Draws { count: 10, seed: 0 }), permutation, 1e-12);
    // With equal differences it is the sign test; 80 of them do not fit one word of random bits.
    let votes: Vec<f64> = (0..80).map(|index| if index < 50 { 1.0 } else { -1.0 }).collect();
    let drawn = sign_permutation_test(&votes, Draws { count: 20_000, seed: 1 });
    assert_near(drawn, exact_sign_test(50, 30), 4.0 * (0.0329f64 / 20_000.0).sqrt());
    assert_eq!(drawn, sign_permutation_test(&votes, Draws { count: 20_000, seed: 1 }));
}

/// scipy's percentile interval over 100,000 draws; the tolerance is the noise of ours.
#[test]
fn bootstrap_over_clusters() {
    let BootstrapCase { totals, sizes, interval } = read::<Golden>("statistics.json").bootstrap;
    let sums: Vec<(f64, f64)> = totals.into_iter().zip(sizes).collect();
    let found = ratio_interval(&sums, Draws { count: 10_000, seed: 0 }).unwrap();
    found.iter().zip(interval).for_each(|(&found, expected)| assert_near(found, expected, 0.012));
    assert_eq!(
        ratio_interval(&sums, Draws { count: 500, seed: 3 }),
        ratio_interval(&sums, Draws { count: 500, seed: 3 })
    );
    assert_eq!(ratio_interval(&[], Draws { count: 500, seed: 3 }), None);
}

#[test]
fn soft_preferences() {
    let SoftCase { preferences, win_rate, standard_error } = read::<Golden>("statistics.json").soft;
    let found = soft_win_rate(&preferences).unwrap();
    assert_near(found.win_rate, win_rate, 1e-12);
    assert_near(found.standard_error, standard_error, 1e-12);
    assert_eq!(found.wins + found.draws, preferences.iter().filter(|&&preference| preference >= 0.5).count() as u64);
    assert!(found.draws >= 5);
    assert_eq!(soft_win_rate(&[]), None);
}

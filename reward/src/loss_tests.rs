use proptest::prelude::*;

use super::*;
use crate::data::Margin;

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).expect("a flat tensor of f64")
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }
}

/// A pair and a list of three with a tie.
fn pair_and_list(margin: Margin) -> Pairs {
    let mut pairs = Pairs::new();
    pairs.push_ranked(0..2);
    let scores = [3.0, 1.0, 3.0];
    match margin {
        Margin::OfScores => pairs.push_scored_with_margin(2..5, &scores),
        Margin::None => pairs.push_scored(2..5, &scores),
    }
    pairs
}

const SCALARS: [f64; 5] = [0.3, -1.2, 0.7, 2.0, 1.1];

/// Expected values: `torch.nn.functional.binary_cross_entropy_with_logits` (torch 2.13, f64) with targets of
/// 0.9 on the logits 1.5, −3.3 and −2.9 with weights ½, ¼, ¼, plus 0.05 times the weighted squared sums.
#[test]
fn all_terms_together_equal_torch() {
    let scalars = Tensor::from_slice(&SCALARS).set_requires_grad(true);
    let params = LossParams { center_coef: 0.05, label_smoothing: 0.1 };
    let found = reward_loss(&scalars, &pair_and_list(Margin::OfScores), 2, &params);
    close(&[found.loss.double_value(&[]), found.stats.loss], &[1.824_652_147_763_531_6; 2]);
    found.loss.backward();
    let expected = [-0.086_212_761_903_178, -0.003_787_238_096_822, -0.148_607_202_681_841, 0.573_068_811_912_237];
    close(&numbers(&scalars.grad())[..4], &expected);
    close(&numbers(&scalars.grad())[4..], &[-0.134_461_609_230_396]);
}

#[test]
fn a_list_has_the_weight_of_a_pair() {
    let found = reward_loss(&Tensor::from_slice(&SCALARS), &pair_and_list(Margin::None), 2, &LossParams::default());
    close(&[found.stats.loss, found.stats.accuracy, found.stats.margin], &[0.796_247_221_132_646_2, 0.5, 0.2]);
}

#[test]
fn equal_scalars_have_a_loss_of_ln_2_and_count_half() {
    let mut pairs = Pairs::new();
    pairs.push_ranked(0..2);
    let found = reward_loss(&Tensor::from_slice(&[3.0f32, 3.0]), &pairs, 1, &LossParams::default());
    assert!((found.stats.loss - std::f64::consts::LN_2).abs() < 1e-7);
    assert_eq!((found.stats.accuracy, found.stats.margin), (0.5, 0.0));
}

#[test]
fn far_apart_scalars_stay_finite() {
    for (scalars, loss, gradient) in [([-500.0f32, 500.0], 1000.0, 1.0), ([500.0, -500.0], 0.0, 0.0)] {
        let scalars = Tensor::from_slice(&scalars).set_requires_grad(true);
        let mut pairs = Pairs::new();
        pairs.push_ranked(0..2);
        let found = reward_loss(&scalars, &pairs, 1, &LossParams::default());
        assert_eq!(found.stats.loss, loss);
        found.loss.backward();
        assert_eq!(numbers(&scalars.grad()), [-gradient, gradient]);
    }
}

#[test]
fn a_list_of_ties_does_not_count() {
    let mut pairs = Pairs::new();
    pairs.push_scored(0..3, &[1.0, 1.0, 1.0]);
    assert!(pairs.is_empty() && pairs.num_comparisons() == 0);
    let found = reward_loss(&Tensor::from_slice(&[1.0, 2.0, 3.0]), &pairs, 0, &LossParams::default());
    assert_eq!(found.stats, RewardStats::default());
    assert_eq!(found.loss.double_value(&[]), 0.0);
}

#[test]
fn pairs_of_lists() {
    assert_eq!(ranked_pairs(3), [(0, 1), (0, 2), (1, 2)]);
    assert_eq!(scored_pairs(&[1.0, 3.0, 1.0]), [(1, 0), (1, 2)]);
    assert_eq!(scored_pairs(&[0.5, f64::NAN]), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn microbatches_add_up(scalars in prop::collection::vec(-5.0..5.0f64, 6..=6)) {
        let params = LossParams { center_coef: 0.01, label_smoothing: 0.2 };
        let whole = Tensor::from_slice(&scalars).set_requires_grad(true);
        let mut pairs = Pairs::new();
        pairs.push_ranked(0..2);
        pairs.push_ranked(2..6);
        let expected = reward_loss(&whole, &pairs, 2, &params);
        expected.loss.backward();

        let parts = Tensor::from_slice(&scalars).set_requires_grad(true);
        let mut stats = RewardStats::default();
        for range in [0..2usize, 2..6] {
            let mut pairs = Pairs::new();
            pairs.push_ranked(0..range.len());
            let part = parts.narrow(0, range.start as i64, range.len() as i64);
            let share = reward_loss(&part, &pairs, 2, &params);
            share.loss.backward();
            stats.add(&share.stats);
        }
        prop_assert!((stats.loss - expected.stats.loss).abs() < 1e-12);
        prop_assert!((stats.accuracy - expected.stats.accuracy).abs() < 1e-12);
        prop_assert!((stats.margin - expected.stats.margin).abs() < 1e-12);
        for (found, expected) in numbers(&parts.grad()).into_iter().zip(numbers(&whole.grad())) {
            prop_assert!((found - expected).abs() < 1e-12);
        }
    }

    /// Without centring the loss depends on differences alone.
    #[test]
    fn a_common_shift_changes_nothing(scalars in prop::collection::vec(-5.0..5.0f64, 4..=4), shift in -50.0..50.0f64) {
        let mut pairs = Pairs::new();
        pairs.push_ranked(0..4);
        let loss = |scalars: &Tensor| reward_loss(scalars, &pairs, 1, &LossParams::default()).stats.loss;
        let scalars = Tensor::from_slice(&scalars);
        prop_assert!((loss(&scalars) - loss(&(&scalars + shift))).abs() < 1e-9);
    }
}

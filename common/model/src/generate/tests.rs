//! Sampling: against transformers, and against itself.

use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::*;
use crate::ModelOptions;
use crate::tests::{Golden, NEWER, frozen, tiny, trainable};
use align_core::random::{self, Purpose};
use align_kernels::sampler::Kept;

fn load(model: &str) -> CausalLm {
    CausalLm::load(&tiny(model), &frozen(Kind::Float)).unwrap()
}

/// Numbers that transformers gave, and the rows it read.
fn golden(model: &str) -> (serde_json::Value, Vec<Vec<i64>>) {
    let golden = Golden::read(model);
    let rows = golden.rows();
    (golden.json, rows)
}

fn greedy(max_tokens: usize) -> Sampling {
    Sampling { temperature: 0.0, top_p: 1.0, max_tokens, stop_ids: vec![1], vocab: 313, record_nucleus: false }
}

fn sampled() -> Sampling {
    Sampling { temperature: 1.0, top_p: 0.9, max_tokens: 12, stop_ids: vec![1], vocab: 313, record_nucleus: true }
}

fn ids(json: &serde_json::Value) -> Vec<i64> {
    json.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

fn draws(prompt: usize, sample: usize, position: usize) -> f64 {
    random::uniform(3, Purpose::Generate, prompt as u64, sample as u64, position as u64)
}

/// Also of a model that is trained in 16 bits: it samples with its fp32 weights.
#[test]
fn greedy_tokens_equal_transformers() {
    let in_half = ModelOptions { compute: Kind::BFloat16, ..trainable() };
    for (name, options) in NEWER.into_iter().flat_map(|name| [(name, frozen(Kind::Float)), (name, in_half.clone())]) {
        let (json, rows) = golden(name);
        let expected = ids(&json["greedy_from_first_9_tokens_of_row0"]);
        let model = CausalLm::load(&tiny(name), &options).unwrap();
        let prompts = [rows[0][..9].to_vec()];
        let out = generate(&model, &prompts, 1, &greedy(expected.len()), 4, &|_, _, _| 0.5, &mut |_, _, _| {}).unwrap();
        assert_eq!(out[0][0].tokens, expected, "{name} {options:?}");
    }
}

#[test]
fn greedy_tokens_of_prompts_of_different_lengths_equal_left_padded_transformers() {
    for name in NEWER {
        let (json, rows) = golden(name);
        let expected: Vec<Vec<i64>> =
            json["greedy_left_padded_rows0to2_last20"].as_array().unwrap().iter().map(ids).collect();
        let prompts = [rows[0][4..].to_vec(), rows[1][..17].to_vec(), rows[2][..9].to_vec()];
        let out = generate(&load(name), &prompts, 1, &greedy(12), 8, &|_, _, _| 0.5, &mut |_, _, _| {}).unwrap();
        for (responses, expected) in out.iter().zip(expected) {
            assert_eq!(responses[0].tokens, expected, "{name}");
        }
    }
}

#[test]
fn a_response_does_not_depend_on_who_shares_its_batch() {
    let model = load("qwen2_tied_gqa");
    let (_, rows) = golden("qwen2_tied_gqa");
    let prompts: Vec<Vec<i64>> = (3..12).map(|length| rows[0][..length].to_vec()).collect();
    // Batches of other shapes round differently, so ids near the edge of a nucleus may come and go; tokens stay.
    let sampling = Sampling { record_nucleus: false, ..sampled() };
    let run = |max_rows| generate(&model, &prompts, 2, &sampling, max_rows, &draws, &mut |_, _, _| {}).unwrap();
    let together = run(64);
    assert_eq!(run(1), together);
    assert_eq!(run(5), together);
    assert_ne!(together[0][0].tokens, together[0][1].tokens);
}

#[test]
fn every_token_is_reported_and_lies_in_its_nucleus() {
    let model = load("qwen3_tied_gqa");
    let (_, rows) = golden("qwen3_tied_gqa");
    let prompts = [rows[0][..5].to_vec(), rows[1][..8].to_vec()];
    let mut seen = vec![vec![Vec::new(); 3]; 2];
    let out = generate(&model, &prompts, 3, &sampled(), 4, &draws, &mut |prompt, sample, token| {
        seen[prompt][sample].push(token);
    })
    .unwrap();
    for (prompt, responses) in out.iter().enumerate() {
        for (sample, response) in responses.iter().enumerate() {
            assert_eq!(response.tokens, seen[prompt][sample]);
            assert_eq!(response.nucleus.len(), response.tokens.len());
            assert!(response.nucleus.iter().zip(&response.tokens).all(|(kept, token)| kept.contains(token)));
            assert_eq!(response.ended, response.tokens.last() == Some(&1));
            assert!(response.tokens.len() == 12 || response.ended);
        }
    }
}

fn kept(probabilities: &[f32], top_p: f64) -> Kept {
    let total = probabilities.iter().map(|probability| f64::from(*probability)).sum();
    Kept::nucleus(probabilities, total, top_p)
}

/// The kept ids.
fn nucleus(probabilities: &[f32], top_p: f64) -> Vec<i64> {
    kept(probabilities, top_p).ids(probabilities)
}

#[test]
fn top_p_keeps_tokens_with_less_than_p_above_them() {
    assert_eq!(nucleus(&[0.15, 0.5, 0.05, 0.3], 0.9), [0, 1, 3]);
    assert_eq!(nucleus(&[0.15, 0.5, 0.05, 0.3], 1e-6), [1]);
    assert_eq!(nucleus(&[0.25; 4], 0.3), [0, 1], "of ties, the lower ids");
    let mut many = vec![0.5 / 1024.0; 1025];
    many[7] = 0.5;
    assert_eq!(nucleus(&many, 0.75).len(), 1 + 512, "a flat tail is cut where the mass is reached");
}

#[test]
fn a_draw_is_the_inverse_of_the_cumulated_kept_mass() {
    let probabilities = [0.45, 0.0, 0.25, 0.1, 0.2];
    let all = |draw| kept(&probabilities, 2.0).draw(&probabilities, draw);
    assert_eq!([0.0, 0.44, 0.46, 0.69, 0.71, 0.81, 1.0 - 1e-12].map(all), [0, 0, 2, 2, 3, 4, 4]);
    let most = |draw| kept(&probabilities, 0.8).draw(&probabilities, draw);
    assert_eq!([0.0, 0.49, 0.51, 0.77, 0.79, 1.0].map(most), [0, 0, 2, 2, 4, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against sorting everything and walking down.
    #[test]
    fn a_nucleus_found_by_bisection_is_the_sorted_one(
        weights in prop::collection::vec(prop_oneof![0.0..1.0f64, Just(0.5), 1e-9..1e-6f64, Just(0.0)], 1..3000),
        top_p in 0.01..1.0f64,
        draw in 0.0..1.0f64,
    ) {
        let total = weights.iter().sum::<f64>();
        prop_assume!(total > 0.0);
        let probabilities: Vec<f32> = weights.iter().map(|weight| (weight / total) as f32).collect();
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&one, &other| probabilities[other].total_cmp(&probabilities[one]));
        let mut above = 0.0;
        let (mut expected, mut close) = (Vec::new(), false);
        for id in order {
            close |= (above - top_p).abs() < 1e-12;
            if above < top_p {
                expected.push(id as i64);
            }
            above += f64::from(probabilities[id]);
        }
        prop_assume!(!close); // the order of a sum may decide
        expected.sort_unstable();
        prop_assert_eq!(&nucleus(&probabilities, top_p), &expected);

        let mass: f64 = expected.iter().map(|&id| f64::from(probabilities[id as usize])).sum();
        let token = kept(&probabilities, top_p).draw(&probabilities, draw);
        prop_assert!(expected.contains(&token));
        let below: f64 = expected.iter().filter(|&&id| id < token).map(|&id| f64::from(probabilities[id as usize])).sum();
        let own = f64::from(probabilities[token as usize]);
        prop_assert!(below - 1e-9 <= draw * mass && draw * mass <= below + own + 1e-9);
    }
}

/// The tokens that transformers' own warpers keep, and their renormalised probabilities.
#[test]
fn temperature_and_top_p_equal_transformers() {
    let mut num_cases = 0;
    for name in NEWER {
        let golden = Golden::read(name);
        let logits = golden.array("logits").get(0).get(20).to_kind(Kind::Float); // (V)
        for case in golden.json["warpers_on_row0_pos20"].as_array().unwrap() {
            let number = |key: &str| case[key].as_f64().unwrap();
            // What else they can do, we do not offer.
            if number("top_k") != 0.0 || number("min_p") != 0.0 || number("repetition_penalty") != 1.0 {
                continue;
            }
            num_cases += 1;
            let probabilities =
                Vec::<f32>::try_from((&logits / number("temperature")).softmax(-1, Kind::Float)).unwrap();
            let kept = nucleus(&probabilities, number("top_p"));
            let mass: f64 = kept.iter().map(|&id| f64::from(probabilities[id as usize])).sum();
            let renormalised = kept.iter().map(|&id| f64::from(probabilities[id as usize]) / mass);
            let squares: f64 = renormalised.clone().map(|probability| probability * probability).sum();
            assert!((squares / number("probs_sum_sq") - 1.0).abs() < 1e-4, "{name}: {case}");
            if let Some(expected) = case["probs_kept"].as_array() {
                assert_eq!(kept, ids(&case["kept"]), "{name}");
                for (ours, theirs) in renormalised.zip(expected) {
                    assert!((ours / theirs.as_f64().unwrap() - 1.0).abs() < 1e-3, "{name}");
                }
            }
        }
    }
    assert_eq!(num_cases, 2 * NEWER.len());
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let logits = Tensor::from_slice(&[0.0f32, f32::NAN, 1.0]).view([1, 3]);
    for sampling in [Sampling { top_p: 1.0, ..sampled() }, sampled(), greedy(1)] {
        assert!(pick(logits.copy(), &sampling, |_| 0.5).is_err());
    }
}

#[test]
fn unused_rows_of_the_vocabulary_are_never_drawn() {
    let logits = Tensor::from_slice(&[0.0f32, 1.0, 50.0]).view([1, 3]);
    let sampling = Sampling { vocab: 2, ..sampled() };
    for draw in [0.0, 0.5, 0.999] {
        assert!(pick(logits.copy(), &sampling, |_| draw).unwrap()[0].token < 2);
    }
    assert_eq!(pick(logits, &Sampling { vocab: 2, ..greedy(1) }, |_| 0.0).unwrap()[0].token, 1);
}

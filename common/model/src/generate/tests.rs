//! Sampling: against transformers, and against itself.

use tch::{Kind, Tensor};

use super::*;
use crate::ModelOptions;
use crate::tests::{Golden, NEWER, frozen, tiny, trainable};
use align_core::random::{self, Purpose};
use align_kernels::sampling::Sample;

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

/// One draw from each row of logits.
fn sample(logits: &Tensor, sampling: &Sampling, draw: f64) -> Result<Vec<Sample>> {
    frozen(Kind::Float).ops().sample(logits.copy(), sampling, &|_| draw)
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
        let out = generate(&model, &prompts, 1, &greedy(expected.len()), 4, &|_, _, _| 0.5, &mut |_, _, _| {
            ControlFlow::Continue(())
        })
        .unwrap();
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
        let out =
            generate(
                &load(name),
                &prompts,
                1,
                &greedy(12),
                8,
                &|_, _, _| 0.5,
                &mut |_, _, _| ControlFlow::Continue(()),
            )
            .unwrap();
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
    // Batches of other shapes round differently, so ids near the edge of a nucleus may come and go; tokens
    // stay.
    let sampling = Sampling { record_nucleus: false, ..sampled() };
    let run = |max_rows| {
        generate(&model, &prompts, 2, &sampling, max_rows, &draws, &mut |_, _, _| ControlFlow::Continue(())).unwrap()
    };
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
        ControlFlow::Continue(())
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
            let sampling = Sampling { temperature: number("temperature"), top_p: number("top_p"), ..sampled() };
            let kept = sample(&logits.unsqueeze(0), &sampling, 0.5).unwrap()[0].nucleus.clone().unwrap();
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
        assert!(sample(&logits, &sampling, 0.5).is_err());
    }
}

#[test]
fn unused_rows_of_the_vocabulary_are_never_drawn() {
    let logits = Tensor::from_slice(&[0.0f32, 1.0, 50.0]).view([1, 3]);
    let sampling = Sampling { vocab: 2, ..sampled() };
    for draw in [0.0, 0.5, 0.999] {
        assert!(sample(&logits, &sampling, draw).unwrap()[0].token < 2);
    }
    assert_eq!(sample(&logits, &Sampling { vocab: 2, ..greedy(1) }, 0.0).unwrap()[0].token, 1);
}

#[test]
fn a_break_ends_one_response_and_leaves_the_others_alone() {
    let model = load("qwen3_tied_gqa");
    let (_, rows) = golden("qwen3_tied_gqa");
    let prompts = [rows[0][..5].to_vec(), rows[1][..8].to_vec(), rows[0][..3].to_vec()];
    let whole = generate(&model, &prompts, 1, &greedy(9), 2, &|_, _, _| 0.5, &mut |_, _, _| ControlFlow::Continue(()));
    let mut drawn = 0;
    let cut = generate(&model, &prompts, 1, &greedy(9), 2, &|_, _, _| 0.5, &mut |prompt, _, _| {
        drawn += usize::from(prompt == 1);
        if prompt == 1 && drawn == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let (whole, cut) = (whole.unwrap(), cut.unwrap());
    assert_eq!(cut[1][0].tokens, whole[1][0].tokens[..4]);
    assert!(!cut[1][0].ended);
    assert_eq!([&cut[0], &cut[2]], [&whole[0], &whole[2]]);
}

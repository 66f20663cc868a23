//! Whole steps of four tiny models: what must hold whatever they say.

use align_kernels::HOST;
use std::path::PathBuf;

use align_model::generate::Response;
use align_model::{CausalLm, ModelOptions, Parameter, ScalarModel};
use align_train::optim::AdamWOptions;
use tch::{Kind, Tensor};

use super::*;
use crate::rewards::Normalize;

/// The token that ends a response, and the one that pads elsewhere.
pub(crate) const END: i64 = 1;
pub(crate) const PAD: i64 = 0;

fn tiny(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tiny_models")).join(name)
}

fn options(trainable: bool) -> ModelOptions {
    ModelOptions { device: HOST, compute: Kind::Float, trainable, recompute_layers: false }
}

/// A trainer on prompts of different lengths; `edit` changes the defaults.
pub(crate) fn trainer(edit: impl FnOnce(&mut PpoConfig)) -> Trainer {
    let mut config = PpoConfig::default();
    config.rollout.prompts_per_step = 3;
    config.rollout.max_response_tokens = 6;
    config.ppo.value_warmup_steps = 0;
    config.ppo.microbatch_tokens = 24; // several microbatches a minibatch
    config.ppo.policy_lr = 1e-3;
    config.ppo.value_lr = 1e-3;
    edit(&mut config);
    let folder = tiny("qwen2_tied_gqa");
    let models = Models {
        policy: CausalLm::load(&folder, &options(true)).unwrap(),
        ref_policy: CausalLm::load(&folder, &options(false)).unwrap(),
        value_model: ScalarModel::load(&folder, &options(true), 7).unwrap(),
        reward_model: ScalarModel::load(&folder, &options(false), 7).unwrap(),
    };
    let optimizer = |parameters: &[Parameter]| {
        let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0 };
        AdamW::new(parameters.iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor)), options)
    };
    let prompts = vec![vec![5, 9, 31], vec![7, 7, 7, 200, 12, 4, 8], vec![40], vec![250, 3, 17, 99]];
    Trainer {
        policy_optimizer: optimizer(models.policy.parameters()),
        value_optimizer: optimizer(models.value_model.parameters()),
        batches: config.batches(prompts.len()),
        prompts,
        ptx: None,
        moments: RunningMoments::new(),
        kl_controller: KlController::Fixed { kl_coef: config.reward.kl_coef },
        sampling: Sampling {
            temperature: config.rollout.temperature,
            top_p: config.rollout.top_p,
            max_tokens: config.rollout.max_response_tokens,
            stop_ids: vec![END, PAD],
            vocab: 313,
            record_nucleus: config.rollout.logprobs == crate::config::Logprobs::Nucleus,
        },
        end_id: END,
        reading: Reading::default(),
        value_shift: None,
        record: None,
        config,
        models,
    }
}

fn weights(parameters: &[Parameter]) -> Vec<Tensor> {
    parameters.iter().map(|parameter| parameter.tensor.detach().copy()).collect()
}

fn same(one: &[Tensor], other: &[Tensor]) -> bool {
    one.iter().zip(other).all(|(one, other)| one.equal(other))
}

#[test]
fn before_the_first_update_the_policy_is_its_reference_under_either_convention() {
    for logprobs in [crate::config::Logprobs::Full, crate::config::Logprobs::Nucleus] {
        let mut trainer = trainer(|config| {
            config.rollout.temperature = 0.7;
            config.rollout.logprobs = logprobs;
        });
        let metrics = trainer.step(0).unwrap().metrics();
        assert!(metrics.get("kl/ref").unwrap().abs() < 1e-6, "{logprobs:?}");
        assert_eq!(
            metrics.get("policy/ratio_max"),
            Some(1.0),
            "the microbatches of the update are those of the rollout"
        );
        assert_eq!((metrics.get("policy/clip_frac"), metrics.get("policy/logprob_gap")), (Some(0.0), Some(0.0)));
        assert!(metrics.get("policy/grad_norm").unwrap() > 0.0);
        let moved = trainer.step(1).unwrap().metrics();
        assert!(moved.get("kl/ref_k3").unwrap() > 1e-6, "{logprobs:?}");
    }
}

#[test]
fn the_value_warmup_leaves_the_policy_and_nothing_moves_the_frozen_models() {
    let mut trainer = trainer(|config| config.ppo.value_warmup_steps = 2);
    let policy = weights(trainer.models.policy.parameters());
    let value = weights(trainer.models.value_model.parameters());
    let frozen = [trainer.models.ref_policy.parameters(), trainer.models.reward_model.parameters()].map(weights);
    for step in 0..2 {
        let metrics = trainer.step(step).unwrap().metrics();
        assert!(metrics.get("kl/ref").unwrap().abs() < 1e-6);
        assert_eq!(metrics.get("phase"), Some(0.0));
    }
    assert!(same(&policy, &weights(trainer.models.policy.parameters())));
    assert!(!same(&value, &weights(trainer.models.value_model.parameters())));
    assert_eq!((trainer.policy_optimizer.steps(), trainer.value_optimizer.steps()), (0, 2));

    trainer.step(2).unwrap();
    assert!(!same(&policy, &weights(trainer.models.policy.parameters())));
    assert_eq!((trainer.policy_optimizer.steps(), trainer.value_optimizer.steps()), (1, 3));
    let after = [trainer.models.ref_policy.parameters(), trainer.models.reward_model.parameters()].map(weights);
    assert!(frozen.iter().zip(&after).all(|(before, after)| same(before, after)));
}

/// The KL is 0 before the policy moves: an adaptive coefficient must not take that for an answer.
#[test]
fn an_adaptive_kl_coefficient_waits_for_the_policy() {
    let mut trainer = trainer(|config| config.ppo.value_warmup_steps = 2);
    trainer.kl_controller = KlController::Adaptive { kl_coef: 0.1, target: 6.0, horizon: 100.0 };
    let logged: Vec<f64> = (0..4).map(|step| trainer.step(step).unwrap().metrics().get("kl/coef").unwrap()).collect();
    assert_eq!(logged[..3], [0.1; 3], "a step logs the weight that it used");
    assert!(logged[3] < 0.1);
}

#[test]
fn a_prompt_that_a_step_has_several_times_gets_responses_of_its_own_each_time() {
    let mut trainer = trainer(|_| {});
    trainer.prompts.truncate(1);
    trainer.batches = trainer.config.batches(1);
    let rollout = trainer.sample(0).unwrap();
    assert_eq!(rollout.prompt_rows, [0; 3]);
    let mut responses: Vec<_> = rollout.responses.iter().map(|response| response.tokens.clone()).collect();
    responses.sort();
    responses.dedup();
    assert_eq!(responses.len(), 6);
}

#[test]
fn the_value_model_starts_as_the_reward_model_less_the_first_mean_score() {
    for (normalize, centred) in [(Normalize::RunningMean, true), (Normalize::None, false)] {
        let mut trainer = trainer(|config| {
            config.reward.normalize = normalize;
            config.rollout.missing_end = crate::rewards::MissingEnd::None;
            config.ppo.value_lr = 0.0;
        });
        let trajectory = trainer.step(0).unwrap().trajectory;
        let mean = trajectory.scores.iter().sum::<f64>() / trajectory.scores.len() as f64;
        let rollout = &trajectory.rollout;
        let (flat, ends) = rollout.reward_model_batch(&rollout.rows(), END, &Reading::default(), HOST);
        let values =
            trainer.models.value_model.scalars(&trainer.models.value_model.hidden(&flat, None).index_select(0, &ends));
        for (value, score) in Vec::<f32>::try_from(values.detach()).unwrap().into_iter().zip(&trajectory.scores) {
            let expected = if centred { score - mean } else { *score };
            assert!((f64::from(value) - expected).abs() < 1e-5, "{value} is not {expected}");
        }
    }
}

#[test]
fn while_the_policy_has_not_moved_one_pass_serves_policy_and_reference_to_the_bit() {
    for logprobs in [crate::config::Logprobs::Full, crate::config::Logprobs::Nucleus] {
        let mut trainer = trainer(|config| {
            config.rollout.logprobs = logprobs;
            config.ppo.value_warmup_steps = 1;
        });
        let rollout = trainer.step(0).unwrap().trajectory.rollout.clone();
        let evaluate =
            |reference| trainer.models.evaluate(&rollout, &[rollout.rows()], trainer.convention(), reference);
        let (one, two) = (evaluate(ReferencePass::OfPolicy), evaluate(ReferencePass::Own));
        assert_eq!(one.ref_logprobs, two.ref_logprobs);
        assert_eq!(one.old_logprobs, two.ref_logprobs);
    }
}

#[test]
fn an_update_goes_on_from_the_passes_that_evaluated_to_the_bit() {
    for phase in [Phase::ValueWarmup, Phase::Ppo] {
        let step = |reuse: bool| {
            let mut trainer = trainer(|config| {
                config.ppo.microbatch_tokens = 4096;
                config.ppo.value_warmup_steps = u64::from(phase == Phase::ValueWarmup);
            });
            let rollout = trainer.sample(0).unwrap();
            assert_eq!(rollout.split_into_microbatches(&rollout.rows(), 4096).len(), 1);
            let (convention, own) = (trainer.convention(), ReferencePass::Own);
            let (stats, reused) = if reuse {
                let (stats, reused) = trainer.models.evaluate_for_update(&rollout, convention, own, phase);
                (stats, Some(reused))
            } else {
                (trainer.models.evaluate(&rollout, &[rollout.rows()], convention, own), None)
            };
            let (lengths, count) = (rollout.lengths(), rollout.num_tokens(&rollout.rows()));
            let numbers = |number: fn(f64) -> f64| {
                masked::table(&(0..count).map(|at| number(at as f64)).collect::<Vec<_>>(), &lengths)
            };
            let trajectory = Trajectory {
                response_mask: mask(&lengths),
                scores: vec![0.0; lengths.len()],
                normalized_scores: vec![0.0; lengths.len()],
                kl: numbers(|_| 0.0),
                rewards: numbers(|_| 0.0),
                advantages: numbers(|at| at / 7.0 - 1.0),
                returns: numbers(|at| 1.0 - at / 9.0),
                rollout,
                stats,
            };
            trainer.update(&trajectory, &trajectory.rollout.rows(), phase, reused).unwrap();
            (trajectory.stats.old_logprobs, trajectory.stats.values, trainer)
        };
        let (one, two) = (step(true), step(false));
        assert_eq!((&one.0, &one.1), (&two.0, &two.1));
        for (one, two) in [
            (one.2.models.policy.parameters(), two.2.models.policy.parameters()),
            (one.2.models.value_model.parameters(), two.2.models.value_model.parameters()),
        ] {
            assert!(same(&weights(one), &weights(two)), "{phase:?}");
        }
        let start = CausalLm::load(&tiny("qwen2_tied_gqa"), &options(true)).unwrap();
        let moved = !same(&weights(start.parameters()), &weights(one.2.models.policy.parameters()));
        assert_eq!(moved, phase == Phase::Ppo);
    }
}

#[test]
fn a_pad_id_inside_a_response_is_a_token_like_any_other() {
    let response = |tokens: &[i64]| Response { tokens: tokens.to_vec(), ended: true, nucleus: Vec::new() };
    let rollout = |middle: i64| Rollout {
        prompt_rows: vec![0],
        prompts: vec![vec![5, PAD, 9]],
        samples: 1,
        responses: vec![response(&[8, middle, 17, END])],
    };
    let trainer = trainer(|_| {});
    let evaluate = |middle: i64| trainer.evaluate_only(&rollout(middle));
    let (pad, other) = (evaluate(PAD), evaluate(40));
    assert_eq!(rollout(PAD).lengths(), [4]);
    assert_eq!((pad.old_logprobs.dim(), pad.values.dim()), ((1, 4), (1, 4)));
    assert_ne!(pad.old_logprobs[(0, 1)], other.old_logprobs[(0, 1)], "it has a log-probability of its own");
    assert_ne!(pad.values[(0, 3)], other.values[(0, 3)], "and what follows sees it");
}

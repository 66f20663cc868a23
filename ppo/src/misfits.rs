//! Warnings about settings of ppo that contradict each other or have no effect.

use align_core::config::Dtype;
use align_model::ModelConfig;
use align_train::stage::{Action, misfits};

use crate::config::{KlControl, PpoConfig};
use crate::inputs::{Data, duplicates};
use crate::rewards::MissingEnd;

/// All warnings before the first step. `models`: for each model that reads dialogues, its config
/// key and its architecture.
pub(crate) fn misfits(config: &PpoConfig, data: &Data, models: &[(&str, &ModelConfig)]) -> Vec<String> {
    let mut found = schedule(config);
    found.extend(dead_keys(config));
    let (prompts, count) = (&data.prompts, data.prompts.tokens.len());
    let (dropped, limit) = (prompts.dropped, config.data.max_prompt_tokens);
    found.extend(misfits::dropped("data.max_prompt_tokens", limit, "prompts", dropped, count as u64 + dropped));
    found.extend(misfits::duplicates("data.prompts", "prompts", duplicates(&prompts.tokens), count as u64));
    for ((name, _), (trained_on, all)) in data.eval.iter().zip(data.overlaps()) {
        found.extend(misfits::known("data.eval_prompts", name, "prompts", trained_on, all));
    }
    let per_step = config.rollout.prompts_per_step;
    found.extend(misfits::repeated("rollout.prompts_per_step", per_step, "prompts", count));
    let response = config.rollout.max_response_tokens;
    // The model with the fewest positions limits all.
    if let Some((key, model)) = models.iter().min_by_key(|(_, model)| model.meant_positions().unwrap_or(usize::MAX)) {
        let longer_than = |limit| misfits::longer(prompts.tokens.iter().map(|prompt| prompt.len() + response), limit);
        let what = format!("with a response of {response} tokens, dialogues for {key} are");
        found.extend(misfits::beyond_positions(model, "rollout.max_response_tokens", &what, longer_than));
    }
    found
}

/// Steps and learning rates at which nothing is learned.
fn schedule(config: &PpoConfig) -> Vec<String> {
    let ppo = &config.ppo;
    let mut found = Vec::new();
    if ppo.value_warmup_steps >= ppo.steps {
        let (warmup, steps) = (ppo.value_warmup_steps, ppo.steps);
        found.push(format!(
            "ppo.value_warmup_steps = {warmup}: the run has {steps} steps, all of which train the value model alone, so that the policy comes out as it \
             went in; set ppo.steps above it"
        ));
    }
    let (rollout, minibatch) = (config.rollout_rows(), config.minibatch_rows());
    if rollout % minibatch != 0 {
        let left = rollout % minibatch;
        found.push(format!(
            "ppo.minibatch_size = {minibatch}: a rollout has {rollout} responses, of which the last optimizer step of an epoch takes {left}, so that each of \
             them weighs {:.1} times as much; set a divisor of {rollout}",
            minibatch as f64 / left as f64
        ));
    }
    for (key, rate, model) in [("policy_lr", ppo.policy_lr, "policy"), ("value_lr", ppo.value_lr, "value model")] {
        if rate == 0.0 {
            found.push(format!("ppo.{key} = 0: the {model} learns nothing"));
        }
    }
    found
}

/// Keys that were changed and have no effect with the other settings.
fn dead_keys(config: &PpoConfig) -> Vec<String> {
    let (usual, mut found) = (PpoConfig::default(), Vec::new());
    let mut dead = |is_dead: bool, key: &str, value: String, why: &str| {
        if is_dead {
            found.push(format!("{key}{value}: does nothing {why}"));
        }
    };
    let number = |value: f64| format!(" = {value}");
    let no_text = config.ptx.coef == 0.0;
    let (ptx, tokens) = (&config.ptx, usual.ptx.tokens_per_ppo_token);
    let per_token = ptx.tokens_per_ppo_token;
    dead(no_text && per_token != tokens, "ptx.tokens_per_ppo_token", number(per_token), "while ptx.coef = 0");
    dead(
        no_text && !config.data.pretrain.is_empty(),
        "data.pretrain",
        String::new(),
        "while ptx.coef = 0: it is not read",
    );
    let (reward, rollout) = (&config.reward, &config.rollout);
    let is_fixed = reward.kl_controller == KlControl::Fixed;
    let why = "while reward.kl_controller = \"fixed\"";
    dead(is_fixed && reward.kl_target != usual.reward.kl_target, "reward.kl_target", number(reward.kl_target), why);
    dead(is_fixed && reward.kl_horizon != usual.reward.kl_horizon, "reward.kl_horizon", number(reward.kl_horizon), why);
    let why = "with reward.kl_coef = 0, which it multiplies; set a weight to begin with";
    dead(!is_fixed && reward.kl_coef == 0.0, "reward.kl_controller", " = \"adaptive\"".to_owned(), why);
    let (value, why) = (rollout.missing_end_value, "while rollout.missing_end = \"none\"");
    let is_none = rollout.missing_end == MissingEnd::None;
    dead(is_none && value != usual.rollout.missing_end_value, "rollout.missing_end_value", number(value), why);
    let unseen = reward.second.is_some() && config.data.eval_prompts.is_empty();
    dead(unseen, "reward.second", String::new(), "without data.eval_prompts, to which it scores the responses");
    let guards = &config.guards;
    let is_idle = guards.action == Action::Warn && guards.patience != usual.guards.patience;
    dead(is_idle, "guards.patience", format!(" = {}", guards.patience), "while guards.action = \"warn\"");
    let needless = config.frozen_dtype() == Dtype::Float32 || config.models.dtype == Dtype::Bfloat16;
    let why = "while reference and policy have one dtype";
    dead(needless && config.models.frozen_dtype_ok, "models.frozen_dtype_ok", " = true".to_owned(), why);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(edit: impl FnOnce(&mut PpoConfig)) -> Vec<String> {
        let mut config = PpoConfig::default();
        edit(&mut config);
        [schedule(&config), dead_keys(&config)].concat()
    }

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(warnings(|_| {}), Vec::<String>::new());
        let adaptive = |config: &mut PpoConfig| {
            config.reward.kl_controller = KlControl::Adaptive;
            config.reward.kl_target = 3.0;
            config.ppo.value_warmup_steps = 0;
            config.ptx.coef = 0.0;
        };
        assert_eq!(warnings(adaptive), Vec::<String>::new());
    }

    #[test]
    fn a_run_within_its_warm_up_leaves_the_policy_as_it_is() {
        for (warmup, steps, expected) in [(50, 50, 1), (50, 40, 1), (50, 51, 0)] {
            let found = warnings(|config| (config.ppo.value_warmup_steps, config.ppo.steps) = (warmup, steps));
            assert_eq!(found.len(), expected, "{found:?}");
            assert!(found.iter().all(|line| line.contains("the policy comes out as it went in")));
        }
        assert!(warnings(|config| config.ppo.policy_lr = 0.0)[0].contains("the policy learns nothing"));
    }

    /// 128 responses in minibatches of 50: the last 28 of an epoch are an optimizer step.
    #[test]
    fn minibatches_that_are_not_alike() {
        let found = warnings(|config| config.ppo.minibatch_size = Some(50));
        assert!(
            found.len() == 1 && found[0].contains("takes 28, so that each of them weighs 1.8 times as much"),
            "{found:?}"
        );
        assert_eq!(warnings(|config| config.ppo.minibatch_size = Some(32)), Vec::<String>::new());
    }

    #[test]
    fn keys_that_do_nothing_are_named_with_the_key_that_makes_them_so() {
        type Edit = fn(&mut PpoConfig);
        let cases: [(Edit, &str, &str); 8] = [
            (|c| (c.ptx.coef, c.ptx.tokens_per_ppo_token) = (0.0, 9.0), "ptx.tokens_per_ppo_token = 9", "ptx.coef = 0"),
            (
                |c| {
                    c.ptx.coef = 0.0;
                    c.data.pretrain = ["text.txt"].into_iter().collect();
                },
                "data.pretrain: ",
                "ptx.coef = 0",
            ),
            (|c| c.reward.kl_target = 3.0, "reward.kl_target = 3", "\"fixed\""),
            (|c| c.reward.kl_horizon = 3.0, "reward.kl_horizon = 3", "\"fixed\""),
            (
                |c| (c.reward.kl_controller, c.reward.kl_coef) = (KlControl::Adaptive, 0.0),
                "reward.kl_controller = \"adaptive\"",
                "reward.kl_coef = 0",
            ),
            (
                |c| (c.rollout.missing_end, c.rollout.missing_end_value) = (MissingEnd::None, 2.0),
                "rollout.missing_end_value = 2",
                "\"none\"",
            ),
            (|c| c.reward.second = Some("other".into()), "reward.second: ", "data.eval_prompts"),
            (|c| c.guards.patience = 7, "guards.patience = 7", "guards.action = \"warn\""),
        ];
        for (edit, key, other) in cases {
            let found = warnings(edit);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(key) && found[0].contains(other), "{found:?}");
        }
    }
}

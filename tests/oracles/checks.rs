//! Each recorded function, said with our functions. Where conventions differ, the inputs are prepared so that
//! both mean the same thing, and the difference is named; no formula of another program is repeated here.

use align_ppo::gae::{Credit, GaeParams, gae};
use align_ppo::loss::{PolicyLoss, policy_loss, value_loss};
use align_ppo::masked::{self, Mask, Table};
use align_ppo::rewards::{KlController, clip_scores, kl_k1, kl_k3, token_rewards};
use align_reward::loss::{LossParams, Pairs, RewardLoss, reward_loss};
use ndarray::Axis;
use tch::Tensor;

use super::case::{Case, close, cube, flat, list, number, numbers, table};
use super::head::policy_update;

/// Tables agree where tokens count.
fn close_tables(found: &Table, recorded: &Table, mask: &Mask) {
    close(&masked::flat(found, mask), &masked::flat(recorded, mask));
}

/// Tables agree where tokens count, up to their mean and scale: for whitening by another variance, with
/// another ε or with the mean kept. Large numbers are whitened, so that no ε is felt.
fn close_whitened(found: &Table, recorded: &Table, mask: &Mask) {
    let whiten = |table: &Table| masked::whiten(&(table * 1e4), mask);
    close_tables(&whiten(found), &whiten(recorded), mask);
}

fn all_count(table: &Table) -> Mask {
    Mask::from_elem(table.raw_dim(), true)
}

/// The mask with one more token a row, as far as the table reaches: programs that score the first pad act as
/// if the pad were the response's last token.
fn one_longer(mask: &Mask) -> Mask {
    let lengths = masked::lengths(mask);
    Mask::from_shape_fn(mask.raw_dim(), |(row, column)| column <= lengths[row])
}

// KL, rewards, advantages.

pub(super) fn kl(case: &Case) {
    let (policy, reference) = (case.table("log_probs"), case.table("log_probs_base"));
    let estimate = if case.params["kl_estimator"] == "k1" { kl_k1 } else { kl_k3 };
    let mask = all_count(&policy);
    close_tables(&estimate(&policy, &reference, &mask), &table(&case.out["kl"]), &mask);
}

pub(super) fn rewards_to_advantages(case: &Case) {
    let mask = case.counted_by("padding_mask");
    let longer = case.counted_by("padding_mask_p1");
    assert_eq!(longer, one_longer(&mask));

    let estimate = if case.params["kl_estimator"] == "k1" { kl_k1 } else { kl_k3 };
    let kl = estimate(&case.table("logprobs"), &case.table("ref_logprobs"), &mask);
    close_tables(&kl, &table(&case.out["kl"]), &all_count(&kl));

    let kl_coef = case.param("kl_coef");
    let no_scores = vec![0.0; kl.nrows()];
    close_tables(&token_rewards(&no_scores, &kl, &longer, kl_coef), &table(&case.out["non_score_reward"]), &longer);
    let (rewards, recorded) = (token_rewards(&case.list("scores"), &kl, &longer, kl_coef), table(&case.out["rewards"]));
    if case.params["whiten_rewards"] == true {
        close_whitened(&rewards, &recorded, &longer);
    } else {
        close_tables(&rewards, &recorded, &longer);
    }

    let params = GaeParams { gamma: case.param("gamma"), gae_lambda: case.param("lam") };
    let credit = gae(&recorded, &case.table("values"), &longer, &params);
    close_tables(&credit.returns, &table(&case.out["returns"]), &longer);
    let advantages = table(&case.out["advantages"]);
    if case.source.starts_with("trl") {
        close_whitened(&credit.advantages, &advantages, &mask);
    } else {
        close_tables(&masked::whiten(&credit.advantages, &mask), &advantages, &all_count(&advantages));
    }
}

pub(super) fn clipped_reward(case: &Case) {
    let mask = case.mask("action_mask");
    let range = list(&case.params["reward_clip_range"]);
    assert_eq!(range[0], -range[1]);
    let scores = clip_scores(&case.list("r"), Some(range[1]));
    let rewards = token_rewards(&scores, &case.table("kl"), &mask, case.param("kl_coef"));
    close_tables(&rewards, &table(&case.out["reward"]), &mask);
}

/// The recorded tables begin at the prompt's last token; the score is one position after the response.
pub(super) fn reward_after_the_end(case: &Case) {
    let start = case.table("prompts").ncols() - 1;
    let response = |table: &Table| table.slice(ndarray::s![.., start..]).to_owned();
    let mask = one_longer(&case.mask("action_mask").slice(ndarray::s![.., start..]).to_owned());
    let kl = kl_k1(&response(&case.table("log_probs")), &response(&case.table("ref_log_probs")), &mask);
    let scores = clip_scores(&case.list("reward_score"), Some(case.param("clip_reward_value")));
    let rewards = token_rewards(&scores, &kl, &mask, case.param("kl_ctl"));
    close_tables(&rewards, &response(&table(&case.out["rewards"])), &mask);
}

fn credit(case: &Case, mask: &Mask, lambda: &str) -> Credit {
    let params = GaeParams { gamma: case.param("gamma"), gae_lambda: case.param(lambda) };
    gae(&case.table("rewards"), &case.table("values"), mask, &params)
}

pub(super) fn masked_advantages(case: &Case) {
    let mask = case.mask("action_mask");
    let credit = credit(case, &mask, "lambd");
    close_tables(&credit.advantages, &table(&case.out["advantages"]), &mask);
    close_tables(&credit.returns, &table(&case.out["returns"]), &mask);
}

pub(super) fn advantages(case: &Case) {
    let mask = all_count(&case.table("values"));
    let credit = credit(case, &mask, "lam");
    close_tables(&credit.returns, &table(&case.out["returns"]), &mask);
    let advantages = table(&case.out["advantages"]);
    if case.params["use_whitening"] == true {
        close_whitened(&credit.advantages, &advantages, &mask);
    } else {
        close_tables(&credit.advantages, &advantages, &mask);
    }
}

pub(super) fn rewards_to_come(case: &Case) {
    let (rewards, mask) = (case.table("rewards"), case.mask("action_mask"));
    let params = GaeParams { gamma: case.param("gamma"), gae_lambda: 1.0 };
    let credit = gae(&rewards, &Table::zeros(rewards.raw_dim()), &mask, &params);
    close_tables(&credit.returns, &table(&case.out["returns"]), &mask);
}

// Whitening.

pub(super) fn whitened(case: &Case) {
    let mask = case.mask("mask");
    close_tables(&masked::whiten(&case.table("values"), &mask), &table(&case.out["out"]), &mask);
}

pub(super) fn whitened_up_to_mean_and_scale(case: &Case) {
    let name = if case.inputs.get("xs").is_some() { "xs" } else { "values" };
    close_whitened(&case.table(name), &table(&case.out["out"]), &case.mask("mask"));
}

pub(super) fn whitened_rows(case: &Case) {
    let (numbers, mask, recorded) = (case.table("tensor"), case.mask("mask"), table(&case.out["out"]));
    for row in 0..numbers.nrows() {
        let of = |table: &Table| table.row(row).insert_axis(Axis(0)).to_owned();
        let mask = mask.row(row).insert_axis(Axis(0)).to_owned();
        close_tables(&masked::whiten(&of(&numbers), &mask), &of(&recorded), &mask);
    }
}

// Losses of PPO.

fn policy(case: &Case, mask: &Mask, new: &str, old: &str, cliprange: &str, num_tokens: usize) -> PolicyLoss {
    let of = |name: &str| flat(&case.table(name), mask);
    policy_loss(&of(new), &of(old), &of("advantages"), case.param(cliprange), num_tokens)
}

pub(super) fn policy_token_mean(case: &Case) {
    let mask = case.mask("action_mask");
    let found = policy(case, &mask, "log_probs", "old_log_probs", "clip_eps_low", masked::count(&mask));
    close(&[found.stats.loss, found.stats.clip_frac], &[case.result("loss"), case.result("clip_ratio")]);
    close(&numbers(&found.grad), &masked::flat(&table(&case.out["grad_log_probs"]), &mask));
}

/// A mean over responses of means over tokens: each response alone, with its own number of tokens.
pub(super) fn policy_response_mean(case: &Case) {
    let mask = case.mask("action_mask");
    let (mut loss, mut grad) = (0.0, Vec::new());
    for (row, length) in masked::lengths(&mask).into_iter().enumerate() {
        let only = Mask::from_shape_fn(mask.raw_dim(), |(other, column)| other == row && column < length);
        let found = policy(case, &only, "log_probs", "old_log_probs", "clip_eps_low", length * mask.nrows());
        loss += found.stats.loss;
        grad.extend(numbers(&found.grad));
    }
    close(&[loss], &[case.result("loss")]);
    close(&grad, &masked::flat(&table(&case.out["grad_log_probs"]), &mask));
}

pub(super) fn actor_loss(case: &Case) {
    let mask = case.mask("mask");
    let found = policy(case, &mask, "logprobs", "old_logprobs", "cliprange", masked::count(&mask));
    close(&[found.stats.loss], &[case.result("loss")]);
}

/// Loss, part of tokens where clipping binds, and gradient.
fn value(
    values: &Table,
    old: &Table,
    returns: &Table,
    mask: &Mask,
    range: f64,
    num_tokens: usize,
) -> (f64, f64, Vec<f64>) {
    let values = flat(values, mask).set_requires_grad(true);
    let found = value_loss(&values, &flat(old, mask), &flat(returns, mask), range, num_tokens);
    found.loss.backward();
    (found.loss.double_value(&[]), found.clip_frac, numbers(&values.grad()))
}

fn recorded_value(case: &Case, mask: &Mask, range: f64, num_tokens: usize) -> (f64, f64, Vec<f64>) {
    value(&case.table("values"), &case.table("old_values"), &case.table("returns"), mask, range, num_tokens)
}

pub(super) fn value_token_mean(case: &Case) {
    let mask = case.mask("action_mask");
    let range = if case.params["clip_eps"].is_null() { f64::INFINITY } else { case.param("clip_eps") };
    let (loss, _, grad) = recorded_value(case, &mask, range, masked::count(&mask));
    close(&[loss], &[case.result("loss")]);
    close(&grad, &masked::flat(&table(&case.out["grad_values"]), &mask));
}

pub(super) fn value_response_mean(case: &Case) {
    let mask = case.mask("action_mask");
    let (mut sum, mut grads) = (0.0, Vec::new());
    for (row, length) in masked::lengths(&mask).into_iter().enumerate() {
        let only = Mask::from_shape_fn(mask.raw_dim(), |(other, column)| other == row && column < length);
        let (loss, _, grad) = recorded_value(case, &only, case.param("clip_eps"), length * mask.nrows());
        sum += loss;
        grads.extend(grad);
    }
    close(&[sum], &[case.result("loss")]);
    close(&grads, &masked::flat(&table(&case.out["grad_values"]), &mask));
}

pub(super) fn critic_loss(case: &Case) {
    let mask = case.mask("mask");
    let (loss, _, _) = recorded_value(case, &mask, case.param("cliprange_value"), masked::count(&mask));
    close(&[loss], &[case.result("loss")]);
}

/// The recorded loss is policy + vf_coef · value.
pub(super) fn both_losses(case: &Case) {
    let mask = case.mask("mask");
    let (num_tokens, vf_coef, stat) =
        (masked::count(&mask), case.param("vf_coef"), |name: &str| number(&case.out["stats"][name]));
    let found = policy(case, &mask, "logprobs", "old_logprobs", "cliprange", num_tokens);
    close(&[found.stats.loss, found.stats.clip_frac], &[stat("losses/policy_loss"), stat("policy/clipfrac")]);
    close(&numbers(&found.grad), &masked::flat(&table(&case.out["grad_logprobs"]), &mask));

    let (loss, clip_frac, grad) = recorded_value(case, &mask, case.param("cliprange_value"), num_tokens);
    close(&[loss, clip_frac], &[stat("losses/value_loss"), stat("values/clipfrac")]);
    let grad: Vec<f64> = grad.iter().map(|grad| vf_coef * grad).collect();
    close(&grad, &masked::flat(&table(&case.out["grad_values"]), &mask));
    close(&[found.stats.loss + vf_coef * loss], &[case.result("loss")]);
}

/// A whole update, from logits and value predictions over prompts and responses. Value tokens are one more a
/// row.
pub(super) fn update(case: &Case) {
    policy_update(case);
    let (old, longer) = (case.table("logprobs"), case.response_mask(1));
    let (context, width) = (case.table("queries").ncols() as i64, old.ncols() as i64);
    let predictions = cube(&case.inputs["vpred_full"]);
    let column = |tensor: &Tensor| {
        let numbers = numbers(&tensor.narrow(1, context - 1, width).contiguous());
        Table::from_shape_vec(old.raw_dim(), numbers).expect("as many as tokens")
    };
    let (range, vf_coef) = (case.param("cliprange_value"), case.param("vf_coef"));
    let (returns, num_tokens) = (table(&case.out["returns"]), masked::count(&longer));
    let (loss, clip_frac, grad) =
        value(&column(&predictions), &case.table("values"), &returns, &longer, range, num_tokens);
    close(&[loss, clip_frac], &[case.result("vf_loss"), case.result("vf_clipfrac")]);
    let grad: Vec<f64> = grad.iter().map(|grad| vf_coef * grad).collect();
    close(&grad, &masked::flat(&column(&cube(&case.out["grad_vpred"])), &longer));
}

// Losses of the reward model.

fn compared(chosen: &[f64], rejected: &[f64], margin: Option<&[f64]>) -> (RewardLoss, Tensor) {
    let mut pairs = Pairs::new();
    let mut scalars: Vec<f64> = Vec::new();
    for (row, (chosen, rejected)) in chosen.iter().zip(rejected).enumerate() {
        let place = scalars.len()..scalars.len() + 2;
        match margin {
            Some(margin) => pairs.push_scored_with_margin(place, &[margin[row], 0.0]),
            None => pairs.push_ranked(place),
        }
        scalars.extend([chosen, rejected]);
    }
    let scalars = Tensor::from_slice(&scalars).set_requires_grad(true);
    (reward_loss(&scalars, &pairs, chosen.len(), &LossParams::default()), scalars)
}

pub(super) fn pair_loss(case: &Case) {
    let margin = case.inputs.get("margin").map(list);
    let (found, scalars) = compared(&case.list("chosen"), &case.list("reject"), margin.as_deref());
    close(&[found.loss.double_value(&[]), found.stats.loss], &[case.result("loss"); 2]);
    found.loss.backward();
    let grads = [list(&case.out["grad_chosen"]), list(&case.out["grad_reject"])];
    let recorded: Vec<f64> =
        grads[0].iter().zip(&grads[1]).flat_map(|(chosen, rejected)| [*chosen, *rejected]).collect();
    close(&numbers(&scalars.grad()), &recorded);
}

/// The recorded implicit rewards are the scalars.
pub(super) fn preference_loss(case: &Case) {
    let (found, _) = compared(&list(&case.out["chosen_rewards"]), &list(&case.out["rejected_rewards"]), None);
    close(&[found.stats.loss], &[case.result("loss")]);
}

pub(super) fn adaptive_kl(case: &Case) {
    let (init, target, horizon) = (case.param("init"), case.param("target"), case.param("horizon"));
    let mut controller = KlController::Adaptive { kl_coef: init, target, horizon };
    let after = |kl: f64| {
        controller.update(kl, case.param("n_steps") as usize);
        controller.kl_coef()
    };
    close(&case.list("current").into_iter().map(after).collect::<Vec<_>>(), &list(&case.out["value_after"]));
}

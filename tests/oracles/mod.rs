//! Numbers recorded from independent programs, each reproduced with our public functions, or left out for a
//! reason. `docs/oracles.md` holds the table of both, with counts; it is compared with what ran here.

mod case;
mod checks;
mod head;

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use case::{Case, Golden};

/// What to do with the cases of one recorded function.
enum Verdict {
    /// They equal our functions, by a check.
    Ours(&'static str, fn(&Case)),
    /// They do not apply, for a reason.
    Left(&'static str),
}
use Verdict::{Left, Ours};

/// A selection of cases, and how they are compared.
struct Rule {
    source: &'static str,
    name: &'static str,
    /// Only cases with this parameter of this value.
    only: Option<(&'static str, &'static str)>,
    verdict: Verdict,
}

const fn rule(source: &'static str, name: &'static str, verdict: Verdict) -> Rule {
    Rule { source, name, only: None, verdict }
}

const fn rule_where(
    source: &'static str,
    name: &'static str,
    parameter: &'static str,
    value: &'static str,
    verdict: Verdict,
) -> Rule {
    Rule { source, name, only: Some((parameter, value)), verdict }
}

const TRL: &str = "trl 1.12.0";
const TRL_PPO: &str = "trl 1.12.0 PPOTrainer";
const SFD: &str = "summarize_from_feedback_details";
const OPENRLHF: &str = "OpenRLHF";
const TRLX: &str = "CarperAI/trlx";
const DEEPSPEED: &str = "DeepSpeed-Chat";
const MOSS: &str = "MOSS-RLHF";

const SCORE_ON_PAD: &str =
    "`kl_k1`, `kl_k3`, `token_rewards`, `gae`, `whiten`; the pad that is given the score counts as a token";
const UPDATE: &str = "`LmHead::gradient` with `policy_loss`, `value_loss`";
const UNBIASED: &str = "`whiten`, up to mean and scale: the unbiased variance";

/// The first rule that fits a case decides.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    rule(TRL_PPO, "rewards_gae_whiten", Ours(SCORE_ON_PAD, checks::rewards_to_advantages)),
    rule(SFD, "rewards_gae_whiten", Ours(SCORE_ON_PAD, checks::rewards_to_advantages)),
    rule(TRL_PPO, "ppo_step_loss", Ours(UPDATE, checks::update)),
    rule(SFD, "ppo_step_loss", Ours(UPDATE, checks::update)),
    rule_where(OPENRLHF, "compute_approx_kl", "kl_estimator", "k2", Left("half the squared log-ratio, an estimate we do not offer")),
    rule(OPENRLHF, "compute_approx_kl", Ours("`kl_k1`, `kl_k3`", checks::kl)),
    rule(OPENRLHF, "compute_reward", Ours("`clip_scores`, `token_rewards`", checks::clipped_reward)),
    rule(OPENRLHF, "get_advantages_and_returns", Ours("`gae`", checks::masked_advantages)),
    rule(OPENRLHF, "get_cumulative_returns", Ours("`gae` with values 0 and λ 1", checks::rewards_to_come)),
    rule_where(OPENRLHF, "PolicyLoss", "dual_clip", "3.0", Left("a second clip and an uneven range, which we do not offer")),
    rule_where(OPENRLHF, "PolicyLoss", "token_level_loss", "false", Ours("`policy_loss`, a response at a time", checks::policy_response_mean)),
    rule(OPENRLHF, "PolicyLoss", Ours("`policy_loss`", checks::policy_token_mean)),
    rule_where(OPENRLHF, "ValueLoss", "token_level_loss", "false", Ours("`value_loss`, a response at a time", checks::value_response_mean)),
    rule_where(OPENRLHF, "ValueLoss", "clip_eps", "null", Ours("`value_loss` with an infinite range", checks::value_token_mean)),
    rule(OPENRLHF, "ValueLoss", Ours("`value_loss`", checks::value_token_mean)),
    rule(OPENRLHF, "masked_normalize", Ours("`whiten`, a row at a time", checks::whitened_rows)),
    rule(TRLX, "get_advantages_and_returns", Ours("`gae`; whitened ones up to mean and scale: the unbiased variance", checks::advantages)),
    rule(TRLX, "loss", Ours("`policy_loss`, `value_loss`", checks::both_losses)),
    rule(DEEPSPEED, "get_advantages_and_returns", Ours("`gae`", checks::advantages)),
    rule(DEEPSPEED, "actor_loss_fn", Ours("`policy_loss`", checks::actor_loss)),
    rule(DEEPSPEED, "critic_loss_fn", Ours("`value_loss`", checks::critic_loss)),
    rule(DEEPSPEED, "compute_rewards", Ours("`clip_scores`, `token_rewards`; the position after the end counts as a token", checks::reward_after_the_end)),
    rule(MOSS, "whiten", Ours("`whiten`, up to scale: an ε of 1e-6", checks::whitened_up_to_mean_and_scale)),
    rule(TRL, "masked_whiten", Ours(UNBIASED, checks::whitened_up_to_mean_and_scale)),
    rule_where(SFD, "masked_whiten", "shift_mean", "false", Ours("`whiten`, up to mean and scale: the mean is put back", checks::whitened_up_to_mean_and_scale)),
    rule(SFD, "masked_whiten", Ours("`whiten`", checks::whitened)),
    rule(TRL, "truncate_response", Left("we stop at an end token while sampling and never cut afterwards")),
    rule(TRL, "selective_log_softmax", Ours("`CausalLm::logprobs`", head::logprobs)),
    rule(OPENRLHF, "log_probs_from_logits", Ours("`CausalLm::logprobs` at a temperature", head::logprobs)),
    rule(OPENRLHF, "compute_entropy", Ours("`CausalLm::logprobs`, its entropy", head::entropy)),
    rule(OPENRLHF, "GPTLMLoss (shifted CE, ignore -100, token mean)", Ours("`LmHead::gradient`", head::language_model_loss)),
    rule(OPENRLHF, "PairWiseLoss", Ours("`reward_loss`", checks::pair_loss)),
    rule(OPENRLHF, "LogExpLoss", Ours("`reward_loss`", checks::pair_loss)),
    rule(OPENRLHF, "DPOLoss", Ours("`reward_loss` over the implicit rewards", checks::preference_loss)),
    rule(DEEPSPEED, "RewardModel.forward (pairwise over all tokens from the first difference)", Left("a loss at every token; ours reads the end token only")),
    rule(OPENRLHF, "AdaptiveKLController", Ours("`KlController::Adaptive`", checks::adaptive_kl)),
    rule(TRLX, "AdaptiveKLController", Ours("`KlController::Adaptive`", checks::adaptive_kl)),
];

impl Rule {
    fn fits(&self, case: &Case) -> bool {
        let parameter = |(name, value): (&str, &str)| {
            let found = &case.params[name];
            found.as_str().map_or_else(|| found.to_string(), str::to_owned) == value
        };
        self.source == case.source && self.name == case.name && self.only.is_none_or(parameter)
    }
}

#[test]
fn recorded_numbers_are_ours_or_left_out_for_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = File::open(root.join("tests/golden/ppo_rm/ppo_rm.json.gz")).expect("the recorded cases");
    let golden: Golden = serde_json::from_reader(flate2::read::GzDecoder::new(file)).expect("cases of a known shape");

    let mut counts = vec![0; RULES.len()];
    let mut failures = Vec::new();
    for (index, case) in golden.cases.iter().enumerate() {
        let rule = RULES.iter().position(|rule| rule.fits(case));
        let rule = rule.unwrap_or_else(|| panic!("case {index}, {} {}, has no rule", case.source, case.name));
        counts[rule] += 1;
        if let Ours(_, check) = RULES[rule].verdict
            && let Err(panic) = std::panic::catch_unwind(|| check(case))
        {
            let what = panic.downcast_ref::<String>().map_or("another panic", String::as_str);
            failures.push(format!("case {index}, {} {} {}: {what}", case.source, case.name, case.params));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(golden.cases.len(), 337);
    assert!(counts.iter().all(|&count| count > 0), "a rule without a case: {counts:?}");

    let documented = std::fs::read_to_string(root.join("docs/oracles.md")).expect("docs/oracles.md");
    let table = table(&counts);
    assert!(documented.contains(&table), "docs/oracles.md should hold this table:\n{table}");
}

/// The rules and their counts as docs/oracles.md shows them.
fn table(counts: &[usize]) -> String {
    let mut text = String::from("| recorded from | function | cases | here |\n|---|---|---:|---|\n");
    let mut ours = 0;
    for (rule, count) in RULES.iter().zip(counts) {
        let only = rule.only.map_or(String::new(), |(name, value)| format!(", {name} {value}"));
        let here = match rule.verdict {
            Ours(functions, _) => {
                ours += count;
                functions.to_owned()
            }
            Left(reason) => format!("left out: {reason}"),
        };
        writeln!(text, "| {} | {}{only} | {count} | {here} |", rule.source, rule.name).expect("writing to a string");
    }
    let all: usize = counts.iter().sum();
    writeln!(text, "\n{all} cases: {ours} compared, {} left out.", all - ours).expect("writing to a string");
    text
}

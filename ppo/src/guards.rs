//! Guards: what tells that a run has gone wrong, from the numbers that every step logs.

use align_common::metrics::Metrics;
use align_common::stage::{Action, Watch};
use serde::{Deserialize, Serialize};

use crate::config::GuardsSection;
use crate::findings::held_out_findings;

/// Compares every step with the limits of `[guards]`.
#[derive(Debug, Clone)]
pub struct Guards {
    limits: GuardsSection,
    value_warmup_steps: u64,
    /// What a resume needs.
    pub(crate) state: GuardState,
}

/// How the run began, and for how long something has been wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GuardState {
    /// Entropy of the first step.
    entropy: Option<f64>,
    /// Mean response tokens of the first step.
    tokens: Option<f64>,
    /// Steps in a row that broke a limit, up to the latest.
    streak: u64,
    /// What was measured on held-out prompts, by steps done.
    evaluations: Vec<(u64, Metrics)>,
    /// Evaluations in a row that speak against the run, up to the latest.
    bad_evaluations: u64,
    /// Steps done at the last evaluation that did not.
    good_evaluation: u64,
}

impl Guards {
    /// Guards that have seen nothing yet.
    pub fn new(limits: GuardsSection, value_warmup_steps: u64) -> Self {
        Self { limits, value_warmup_steps, state: GuardState::default() }
    }

    /// What is done when limits stay broken, or a number is not finite.
    pub fn action(&self) -> Action {
        self.limits.action
    }

    /// Looks at the metrics of the step that makes `done` steps, an evaluation's among them.
    pub fn watch(&mut self, done: u64, metrics: &Metrics) -> Watch {
        let mut alarms = self.alarms(metrics);
        self.state.streak = if alarms.is_empty() { 0 } else { self.state.streak + 1 };
        let explained = metrics.get("value/explained_variance").unwrap_or(f64::NAN);
        if done == self.value_warmup_steps && explained < 0.0 {
            alarms.push(format!(
                "value/explained_variance is {explained:.4} at the end of the value warm-up, below 0: the advantages to come say \
                 nothing; give it more ppo.value_warmup_steps or a higher ppo.value_lr"
            ));
        }
        alarms.extend(self.evaluation(done, metrics));
        let ends = self.limits.action != Action::Warn;
        let lasting = (ends && self.state.streak >= self.limits.patience).then(|| done - self.state.streak);
        let hacked = (ends && self.state.bad_evaluations >= self.limits.patience).then_some(self.state.good_evaluation);
        Watch { alarms, halt_before: lasting.or(hacked) }
    }

    /// What all evaluations so far say, when this step has one.
    fn evaluation(&mut self, done: u64, metrics: &Metrics) -> Vec<String> {
        let held_out = metrics.iter().filter(|(name, value)| name.starts_with("eval/") && value.is_finite());
        let held_out: Metrics = held_out.collect();
        if held_out.is_empty() {
            return Vec::new();
        }
        self.state.evaluations.push((done, held_out));
        let found = held_out_findings(&self.state.evaluations, Some(self.limits.kl_max));
        if found.is_empty() {
            (self.state.bad_evaluations, self.state.good_evaluation) = (0, done);
        } else {
            self.state.bad_evaluations += 1;
        }
        found
    }

    fn alarms(&mut self, metrics: &Metrics) -> Vec<String> {
        let number = |name: &str| metrics.get(name).unwrap_or(f64::NAN);
        let (entropy, tokens) = (number("policy/entropy"), number("response/tokens"));
        let first_entropy = *self.state.entropy.get_or_insert(entropy);
        let first_tokens = *self.state.tokens.get_or_insert(tokens);
        let limits = &self.limits;
        let mut alarms = Vec::new();
        let mut check = |broken: bool, name: &str, number: f64, limit: String| {
            if broken {
                alarms.push(format!("{name} is {number:.4}, {limit}"));
            }
        };
        let (kl, identical) = (number("kl/ref"), number("response/identical"));
        check(kl > limits.kl_max, "kl/ref", kl, format!("above guards.kl_max = {}", limits.kl_max));
        let least = limits.entropy_min * first_entropy;
        check(
            entropy < least,
            "policy/entropy",
            entropy,
            format!("below guards.entropy_min = {} of the first step's {first_entropy:.4}", limits.entropy_min),
        );
        check(
            tokens < limits.length_min * first_tokens,
            "response/tokens",
            tokens,
            format!("below guards.length_min = {} of the first step's {first_tokens:.1}", limits.length_min),
        );
        check(
            tokens > limits.length_max * first_tokens,
            "response/tokens",
            tokens,
            format!("above guards.length_max = {} of the first step's {first_tokens:.1}", limits.length_max),
        );
        check(
            identical > limits.identical_max,
            "response/identical",
            identical,
            format!("above guards.identical_max = {}", limits.identical_max),
        );
        alarms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PpoConfig;

    fn guards(action: Action) -> Guards {
        Guards::new(GuardsSection { action, patience: 2, kl_max: 10.0, ..PpoConfig::default().guards }, 7)
    }

    fn metrics(kl: f64, entropy: f64, tokens: f64, identical: f64) -> Metrics {
        let mut metrics = Metrics::new();
        metrics.set("kl/ref", kl);
        metrics.set("policy/entropy", entropy);
        metrics.set("response/tokens", tokens);
        metrics.set("response/identical", identical);
        metrics
    }

    #[test]
    fn every_pathology_is_named_with_its_limit() {
        let mut guards = guards(Action::Warn);
        assert_eq!(guards.watch(1, &metrics(0.0, 2.0, 20.0, 0.0)), Watch::default());
        for (metrics, name) in [
            (metrics(10.5, 2.0, 20.0, 0.0), "kl/ref is 10.5000, above guards.kl_max = 10"),
            (
                metrics(0.0, 0.05, 20.0, 0.0),
                "policy/entropy is 0.0500, below guards.entropy_min = 0.05 of the first step's 2.0000",
            ),
            (
                metrics(0.0, 2.0, 3.0, 0.0),
                "response/tokens is 3.0000, below guards.length_min = 0.2 of the first step's 20.0",
            ),
            (
                metrics(0.0, 2.0, 61.0, 0.0),
                "response/tokens is 61.0000, above guards.length_max = 3 of the first step's 20.0",
            ),
            (metrics(0.0, 2.0, 20.0, 1.0), "response/identical is 1.0000, above guards.identical_max = 0.95"),
        ] {
            assert_eq!(guards.watch(2, &metrics), Watch { alarms: vec![name.to_owned()], halt_before: None });
        }
        assert_eq!(guards.watch(3, &metrics(9.0, 0.2, 50.0, 0.9)), Watch::default());
    }

    #[test]
    fn a_value_model_that_has_learned_nothing_is_told_when_its_time_is_over() {
        let mut guards = guards(Action::Warn);
        let alarms: Vec<usize> = [(6, -0.2), (7, -0.2), (8, -0.2), (7, 0.1)]
            .into_iter()
            .map(|(done, explained)| {
                let mut metrics = metrics(1.0, 2.0, 20.0, 0.0);
                metrics.set("value/explained_variance", explained);
                guards.watch(done, &metrics).alarms.len()
            })
            .collect();
        assert_eq!(alarms, [0, 1, 0, 0]);
    }

    #[test]
    fn evaluations_that_speak_against_the_run_end_it_when_they_last() {
        let mut guards = guards(Action::Rollback);
        let halts: Vec<_> = [(10, 12.0), (20, 19.0), (30, 20.0)]
            .into_iter()
            .map(|(done, tokens)| {
                let mut metrics = metrics(1.0, 2.0, 20.0, 0.0);
                for (name, value) in [("score_mean", 1.0), ("tokens", tokens), ("reference_tokens", 12.0)] {
                    metrics.set(format!("eval/held/{name}"), value);
                }
                let watch = guards.watch(done, &metrics);
                (watch.alarms.iter().any(|alarm| alarm.starts_with("length hacking: on held")), watch.halt_before)
            })
            .collect();
        assert_eq!(halts, [(false, None), (true, None), (true, Some(10))]);
    }

    #[test]
    fn a_halt_needs_a_streak_and_names_the_last_good_step() {
        let (good, bad) = (metrics(1.0, 2.0, 20.0, 0.0), metrics(11.0, 2.0, 20.0, 0.0));
        let mut guards = guards(Action::Rollback);
        let halts: Vec<_> = [&good, &bad, &good, &bad, &bad]
            .into_iter()
            .zip(1..)
            .map(|(metrics, done)| guards.watch(done, metrics).halt_before)
            .collect();
        assert_eq!(halts, [None, None, None, None, Some(3)]);
        // A resume goes on with the streak.
        let mut resumed = Guards { state: GuardState { streak: 1, ..guards.state.clone() }, ..guards };
        assert_eq!(resumed.watch(9, &bad).halt_before, Some(7));
    }
}

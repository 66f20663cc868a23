//! Guards: what tells that a run has gone wrong, from the numbers that every step logs.

use align_common::metrics::Metrics;
use align_common::stage::{Action, Watch};
use serde::{Deserialize, Serialize};

use crate::config::GuardsSection;

/// Compares every step with the limits of `[guards]`.
#[derive(Debug, Clone)]
pub struct Guards {
    limits: GuardsSection,
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
}

impl Guards {
    /// Guards that have seen nothing yet.
    pub fn new(limits: GuardsSection) -> Self {
        Self { limits, state: GuardState::default() }
    }

    /// What is done when limits stay broken, or a number is not finite.
    pub fn action(&self) -> Action {
        self.limits.action
    }

    /// Looks at the metrics of the step that makes `done` steps.
    pub fn watch(&mut self, done: u64, metrics: &Metrics) -> Watch {
        let alarms = self.alarms(metrics);
        self.state.streak = if alarms.is_empty() { 0 } else { self.state.streak + 1 };
        let lasting = self.limits.action != Action::Warn && self.state.streak >= self.limits.patience;
        Watch { alarms, halt_before: lasting.then(|| done - self.state.streak) }
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
        Guards::new(GuardsSection { action, patience: 2, kl_max: 10.0, ..PpoConfig::default().guards })
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

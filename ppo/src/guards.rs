//! Guards: limits on the metrics of every step, which detect that a run has gone wrong.

use align_run::metrics::Metrics;
use align_train::stage::{Action, ActiveAlerts, Alert, AlertEvent, StepCheck};
use serde::{Deserialize, Serialize};

use crate::config::GuardsSection;
use crate::findings::{Log, held_out_findings};

/// Compares every step with the limits of `[guards]`.
#[derive(Debug, Clone)]
pub struct Guards {
    limits: GuardsSection,
    value_warmup_steps: u64,
    state: GuardState,
    /// The evaluations before one that is made only because the run ends here.
    before_extra: Option<Evaluations>,
}

/// The state for a resume: how the run began, and for how long limits have been broken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GuardState {
    /// Entropy of the first step.
    entropy: Option<f64>,
    /// Mean response tokens of the first step.
    tokens: Option<f64>,
    /// Number of consecutive steps that broke a limit, up to the latest.
    streak: u64,
    /// The limits that are broken.
    broken: ActiveAlerts,
    evaluations: Evaluations,
}

/// The evaluations so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Evaluations {
    /// The metrics on held-out prompts, by steps done.
    log: Vec<(u64, Metrics)>,
    /// Number of consecutive evaluations with findings, up to the latest.
    bad: u64,
    /// Steps done at the last evaluation without findings.
    good: u64,
    /// The findings of the latest evaluation.
    found: ActiveAlerts,
}

impl Guards {
    /// Guards before the first step.
    pub fn new(limits: GuardsSection, value_warmup_steps: u64) -> Self {
        Self { limits, value_warmup_steps, state: GuardState::default(), before_extra: None }
    }

    /// The action when a limit stays broken or a number is non-finite.
    pub fn action(&self) -> Action {
        self.limits.action
    }

    /// The metrics on held-out prompts so far.
    pub(crate) fn evaluations(&self) -> &Log {
        &self.state.evaluations.log
    }

    /// Called before an evaluation that is made only because the run ends here. A run with more steps would
    /// not have it, so the saved state excludes it.
    pub(crate) fn expect_extra_evaluation(&mut self) {
        self.before_extra = Some(self.state.evaluations.clone());
    }

    /// The state for a resume.
    pub(crate) fn state(&self) -> GuardState {
        let evaluations = self.before_extra.as_ref().unwrap_or(&self.state.evaluations);
        GuardState { evaluations: evaluations.clone(), ..self.state.clone() }
    }

    /// Restores a state.
    pub(crate) fn load(&mut self, state: GuardState) {
        self.state = state;
    }

    /// Checks the metrics of the step that makes `done` steps, including those of an evaluation.
    pub fn watch(&mut self, done: u64, metrics: &Metrics) -> StepCheck {
        let mut alarms = self.broken_limits(metrics);
        self.state.streak = if alarms.is_empty() { 0 } else { self.state.streak + 1 };
        let mut news = self.state.broken.update(done, &alarms);
        if let Some(alarm) = self.blind_value_model(done, metrics) {
            news.push(AlertEvent::Started(alarm.text.clone())); // it is looked for at this step only
            alarms.push(alarm);
        }
        if let Some(found) = self.evaluation(done, metrics) {
            news.extend(self.state.evaluations.found.update(done, &found));
            alarms.extend(found);
        }
        let ends = self.limits.action != Action::Warn;
        let lasting = (ends && self.state.streak >= self.limits.patience).then(|| done - self.state.streak);
        let Evaluations { bad, good, .. } = self.state.evaluations;
        let hacked = (ends && bad >= self.limits.patience).then_some(good);
        StepCheck { alerts: alarms, events: news, last_good_step: lasting.or(hacked) }
    }

    /// A value model that explains nothing when its warm-up ends.
    fn blind_value_model(&self, done: u64, metrics: &Metrics) -> Option<Alert> {
        let explained = metrics.get("value/explained_variance").unwrap_or(f64::NAN);
        (done == self.value_warmup_steps && explained < 0.0).then(|| Alert {
            name: "value/explained_variance".to_owned(),
            text: format!(
                "value/explained_variance is {explained:.4} at the end of the value warm-up, below 0: the advantages to come say \
                 nothing; give it more ppo.value_warmup_steps or a higher ppo.value_lr"
            ),
            over: String::new(),
        })
    }

    /// The findings over all evaluations so far, when this step has an evaluation.
    fn evaluation(&mut self, done: u64, metrics: &Metrics) -> Option<Vec<Alert>> {
        let held_out = metrics.iter().filter(|(name, value)| name.starts_with("eval/") && value.is_finite());
        let held_out: Metrics = held_out.collect();
        if held_out.is_empty() {
            return None;
        }
        let evaluations = &mut self.state.evaluations;
        evaluations.log.push((done, held_out));
        let found = held_out_findings(&evaluations.log, Some(self.limits.kl_max));
        if found.is_empty() {
            (evaluations.bad, evaluations.good) = (0, done);
        } else {
            evaluations.bad += 1;
        }
        Some(found)
    }

    /// The limits that a step breaks. An alert's name is the limit's key in `[guards]`.
    fn broken_limits(&mut self, metrics: &Metrics) -> Vec<Alert> {
        let number = |name: &str| metrics.get(name).unwrap_or(f64::NAN);
        let (entropy, tokens) = (number("policy/entropy"), number("response/tokens"));
        let first_entropy = *self.state.entropy.get_or_insert(entropy);
        let first_tokens = *self.state.tokens.get_or_insert(tokens);
        let limits = &self.limits;
        let mut alarms = Vec::new();
        let mut check = |broken: bool, key: &str, metric: &str, number: f64, limit: String| {
            if broken {
                alarms.push(Alert {
                    name: key.to_owned(),
                    text: format!("{metric} is {number:.4}, {limit}"),
                    over: format!("{metric} is within its limit again"),
                });
            }
        };
        let (kl, identical) = (number("kl/ref"), number("response/identical"));
        check(kl > limits.kl_max, "kl_max", "kl/ref", kl, format!("above guards.kl_max = {}", limits.kl_max));
        check(
            entropy < limits.entropy_min * first_entropy,
            "entropy_min",
            "policy/entropy",
            entropy,
            format!("below guards.entropy_min = {} of the first step's {first_entropy:.4}", limits.entropy_min),
        );
        check(
            tokens < limits.length_min * first_tokens,
            "length_min",
            "response/tokens",
            tokens,
            format!("below guards.length_min = {} of the first step's {first_tokens:.1}", limits.length_min),
        );
        check(
            tokens > limits.length_max * first_tokens,
            "length_max",
            "response/tokens",
            tokens,
            format!("above guards.length_max = {} of the first step's {first_tokens:.1}", limits.length_max),
        );
        check(
            identical > limits.identical_max,
            "identical_max",
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
        assert_eq!(guards.watch(1, &metrics(0.0, 2.0, 20.0, 0.0)), StepCheck::default());
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
            let watch = guards.clone().watch(2, &metrics);
            assert_eq!(watch.alerts.iter().map(|alarm| alarm.text.as_str()).collect::<Vec<_>>(), [name]);
            assert_eq!((watch.events, watch.last_good_step), (vec![AlertEvent::Started(name.to_owned())], None));
        }
        assert_eq!(guards.watch(3, &metrics(9.0, 0.2, 50.0, 0.9)), StepCheck::default());
    }

    fn events(guards: &mut Guards, done: u64, metrics: &Metrics) -> Vec<String> {
        guards.watch(done, metrics).events.iter().map(|news| news.line(done)).collect()
    }

    #[test]
    fn a_broken_limit_is_reported_once_and_once_when_it_holds_again() {
        let mut guards = guards(Action::Warn);
        let lines: Vec<String> = [(9.0, 0.0), (10.5, 0.0), (11.5, 1.0), (12.5, 0.0), (9.5, 0.0), (9.0, 0.0)]
            .into_iter()
            .zip(1..)
            .flat_map(|((kl, identical), done)| events(&mut guards, done, &metrics(kl, 2.0, 20.0, identical)))
            .collect();
        let expected = [
            "warning: step 2: kl/ref is 10.5000, above guards.kl_max = 10",
            "warning: step 3: response/identical is 1.0000, above guards.identical_max = 0.95",
            "step 4: response/identical is within its limit again",
            "step 5: kl/ref is within its limit again",
        ];
        assert_eq!(lines, expected);
    }

    /// Metrics of an evaluation at which responses to `held` have `tokens` tokens, and those of the reference
    /// 12.
    fn evaluated(tokens: f64, distinct: f64) -> Metrics {
        let mut metrics = metrics(1.0, 2.0, 20.0, 0.0);
        for (name, value) in
            [("score_mean", 1.0), ("tokens", tokens), ("reference_tokens", 12.0), ("distinct", distinct)]
        {
            metrics.set(format!("eval/held/{name}"), value);
        }
        metrics
    }

    const FINDINGS: [&str; 4] = [
        "warning: step 20: length hacking: on held responses have grown by 58 %, from 12.0 to 19.0 tokens, by more than half since \
         step 20",
        "warning: step 30: collapse: on held only 25 % of the responses differ from each other, below half since step 30",
        "step 40: length hacking on held is no longer found",
        "warning: step 80, since step 30: collapse: on held only 25 % of the responses differ from each other, below half since \
         step 30",
    ];

    /// The events of evaluations every ten steps; after the step `stop` the state is saved and loaded.
    fn events_of_evaluations(stop: u64) -> Vec<String> {
        let mut guards = guards(Action::Warn);
        let (calm, lengths, collapsed) = (metrics(1.0, 2.0, 20.0, 0.0), [12.0, 19.0, 20.0, 12.0], [1.0, 1.0, 0.25]);
        let mut lines = Vec::new();
        for done in 1..=90u64 {
            let index = (done / 10) as usize;
            let at = |values: &[f64]| values.get(index - 1).or(values.last()).copied().unwrap();
            let metrics = if done % 10 == 0 { evaluated(at(&lengths), at(&collapsed)) } else { calm.clone() };
            lines.extend(events(&mut guards, done, &metrics));
            if done == stop {
                let state = serde_json::to_string(&guards.state()).unwrap();
                guards = self::guards(Action::Warn);
                guards.load(serde_json::from_str(&state).unwrap());
            }
        }
        lines
    }

    #[test]
    fn a_new_finding_is_reported_and_a_stop_in_between_changes_nothing() {
        for stop in 0..90 {
            assert_eq!(events_of_evaluations(stop), FINDINGS, "stopped at {stop}");
        }
    }

    /// A run of 25 steps evaluates at its end; one of 40 steps does not evaluate there.
    #[test]
    fn an_evaluation_that_only_the_end_calls_for_is_forgotten_when_the_run_goes_on() {
        let mut whole = guards(Action::Warn);
        whole.watch(20, &evaluated(12.0, 1.0));
        let mut ended = whole.clone();
        ended.expect_extra_evaluation();
        assert_eq!(ended.watch(25, &evaluated(19.0, 1.0)).events.len(), 1);
        assert_eq!(ended.evaluations().len(), 2);
        whole.watch(25, &metrics(1.0, 2.0, 20.0, 0.0));
        assert_eq!(ended.state(), whole.state());
    }

    #[test]
    fn a_value_model_that_has_learned_nothing_is_reported_after_its_warmup() {
        let mut guards = guards(Action::Warn);
        let alarms: Vec<usize> = [(6, -0.2), (7, -0.2), (8, -0.2), (7, 0.1)]
            .into_iter()
            .map(|(done, explained)| {
                let mut metrics = metrics(1.0, 2.0, 20.0, 0.0);
                metrics.set("value/explained_variance", explained);
                guards.watch(done, &metrics).alerts.len()
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
                let watch = guards.watch(done, &evaluated(tokens, 1.0));
                (watch.alerts.iter().any(|alarm| alarm.name == "length hacking on held"), watch.last_good_step)
            })
            .collect();
        assert_eq!(halts, [(false, None), (true, None), (true, Some(10))]);
    }

    #[test]
    fn a_run_ends_after_a_streak_and_names_the_last_good_step() {
        let (good, bad) = (metrics(1.0, 2.0, 20.0, 0.0), metrics(11.0, 2.0, 20.0, 0.0));
        let mut guards = guards(Action::Rollback);
        let halts: Vec<_> = [&good, &bad, &good, &bad, &bad]
            .into_iter()
            .zip(1..)
            .map(|(metrics, done)| guards.watch(done, metrics).last_good_step)
            .collect();
        assert_eq!(halts, [None, None, None, None, Some(3)]);
        // A resume continues the streak.
        let mut resumed = guards.clone();
        resumed.load(GuardState { streak: 1, ..guards.state() });
        assert_eq!(resumed.watch(9, &bad).last_good_step, Some(7));
    }
}

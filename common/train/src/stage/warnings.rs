//! Alerts that last for several steps: reported when they start, at intervals while they last, and when they
//! are resolved.

use serde::{Deserialize, Serialize};

/// Steps after which a lasting alert is reported again. Our choice.
const REMIND_AFTER: u64 = 50;

/// A problem with a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Identifies the alert across steps, independent of its numbers.
    pub name: String,
    /// The description, with numbers.
    pub text: String,
    /// The message when the alert is resolved.
    pub over: String,
}

/// A reported change of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlertEvent {
    /// A new alert.
    Started(String),
    /// An alert that has lasted since this step.
    Ongoing(u64, String),
    /// The end of an alert.
    Resolved(String),
}

impl AlertEvent {
    /// The line to report at step `done`.
    pub fn line(&self, done: u64) -> String {
        match self {
            AlertEvent::Started(text) => format!("warning: step {done}: {text}"),
            AlertEvent::Ongoing(since, text) => format!("warning: step {done}, since step {since}: {text}"),
            AlertEvent::Resolved(text) => format!("step {done}: {text}"),
        }
    }
}

/// The alerts that last. A checkpoint saves them, so that a resumed run reports the same lines as an
/// uninterrupted one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveAlerts(Vec<Warning>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Warning {
    name: String,
    over: String,
    /// The step at which the alert started.
    since: u64,
    /// The step at which it was last reported.
    #[serde(rename = "told")]
    reported: u64,
}

impl ActiveAlerts {
    /// The events to report when `alerts` are all alerts of step `done`; resolved ones first.
    pub fn update(&mut self, done: u64, alerts: &[Alert]) -> Vec<AlertEvent> {
        let (lasting, over) =
            std::mem::take(&mut self.0).into_iter().partition(|old| alerts.iter().any(|alert| alert.name == old.name));
        self.0 = lasting;
        let over: Vec<Warning> = over;
        let mut events: Vec<AlertEvent> = over.into_iter().map(|warning| AlertEvent::Resolved(warning.over)).collect();
        for Alert { name, text, over } in alerts.iter().cloned() {
            match self.0.iter_mut().find(|old| old.name == name) {
                None => {
                    events.push(AlertEvent::Started(text));
                    self.0.push(Warning { name, over, since: done, reported: done });
                }
                Some(old) if done >= old.reported + REMIND_AFTER => {
                    old.reported = done;
                    events.push(AlertEvent::Ongoing(old.since, text));
                }
                Some(_) => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(name: &str, number: u64) -> Alert {
        let text = format!("{name} is {number}");
        Alert { name: name.to_owned(), text, over: format!("{name} is fine again") }
    }

    /// `a` is raised in steps 3 to 120, `b` in 100 and 119 to 121.
    fn raised(step: u64) -> Vec<Alert> {
        let a = (3..=120).contains(&step).then(|| alert("a", step));
        let b = (step == 100 || (119..=121).contains(&step)).then(|| alert("b", step));
        a.into_iter().chain(b).collect()
    }

    fn reported(active: &mut ActiveAlerts, steps: std::ops::RangeInclusive<u64>) -> Vec<String> {
        steps
            .flat_map(|step| active.update(step, &raised(step)).into_iter().map(move |event| event.line(step)))
            .collect()
    }

    const LINES: [&str; 8] = [
        "warning: step 3: a is 3",
        "warning: step 53, since step 3: a is 53",
        "warning: step 100: b is 100",
        "step 101: b is fine again",
        "warning: step 103, since step 3: a is 103",
        "warning: step 119: b is 119",
        "step 121: a is fine again",
        "step 122: b is fine again",
    ];

    #[test]
    fn an_alert_is_reported_when_it_starts_every_fifty_steps_and_when_it_is_resolved() {
        assert_eq!(reported(&mut ActiveAlerts::default(), 1..=200), LINES);
    }

    #[test]
    fn reports_do_not_depend_on_a_resume() {
        for stop in 1..130 {
            let mut active = ActiveAlerts::default();
            let before = reported(&mut active, 1..=stop);
            let saved = serde_json::to_string(&active).unwrap();
            let after = reported(&mut serde_json::from_str(&saved).unwrap(), stop + 1..=200);
            assert_eq!([before, after].concat(), LINES, "stopped at {stop}");
        }
    }
}

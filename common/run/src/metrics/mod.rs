//! Named scalars of a step, written to metrics.jsonl and TensorBoard.

mod lines;
pub mod markdown;
mod tensorboard;

pub use lines::Lines;
#[cfg(test)]
pub(crate) use tensorboard::event_values;
pub use tensorboard::{Histogram, TensorBoard};
pub(crate) use tensorboard::{Shown, retain};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The scalars of one step, in the order in which they were set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name`, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        match self.0.iter_mut().find(|(own, _)| *own == name) {
            Some((_, own)) => *own = value,
            None => self.0.push((name, value)),
        }
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| *value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Whether none was set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets all of `other`.
    pub fn merge(&mut self, other: Metrics) {
        for (name, value) in other.0 {
            self.set(name, value);
        }
    }

    /// As a JSON object; non-finite values become `null`.
    pub fn to_json(&self) -> Map<String, Value> {
        self.iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
    }
}

impl<N: Into<String>> Extend<(N, f64)> for Metrics {
    fn extend<I: IntoIterator<Item = (N, f64)>>(&mut self, values: I) {
        for (name, value) in values {
            self.set(name, value);
        }
    }
}

impl<N: Into<String>> FromIterator<(N, f64)> for Metrics {
    fn from_iter<I: IntoIterator<Item = (N, f64)>>(values: I) -> Self {
        let mut metrics = Metrics::new();
        metrics.extend(values);
        metrics
    }
}

/// Whether a scalar measures time or memory, and so differs from run to run.
pub fn is_wall_clock(name: &str) -> bool {
    name == "seconds" || name.ends_with("_per_second") || name.starts_with("time/") || name.starts_with("memory/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_replacement() {
        let mut metrics: Metrics = [("b", 1.0), ("a", f64::NAN)].into_iter().collect();
        metrics.set("b", 3.0);
        assert_eq!(serde_json::to_string(&metrics.to_json()).unwrap(), r#"{"b":3.0,"a":null}"#);
    }

    #[test]
    fn wall_clock_names() {
        for name in ["seconds", "time/step", "train/tokens_per_second", "memory/peak_gib"] {
            assert!(is_wall_clock(name), "{name}");
        }
        assert!(!is_wall_clock("train/loss") && !is_wall_clock("eval/a/second_score_mean"));
    }
}

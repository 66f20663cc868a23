//! How long-running work tells where it is. Libraries print nothing: they call a [`Progress`], and the binary draws it.

use std::time::{Duration, Instant};

/// A listener to long-running work.
pub trait Progress {
    /// Work of `total` units starts; `total` 0 means that the end is not known.
    fn begin(&mut self, what: &str, total: u64);
    /// `n` more units are done; `note` is a few words on the latest, such as the loss.
    fn advance(&mut self, n: u64, note: &str);
    /// The work that began last has ended.
    fn end(&mut self);
    /// A line that stays: something unusual, or a result on the way.
    fn note(&mut self, line: &str);
}

/// Listens to nothing; for tests and for `--json`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _n: u64, _note: &str) {}
    fn end(&mut self) {}
    fn note(&mut self, _line: &str) {}
}

/// How fast work goes and how long it still takes: a mean over the recent past, so that a slow start or an evaluation in
/// between is forgotten after some units.
#[derive(Debug, Clone)]
pub struct Rate {
    total: u64,
    done: u64,
    seconds_per_unit: Option<f64>,
    last: Instant,
}

/// The weight of a unit falls to 1/e after this many further ones.
const MEMORY_UNITS: f64 = 20.0;

impl Rate {
    /// Work of `total` units, of which `done` were done earlier (a resumed run), starts now.
    pub fn new(total: u64, done: u64) -> Self {
        Self { total, done, seconds_per_unit: None, last: Instant::now() }
    }

    /// `n` more units are done, now.
    pub fn advance(&mut self, n: u64) {
        let now = Instant::now();
        let elapsed = now - self.last;
        self.last = now;
        self.advance_by(n, elapsed);
    }

    /// `n` more units are done and took `elapsed`.
    pub fn advance_by(&mut self, n: u64, elapsed: Duration) {
        if n == 0 {
            return;
        }
        self.done += n;
        let latest = elapsed.as_secs_f64() / n as f64;
        let keep = (-(n as f64) / MEMORY_UNITS).exp();
        self.seconds_per_unit = Some(match self.seconds_per_unit {
            None => latest,
            Some(mean) => keep * mean + (1.0 - keep) * latest,
        });
    }

    /// Units done, those of an earlier process included.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Units per second; `None` before the first.
    pub fn per_second(&self) -> Option<f64> {
        self.seconds_per_unit.filter(|seconds| *seconds > 0.0).map(f64::recip)
    }

    /// Time to the end; `None` before the first unit and where the end is not known.
    pub fn eta(&self) -> Option<Duration> {
        let left = self.total.checked_sub(self.done).filter(|_| self.total > 0)?;
        Duration::try_from_secs_f64(self.seconds_per_unit? * left as f64).ok()
    }
}

/// A duration as people read it: `8s`, `3m05s`, `2h07m`, `3d04h`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_eta_by_hand() {
        let mut rate = Rate::new(10, 4);
        assert_eq!(rate.eta(), None);
        rate.advance_by(2, Duration::from_secs(1)); // half a second each, 4 left
        assert_eq!(rate.per_second(), Some(2.0));
        assert_eq!(rate.eta(), Some(Duration::from_secs(2)));
        assert_eq!(rate.done(), 6);
    }

    #[test]
    fn an_unknown_end_has_no_eta() {
        let mut rate = Rate::new(0, 0);
        rate.advance_by(1, Duration::from_secs(1));
        assert_eq!(rate.eta(), None);
    }

    #[test]
    fn durations_read_well() {
        let texts: Vec<String> =
            [8, 185, 7620, 273_600].map(|seconds| human_duration(Duration::from_secs(seconds))).to_vec();
        assert_eq!(texts, ["8s", "3m05s", "2h07m", "3d04h"]);
    }
}

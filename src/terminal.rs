//! Progress on stderr: bars with rate and remaining time, and notes. Bars are hidden if stderr is not a
//! terminal.

use std::fmt;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use align_core::progress::Progress;
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output::say;

/// Progress on stderr.
pub(crate) struct Terminal {
    bar: Option<(ProgressBar, Pace)>,
    interactive: bool,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        Self { bar: None, interactive: std::io::stderr().is_terminal() }
    }
}

/// The mean rate since the work began. indicatif's own is that of the last seconds, which is 0 within units
/// that take longer.
#[derive(Clone, Default)]
struct Pace {
    /// When the latest unit was done, in milliseconds after the work began.
    latest: Arc<AtomicU64>,
}

impl Pace {
    /// Writes rate and remaining time; nothing before the first unit is done.
    fn write(&self, state: &ProgressState, rate: fn(f64) -> String, out: &mut dyn fmt::Write) -> fmt::Result {
        let latest = Duration::from_millis(self.latest.load(Ordering::Relaxed));
        let Some(seconds) = seconds_each(state.pos(), latest) else { return Ok(()) };
        write!(out, "· {} ", rate(seconds))?;
        match state.len() {
            None | Some(0) => Ok(()),
            Some(total) => write!(out, "· {:#} left ", HumanDuration(left(seconds, total, state.elapsed()))),
        }
    }
}

/// The mean time of a unit when the latest of `done` ended `latest` after the beginning.
fn seconds_each(done: u64, latest: Duration) -> Option<f64> {
    (done > 0).then(|| latest.as_secs_f64().max(1e-3) / done as f64)
}

fn left(seconds_each: f64, total: u64, elapsed: Duration) -> Duration {
    Duration::from_secs_f64((seconds_each * total as f64 - elapsed.as_secs_f64()).max(0.0))
}

/// How a rate is written, from the seconds of a unit.
fn rate(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.1}/s", 1.0 / seconds),
        _ => format!("{seconds:.1} s each"),
    }
}

fn byte_rate(seconds: f64) -> String {
    format!("{}/s", BinaryBytes((1.0 / seconds) as u64))
}

impl Terminal {
    fn begin_with(&mut self, counts: &str, rate: fn(f64) -> String, what: &str, total: u64) {
        self.end();
        let template = format!("{{prefix:>12}} {{bar:28}} {counts} {{pace}}{{msg}}");
        let pace = Pace::default();
        let shown = pace.clone();
        let write = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = shown.write(state, rate, out);
        };
        let style = ProgressStyle::with_template(&template)
            .expect("the template is constant")
            .with_key("pace", write)
            .progress_chars("━╸ ");
        let target = if self.interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        self.bar = Some((bar, pace));
    }
}

impl Progress for Terminal {
    fn begin(&mut self, what: &str, total: u64) {
        self.begin_with("{pos}/{len}", rate, what, total);
    }

    fn begin_bytes(&mut self, what: &str, total: u64) {
        self.begin_with("{binary_bytes}/{binary_total_bytes}", byte_rate, what, total);
    }

    fn advance(&mut self, n: u64, note: &str) {
        if let Some((bar, pace)) = &self.bar {
            pace.latest.store(bar.elapsed().as_millis() as u64, Ordering::Relaxed);
            if !note.is_empty() {
                bar.set_message(format!("· {note}"));
            }
            bar.inc(n);
        }
    }

    fn end(&mut self) {
        if let Some((bar, _)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn note(&mut self, line: &str) {
        match &self.bar {
            Some((bar, _)) if self.interactive => bar.suspend(|| say(line)),
            _ => say(line),
        }
    }
}

/// Reports how scores of another program's reward model are read.
pub(crate) fn report_assumed(dir: &Path, assumed: Option<&str>) {
    if let Some(assumed) = assumed {
        Terminal::new().note(&format!("{}: {assumed}", dir.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_a_mean_and_time_left_shrinks_within_a_unit() {
        let after = Duration::from_secs;
        assert_eq!(seconds_each(0, after(9)), None);
        let seconds = seconds_each(3, after(90)).unwrap();
        assert_eq!((rate(seconds).as_str(), rate(0.25).as_str()), ("30.0 s each", "4.0/s"));
        // Five units take 150 s: 110 s after the beginning, 40 s are left; none after 160 s.
        assert_eq!((left(seconds, 5, after(110)), left(seconds, 5, after(160))), (after(40), after(0)));
    }
}

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
        let (done, total) = (state.pos(), state.len().unwrap_or(0));
        if done == 0 {
            return Ok(());
        }
        let seconds = self.latest.load(Ordering::Relaxed).max(1) as f64 / 1e3 / done as f64;
        write!(out, "· {} ", rate(seconds))?;
        if total == 0 {
            return Ok(());
        }
        let left = Duration::from_secs_f64((seconds * total as f64 - state.elapsed().as_secs_f64()).max(0.0));
        write!(out, "· {:#} left ", HumanDuration(left))
    }
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
        let write = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
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

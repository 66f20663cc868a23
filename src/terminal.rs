//! Progress on stderr: bars with rate and remaining time, and notes. Bars are hidden if stderr is not a
//! terminal.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use align_core::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::say;

/// Progress on stderr.
pub(crate) struct Terminal {
    bar: Option<ProgressBar>,
    interactive: bool,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        Self { bar: None, interactive: std::io::stderr().is_terminal() }
    }
}

impl Terminal {
    fn begin_with(&mut self, template: &str, what: &str, total: u64) {
        self.end();
        let style = ProgressStyle::with_template(template).expect("the template is constant").progress_chars("━╸ ");
        let target = if self.interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        self.bar = Some(bar);
    }
}

impl Progress for Terminal {
    fn begin(&mut self, what: &str, total: u64) {
        self.begin_with("{prefix:>12} {bar:28} {pos}/{len} · {per_sec} · {eta} left {msg}", what, total);
    }

    fn begin_bytes(&mut self, what: &str, total: u64) {
        let template =
            "{prefix:>12} {bar:28} {binary_bytes}/{binary_total_bytes} · {binary_bytes_per_sec} · {eta} left {msg}";
        self.begin_with(template, what, total);
    }

    fn advance(&mut self, n: u64, note: &str) {
        if let Some(bar) = &self.bar {
            if !note.is_empty() {
                bar.set_message(format!("· {note}"));
            }
            bar.inc(n);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn note(&mut self, line: &str) {
        match &self.bar {
            Some(bar) if self.interactive => bar.suspend(|| say(line)),
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

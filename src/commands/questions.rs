//! The lines that a person writes in a dialogue in the terminal.

use std::io::{BufRead, IsTerminal, Lines, StdinLock, Write};

use anyhow::Result;

use crate::output::say;

/// What a person writes.
pub(super) enum Entry {
    /// A question.
    Question(String),
    /// The dialogue starts over.
    New,
}

/// Lines of stdin, with a prompt if it is a terminal; empty ones are skipped.
pub(super) struct Questions {
    lines: Lines<StdinLock<'static>>,
    is_interactive: bool,
}

impl Questions {
    /// Begins a dialogue; `title` is shown in a terminal.
    pub(super) fn start(title: &str) -> Self {
        let is_interactive = std::io::stdin().is_terminal();
        if is_interactive {
            say(&format!("{title} · /new starts over, Ctrl-D ends"));
        }
        Self { lines: std::io::stdin().lock().lines(), is_interactive }
    }
}

impl Iterator for Questions {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.is_interactive {
                let _ = write!(std::io::stderr(), "> ");
            }
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error.into())),
            };
            match line.trim() {
                "" => {}
                "/new" => return Some(Ok(Entry::New)),
                _ => return Some(Ok(Entry::Question(line))),
            }
        }
    }
}

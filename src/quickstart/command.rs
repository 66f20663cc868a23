//! A command of this program that the quickstart runs, and prints so that a user can repeat it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;

use super::RunCommand;
use crate::cli::Cli;

/// The width of a terminal that everything printed should fit.
const WIDTH: usize = 80;

/// A command line without the program's name. A flag and its value stay together on a line.
#[derive(Debug, Clone)]
pub(super) struct CommandLine {
    parts: Vec<Vec<String>>,
}

impl CommandLine {
    pub(super) fn new(command: &str) -> Self {
        Self { parts: command.split(' ').map(|word| vec![word.to_owned()]).collect() }
    }

    pub(super) fn flag(mut self, flag: &str, value: &str) -> Self {
        self.parts.push(vec![flag.to_owned(), value.to_owned()]);
        self
    }

    pub(super) fn path(self, flag: &str, path: &Path) -> Self {
        self.flag(flag, &path.display().to_string())
    }

    pub(super) fn word(mut self, word: &str) -> Self {
        self.parts.push(vec![word.to_owned()]);
        self
    }

    /// Runs it in this process.
    pub(super) fn run(&self, run: RunCommand<'_>) -> Result<()> {
        let words = ["align"].into_iter().chain(self.parts.iter().flatten().map(String::as_str));
        let parsed = Cli::try_parse_from(words).with_context(|| format!("`{self}` is not a command"))?;
        run(parsed.command).map(drop)
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = "  align".to_owned();
        for part in &self.parts {
            let words: Vec<String> = part.iter().map(|word| quoted(word)).collect();
            let next = words.join(" ");
            if line.chars().count() + 1 + next.chars().count() + 2 > WIDTH {
                writeln!(out, "{line} \\")?;
                line = format!("    {next}");
            } else {
                line = format!("{line} {next}");
            }
        }
        out.write_str(&line)
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-,=:+%@".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_is_what_a_shell_reads() {
        let folder = Path::new("/a folder of which the name is long, and it's quoted");
        let line = CommandLine::new("eval tasks --chat").flag("--system", "").path("--data", folder).word("--json");
        let script = format!("align() {{ printf '%s\\n' \"$@\"; }}\n{line}");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let words = ["eval", "tasks", "--chat", "--system", "", "--data", folder.to_str().unwrap(), "--json"];
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), words);
        assert!(line.to_string().lines().count() > 1);
    }
}

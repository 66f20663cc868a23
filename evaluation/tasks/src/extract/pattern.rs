//! Patterns: regular expressions with look-around, and Python's way of listing matches.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use fancy_regex::{Captures, Regex, RegexBuilder};

/// Steps of backtracking before a search is given up. A pattern that needs more on an answer finds nothing.
const MAX_STEPS: usize = 100_000_000;

/// A pattern whose match is the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pattern: String,
    which: Which,
}

/// Which of several matches is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The first.
    First,
    /// The last.
    Last,
}

impl Pattern {
    /// A pattern. A match's text is that of the first group that is not empty, or of the whole match when the
    /// pattern has no groups (Python's `findall`, as lm-evaluation-harness uses it).
    ///
    /// # Errors
    /// When it is not a pattern: why.
    pub fn new(pattern: &str, which: Which) -> Result<Self, String> {
        RegexBuilder::new(pattern).build().map_err(|error| error.to_string())?;
        Ok(Self { pattern: pattern.to_owned(), which })
    }

    /// The text of the match, without white space around it.
    pub(super) fn extract(&self, text: &str) -> Option<String> {
        let regex = compiled_once(&self.pattern);
        let matches = regex.captures_iter(text).map_while(Result::ok);
        let found = match self.which {
            Which::First => matches.take(1).last(),
            Which::Last => matches.last(),
        }?;
        let found = group(&found)?;
        Some(found.trim().to_owned())
    }
}

/// The text of a match.
fn group<'a>(captures: &Captures<'a>) -> Option<&'a str> {
    let groups = || (1..captures.len()).map(|index| captures.get(index).map_or("", |group| group.as_str()));
    match captures.len() {
        1 => captures.get(0).map(|whole| whole.as_str()),
        2 => groups().next(),
        _ => groups().find(|text| !text.is_empty()),
    }
}

/// A task's pattern, which has been compiled at its first use: compiling takes longer than most searches.
fn compiled_once(pattern: &str) -> Arc<Regex> {
    static COMPILED: LazyLock<Mutex<HashMap<String, Arc<Regex>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(compiled.entry(pattern.to_owned()).or_insert_with(|| Arc::new(compile(pattern))))
}

/// Compiles a pattern that is known to be one.
pub(crate) fn compile(pattern: &str) -> Regex {
    RegexBuilder::new(pattern).backtrack_limit(MAX_STEPS).build().expect("a checked pattern compiles")
}

/// Compiles patterns that are known to be some.
pub(super) fn compile_all<const N: usize>(patterns: [&str; N]) -> [Regex; N] {
    patterns.map(compile)
}

/// The text of the first group of the first match.
pub(super) fn first_group<'a>(regex: &Regex, text: &'a str) -> Option<&'a str> {
    regex.captures(text).ok().flatten().and_then(|captures| captures.get(1)).map(|group| group.as_str())
}

/// The text of the last match.
pub(super) fn last_match<'a>(regex: &Regex, text: &'a str) -> Option<&'a str> {
    regex.find_iter(text).map_while(Result::ok).last().map(|found| found.as_str())
}

/// Replaces every match by `replacement`, which may name groups.
pub(crate) fn replace_all(regex: &Regex, text: &str, replacement: &str) -> String {
    regex.try_replacen(text, 0, replacement).map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned)
}

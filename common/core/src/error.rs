//! The error type of the workspace. The user's mistakes are a list of [`Problem`]s, found before any model
//! loads; failures of the system keep their cause.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// The result of every fallible function in the workspace.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments, config, data or checkpoint are wrong: exit code 2, one line per cause.
    #[error("{}", lines(.0).join("\n"))]
    Invalid(Vec<Problem>),
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A checkpoint could not be written, or its contents are not as intended.
    #[error(
        "the checkpoint of step {step} is not saved: {source}; earlier checkpoints are intact, and --resume continues from them"
    )]
    Saving {
        /// Steps done.
        step: u64,
        /// Why.
        source: Box<Error>,
    },
    /// A model could not be written, or did not read back as intended. The rest of the checkpoint is intact.
    #[error(
        "the model of step {step} is not saved: {source}; masters, moments and counters are, in {}: --resume continues from there and writes the model again, in the same or another run.result_dtype; earlier checkpoints are intact",
        path.display()
    )]
    Models {
        /// Steps done.
        step: u64,
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        source: Box<Error>,
    },
    /// A loss or gradient is non-finite (NaN or infinite).
    #[error(
        "{what} is not finite ({number}), expected a finite number; lower the learning rate or look at the rows of this step"
    )]
    NonFinite {
        /// The quantity.
        what: String,
        /// Its value; NaN where that is not known.
        number: f64,
    },
    /// Something else failed while running.
    #[error("{0}")]
    Failed(String),
}

/// Returns the number if it is finite.
///
/// # Errors
/// [`Error::NonFinite`] for NaN and infinities.
pub fn finite(what: &str, number: f64) -> Result<f64> {
    if number.is_finite() { Ok(number) } else { Err(Error::NonFinite { what: what.to_owned(), number }) }
}

/// The maximum number of lines in a message. Fixing the first ones often fixes others.
const MAX_LINES: usize = 10;
/// How many further rows with the same cause are named.
const MAX_LOCATIONS: usize = 3;

/// One mistake of the user's: its location, what is wrong and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// A file, `file:line`, a config key's file or a flag.
    pub location: String,
    /// What is wrong, what was expected, and the fix where there is one.
    pub what: String,
    /// For a row: other rows with the same cause.
    similar: Option<SimilarRows>,
}

/// Rows that are bad for the same cause as the one that is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct SimilarRows {
    locations: Vec<String>,
    count: u64,
}

impl Problem {
    /// A mistake that is never grouped with others.
    pub fn new(location: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { location: location.to_string(), what: what.to_string(), similar: None }
    }

    /// A bad row. Rows with the same cause are reported on one line.
    pub fn of_row(location: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { similar: Some(SimilarRows::default()), ..Self::new(location, what) }
    }

    /// The cause by which rows are grouped; `None` if the problem is not a row.
    pub fn cause(&self) -> Option<String> {
        self.similar.as_ref().map(|_| cause(&self.what))
    }

    /// Adds another row of the same cause, together with the rows grouped with it.
    pub fn merge(&mut self, other: Problem) {
        let (Some(similar), Some(more)) = (&mut self.similar, other.similar) else { return };
        similar.count += 1 + more.count;
        // Elements of an array may share a line.
        let location = match row_number(&other.what) {
            Some((row, _)) => format!("{} ({row})", other.location),
            None => other.location,
        };
        let room = MAX_LOCATIONS.saturating_sub(similar.locations.len());
        similar.locations.extend(std::iter::once(location).chain(more.locations).take(room));
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.what)?;
        match &self.similar {
            Some(SimilarRows { locations, count }) if *count > 0 => {
                let rows = if *count == 1 { "row" } else { "rows" };
                let more = if *count > locations.len() as u64 { ", …" } else { "" };
                write!(f, "; the same in {count} more {rows}: {}{more}", locations.join(", "))
            }
            _ => Ok(()),
        }
    }
}

/// The cause that rows have in common: the message without its numbers.
pub fn cause(what: &str) -> String {
    let mut rest = row_number(what).map_or(what, |(_, what)| what);
    let mut cause = String::new();
    while let Some(at) = rest.find(|char: char| char.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        if before.ends_with("UTF-") {
            let (name, after) = rest.split_at(at + 1);
            cause += name;
            rest = after;
            continue;
        }
        let hex = number.strip_prefix("0x");
        let is_digit = |char: char| if hex.is_some() { char.is_ascii_hexdigit() } else { char.is_ascii_digit() };
        rest = hex.unwrap_or(number).trim_start_matches(is_digit);
        cause += before;
        cause.push('#');
    }
    cause + rest
}

/// Splits `row 3: WHAT` into `row 3` and `WHAT`.
fn row_number(what: &str) -> Option<(&str, &str)> {
    what.split_once(": ").filter(|(row, _)| {
        row.strip_prefix("row ").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Every problem once, in the order found (two models may have read one bad file). Rows with the same cause
/// become one problem.
fn grouped(problems: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    let (mut all, mut seen): (Vec<Problem>, HashSet<(String, String)>) = (Vec::new(), HashSet::new());
    let mut of_cause: HashMap<String, usize> = HashMap::new();
    for problem in problems {
        if !seen.insert((problem.location.clone(), problem.what.clone())) {
            continue;
        }
        let at = problem.cause().map_or(all.len(), |cause| *of_cause.entry(cause).or_insert(all.len()));
        match all.get_mut(at) {
            Some(first) => first.merge(problem),
            None => all.push(problem),
        }
    }
    all
}

/// Problems as a limited number of lines, with one line for rows of the same cause, and the number of
/// problems left out.
pub fn summarize(problems: &[Problem]) -> (Vec<String>, usize) {
    let all = grouped(problems.iter().cloned());
    let shown = if all.len() > MAX_LINES { MAX_LINES - 1 } else { all.len() };
    (all[..shown].iter().map(Problem::to_string).collect(), all.len() - shown)
}

/// What a refusal prints: one line per problem, at most ten.
pub fn lines(problems: &[Problem]) -> Vec<String> {
    let (mut lines, rest) = summarize(problems);
    if rest > 0 {
        lines.push(format!("{rest} more problems: not shown, expected none; fix those above first"));
    }
    lines
}

impl Error {
    /// A single mistake of the user's.
    pub fn invalid(location: impl fmt::Display, what: impl fmt::Display) -> Self {
        Error::Invalid(vec![Problem::new(location, what)])
    }

    /// Wraps an [`std::io::Error`] with the path it happened at; for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    /// The process's exit code: 2 for the user's mistakes, 1 for a run that failed.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Error::Invalid(_)) { 2 } else { 1 }
    }
}

/// Collects mistakes so that all of them are reported together.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, location: impl fmt::Display, what: impl fmt::Display) {
        self.0.push(Problem::new(location, what));
    }

    /// Collects the problems of an [`Error::Invalid`] so that checking can continue; returns any other error.
    pub fn absorb<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Invalid(problems)) => {
                self.0.extend(problems);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a bad row.
    pub fn push_problem(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Returns the value of the checks if no problem was found. A check without a value must have reported a
    /// problem.
    ///
    /// # Errors
    /// As [`Problems::into_result`].
    ///
    /// # Panics
    /// When a check returned neither a value nor a problem.
    pub fn into_checked<T>(self, value: Option<T>) -> Result<T> {
        self.into_result()?;
        Ok(value.expect("a check without a value reports a problem"))
    }

    /// `Ok` when nothing was found.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every problem once, in the order found; rows with the same cause are one
    /// problem.
    pub fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(grouped(self.0))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_cause_share_a_line_and_other_problems_have_one_each() {
        let mut problems = Problems::new();
        for line in 1..=6 {
            problems.push_problem(Problem::of_row(format!("a.jsonl:{line}"), format!("`messages[{line}]` is empty")));
        }
        problems.push("train.steps", "must be at least 1");
        problems.push("run.keep", "must be at least 1");
        problems.push_problem(Problem::of_row("b.jsonl:9", "no assistant turn"));
        problems.push_problem(Problem::of_row("b.jsonl:9", "no assistant turn"));
        let Err(Error::Invalid(found)) = problems.into_result() else { panic!("there are problems") };
        let expected = [
            "a.jsonl:1: `messages[1]` is empty; the same in 5 more rows: a.jsonl:2, a.jsonl:3, a.jsonl:4, …",
            "train.steps: must be at least 1",
            "run.keep: must be at least 1",
            "b.jsonl:9: no assistant turn",
        ];
        assert_eq!(lines(&found), expected);
        // A group grows when more rows of its cause arrive.
        let mut again = Problems::new();
        again.absorb::<()>(Err(Error::Invalid(found.clone()))).unwrap();
        again.absorb::<()>(Err(Error::Invalid(found))).unwrap();
        again.push_problem(Problem::of_row("c.jsonl:3", "`messages[0]` is empty"));
        let Err(Error::Invalid(found)) = again.into_result() else { panic!("there are problems") };
        let first = "a.jsonl:1: `messages[1]` is empty; the same in 6 more rows: a.jsonl:2, a.jsonl:3, a.jsonl:4, …";
        assert_eq!((lines(&found).len(), lines(&found)[0].as_str()), (4, first));
    }

    #[test]
    fn a_cause_has_no_numbers() {
        assert_eq!(cause("row 12: `scores[3][14]` is null"), "`scores[#][#]` is null");
        assert_eq!(cause("byte 0xe9 is not UTF-8"), "byte # is not UTF-8");
        assert_eq!(cause("no assistant turn"), "no assistant turn");
        assert_eq!(cause("a row: with a colon 7"), "a row: with a colon #");
    }

    #[test]
    fn a_refusal_has_at_most_ten_lines() {
        let problems = |count| (0..count).map(|key| Problem::new(format!("key{key}"), "is wrong")).collect::<Vec<_>>();
        assert_eq!(lines(&problems(10)).len(), 10);
        let many = lines(&problems(580));
        assert_eq!(many.len(), 10);
        assert_eq!(many[8], "key8: is wrong");
        assert!(many[9].starts_with("571 more problems: "), "{}", many[9]);
    }
}

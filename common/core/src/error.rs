//! One error type for the workspace. What the user did wrong is a list of [`Problem`]s, found before any model loads; what
//! went wrong around us keeps its cause.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Everything in the workspace returns this.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments, config, data or checkpoint are wrong: exit code 2, one line a cause.
    #[error("{}", lines(.0).join("\n"))]
    Invalid(Vec<Problem>),
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A checkpoint could not be written, or is not what was to be written.
    #[error(
        "the checkpoint of step {step} is not saved: {source}; the earlier ones are whole, and --resume goes on from them"
    )]
    Saving {
        /// Steps done.
        step: u64,
        /// Why.
        source: Box<Error>,
    },
    /// A model could not be written, or was not read back as it was to be. The rest of the checkpoint is whole.
    #[error(
        "the model of step {step} is not saved: {source}; masters, moments and counters are, in {}: --resume goes on from there and writes the model again, in the same or another run.result_dtype; the earlier checkpoints are untouched",
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
    /// A loss or gradient is no longer a number.
    #[error(
        "{what} is not finite ({number}), expected a number; lower the learning rate or look at the rows of this step"
    )]
    NonFinite {
        /// The quantity.
        what: String,
        /// What it is instead; NaN where that is not known.
        number: f64,
    },
    /// Something else failed while running.
    #[error("{0}")]
    Failed(String),
}

/// The number, where it is one.
///
/// # Errors
/// [`Error::NonFinite`] for NaN and infinities.
pub fn finite(what: &str, number: f64) -> Result<f64> {
    if number.is_finite() { Ok(number) } else { Err(Error::NonFinite { what: what.to_owned(), number }) }
}

/// Lines that a message has at most: who has to mend more than that begins with the first ones.
const MAX_LINES: usize = 10;
/// Further rows that are named, of those that are bad in one way.
const MAX_PLACES: usize = 3;

/// One mistake of the user's: where it stands, and what is wrong with what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// A file, `file:line`, a config key's file or a flag.
    pub place: String,
    /// What is wrong, what was expected, and the fix where there is one.
    pub what: String,
    /// Of a row: which others are bad in the same way.
    others: Option<Others>,
}

/// Rows that are bad in the same way as one that is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Others {
    places: Vec<String>,
    count: u64,
}

impl Problem {
    /// A mistake that stands for itself.
    pub fn new(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { place: place.to_string(), what: what.to_string(), others: None }
    }

    /// A bad row. Rows that are bad in the same way are told on one line.
    pub fn of_row(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { others: Some(Others::default()), ..Self::new(place, what) }
    }

    /// What rows that are bad in the same way have in common; `None` of what is no row.
    pub fn cause(&self) -> Option<String> {
        self.others.as_ref().map(|_| cause(&self.what))
    }

    /// Takes in another row of the same cause, with those that it stands for.
    pub fn take_in(&mut self, other: Problem) {
        let (Some(others), Some(more)) = (&mut self.others, other.others) else { return };
        others.count += 1 + more.count;
        // Elements of an array may share a line.
        let place = match row_number(&other.what) {
            Some((row, _)) => format!("{} ({row})", other.place),
            None => other.place,
        };
        let room = MAX_PLACES.saturating_sub(others.places.len());
        others.places.extend(std::iter::once(place).chain(more.places).take(room));
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        match &self.others {
            Some(Others { places, count }) if *count > 0 => {
                let rows = if *count == 1 { "row" } else { "rows" };
                let more = if *count > places.len() as u64 { ", …" } else { "" };
                write!(f, "; the same in {count} more {rows}: {}{more}", places.join(", "))
            }
            _ => Ok(()),
        }
    }
}

/// What rows that are bad in the same way have in common: the message without numbers.
pub fn cause(what: &str) -> String {
    let mut rest = row_number(what).map_or(what, |(_, what)| what);
    let mut cause = String::new();
    while let Some(at) = rest.find(|char: char| char.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        if before.ends_with("UTF-") {
            let (name, behind) = rest.split_at(at + 1);
            cause += name;
            rest = behind;
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

/// `row 3` of what begins with it, and what follows.
fn row_number(what: &str) -> Option<(&str, &str)> {
    what.split_once(": ").filter(|(row, _)| {
        row.strip_prefix("row ").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Every problem once, in the order found (two models may have read one bad file), and of rows that are bad in the same way one that
/// stands for all.
fn grouped(problems: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    let (mut all, mut told): (Vec<Problem>, HashSet<(String, String)>) = (Vec::new(), HashSet::new());
    let mut of_cause: HashMap<String, usize> = HashMap::new();
    for problem in problems {
        if !told.insert((problem.place.clone(), problem.what.clone())) {
            continue;
        }
        let at = problem.cause().map_or(all.len(), |cause| *of_cause.entry(cause).or_insert(all.len()));
        match all.get_mut(at) {
            Some(first) => first.take_in(problem),
            None => all.push(problem),
        }
    }
    all
}

/// Problems as few lines, rows that are bad in the same way on one; and how many problems are not among them.
pub fn few_lines(problems: &[Problem]) -> (Vec<String>, usize) {
    let all = grouped(problems.iter().cloned());
    let shown = if all.len() > MAX_LINES { MAX_LINES - 1 } else { all.len() };
    (all[..shown].iter().map(Problem::to_string).collect(), all.len() - shown)
}

/// What a refusal prints: a line a problem, at most ten.
pub fn lines(problems: &[Problem]) -> Vec<String> {
    let (mut lines, rest) = few_lines(problems);
    if rest > 0 {
        lines.push(format!("{rest} more problems: not shown, expected none; mend those above first"));
    }
    lines
}

impl Error {
    /// A single mistake of the user's.
    pub fn invalid(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Error::Invalid(vec![Problem::new(place, what)])
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

/// Collects mistakes, so that all are reported at once.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        self.0.push(Problem::new(place, what));
    }

    /// Takes the problems out of an [`Error::Invalid`], so that checking can go on; any other error is returned.
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

    /// The value of checks that found nothing wrong; a check without a value has reported why.
    ///
    /// # Errors
    /// As [`Problems::into_result`].
    ///
    /// # Panics
    /// When a check gave neither a value nor a problem.
    pub fn into_checked<T>(self, value: Option<T>) -> Result<T> {
        self.into_result()?;
        Ok(value.expect("a check without a value reports a problem"))
    }

    /// `Ok` when nothing was found.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every problem once, in the order found, and rows that are bad in the same way as one.
    pub fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(grouped(self.0))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_bad_in_one_way_are_one_line_and_other_problems_one_each() {
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
        // What was put together before is put together with more.
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

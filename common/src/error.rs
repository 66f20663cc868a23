//! One error type for the workspace. What the user did wrong is a list of [`Problem`]s, found before any model loads; what
//! went wrong around us keeps its cause.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Everything in the workspace returns this.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments, config, data or checkpoint are wrong: exit code 2, one line each.
    #[error("{}", lines(.0))]
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
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
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

/// One mistake of the user's: where it stands, and what is wrong with what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// A file, `file:line`, a config key's file or a flag.
    pub place: String,
    /// What is wrong, what was expected, and the fix where there is one.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

impl Error {
    /// A single mistake of the user's.
    pub fn invalid(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Error::Invalid(vec![Problem { place: place.to_string(), what: what.to_string() }])
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
        self.0.push(Problem { place: place.to_string(), what: what.to_string() });
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

    /// `Ok` when nothing was found.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every problem once, in the order found: two models may have read one bad file.
    pub fn into_result(mut self) -> Result<()> {
        let mut told = HashSet::new();
        self.0.retain(|problem| told.insert(problem.clone()));
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

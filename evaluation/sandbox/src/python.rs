//! The user's interpreter: where its files are, and which packages it has.

use std::path::{Path, PathBuf};
use std::process::Command;

use align_core::error::{Error, Result};
use serde::Deserialize;

/// The oldest version that is accepted: `sys.base_exec_prefix`, `ast` and `-X utf8` are as the drivers need
/// them.
const OLDEST: [u64; 2] = [3, 8];

/// A Python interpreter, as it describes itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Python {
    /// The executable; in a virtual environment, the link there.
    executable: PathBuf,
    version: [u64; 3],
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    linkers: Vec<PathBuf>,
    packages: Vec<String>,
}

impl Python {
    /// Finds an interpreter (`None`: `python3` of `PATH`), and asks it once, outside the sandbox, for its
    /// folders and packages.
    ///
    /// # Errors
    /// If it cannot be started or is too old.
    pub fn find(path: Option<&Path>) -> Result<Self> {
        let name = path.unwrap_or(Path::new("python3"));
        let invalid = |what: String| {
            let expected = format!("expected Python {}.{} or newer; name it with --python", OLDEST[0], OLDEST[1]);
            Error::invalid(name.display(), format!("{what}, {expected}"))
        };
        let output = Command::new(name).args(["-I", "-B", "-X", "utf8", "-c", include_str!("find.py")]).output();
        let output = output.map_err(|error| invalid(format!("cannot be started ({error})")))?;
        let found: std::result::Result<Python, _> = serde_json::from_slice(&output.stdout);
        match found {
            Ok(python) if python.executable.is_absolute() && python.version[..2] >= OLDEST[..] => Ok(python),
            Ok(python) if python.executable.is_absolute() => Err(invalid(format!("is Python {}", python.version()))),
            _ => {
                let errors = String::from_utf8_lossy(&output.stderr);
                let last = errors.lines().last().unwrap_or("it printed nothing that describes it");
                Err(invalid(format!("is not a Python interpreter ({last})")))
            }
        }
    }

    /// The executable.
    pub fn executable(&self) -> &Path {
        &self.executable
    }

    /// The version, as in `3.11.7`.
    pub fn version(&self) -> String {
        self.version.map(|part| part.to_string()).join(".")
    }

    /// Whether it has a package or module of that name.
    pub fn has(&self, package: &str) -> bool {
        self.packages.iter().any(|other| other == package)
    }

    /// Files and folders that a program must be able to read.
    pub(crate) fn readable(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().chain(&self.files).map(PathBuf::as_path)
    }

    /// Files that it must be able to execute.
    pub(crate) fn executables(&self) -> impl Iterator<Item = &Path> {
        self.linkers.iter().chain([&self.executable]).map(PathBuf::as_path)
    }
}

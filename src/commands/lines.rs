//! Result files that are renamed into place when complete.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use align_core::error::{Error, Problems};
use anyhow::Result;
use serde_json::Value;

/// Refuses an output that is also an input. (It may replace an older output.)
pub(super) fn refuse_same_file(out: &Path, source: &Path, flag: &str, problems: &mut Problems) {
    let same = matches!((out.canonicalize(), source.canonicalize()), (Ok(out), Ok(source)) if out == source);
    if same {
        problems.push(out.display(), format!("is also given to {flag}, expected another file to write to"));
    }
}

/// A result file, mostly JSON Lines. It is renamed into place when complete; until then an older file stays.
/// An incomplete one is removed.
pub(crate) struct Lines {
    out: BufWriter<Box<dyn Write>>,
    /// The path that is written to.
    at: PathBuf,
    /// The final path.
    path: PathBuf,
}

impl Lines {
    /// Creates a temporary file next to `path`. A path that is not a regular file (a pipe, /dev/stdout) is
    /// written directly.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let special = path.exists() && !path.is_file();
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let at = if special { path.to_owned() } else { path.with_file_name(format!("{name}.partial")) };
        let file = File::create(&at).map_err(|error| {
            Error::invalid(path.display(), format!("cannot be written: {error}, expected a writable file"))
        })?;
        Ok(Self { out: BufWriter::new(Box::new(file)), at, path: path.to_owned() })
    }

    /// Writes to standard output.
    pub(crate) fn stdout() -> Self {
        let path = PathBuf::from("standard output");
        Self { out: BufWriter::new(Box::new(std::io::stdout())), at: path.clone(), path }
    }

    pub(crate) fn write(&mut self, line: &Value) -> Result<()> {
        Ok(writeln!(self.out, "{line}").map_err(Error::io(&self.at))?)
    }

    /// Writes a line, and adds the line break.
    pub(crate) fn write_line(&mut self, line: &[u8]) -> align_core::error::Result<()> {
        self.out.write_all(line).and_then(|()| self.out.write_all(b"\n")).map_err(Error::io(&self.at))
    }

    /// Writes a text unchanged.
    pub(crate) fn write_text(&mut self, text: &str) -> align_core::error::Result<()> {
        self.write_bytes(text.as_bytes())
    }

    /// Writes bytes unchanged.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> align_core::error::Result<()> {
        self.out.write_all(bytes).map_err(Error::io(&self.at))
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(Error::io(&self.at))?;
        if self.at != self.path {
            std::fs::rename(&self.at, &self.path).map_err(Error::io(&self.path))?;
            self.at.clone_from(&self.path);
        }
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.at != self.path {
            let _ = std::fs::remove_file(&self.at);
        }
    }
}

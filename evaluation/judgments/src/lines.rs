//! Lines of JSON files.

use std::path::Path;

use align_core::error::{Error, Result};
use serde::de::DeserializeOwned;

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(path.display(), "no such file, expected JSON Lines"),
        _ => Error::invalid(path.display(), format!("cannot be read ({error}), expected JSON Lines")),
    })
}

/// The lines that are not blank, with their numbers from 1.
pub(crate) fn numbered(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_ascii().is_empty())
}

/// Parses a line; the error says what is wrong and where in the line.
pub(crate) fn parse<T: DeserializeOwned>(line: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        format!("{what} (column {})", error.column())
    })
}

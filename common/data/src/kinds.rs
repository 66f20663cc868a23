//! Recognises the kind of a file's rows by their keys, even if rows are invalid, so that mistakes are
//! reported for that kind.

use std::path::Path;

use serde_json::Value;

use super::raw::RawRows;
use super::records::Kind;
use align_core::error::{Error, Problem, Result};

/// The kind of a file's rows: that of the first row with the keys of a known shape.
///
/// # Errors
/// [`Error::Invalid`] when the file cannot be read, or when no row has such keys (with the mistake in the
/// first row).
pub fn kind_of_rows(file: &Path) -> Result<Kind> {
    let mut first = None;
    for row in RawRows::open(file, None)? {
        let row = row?;
        let value = row.value();
        if let Some(kind) = value.as_ref().ok().and_then(Kind::of) {
            return Ok(kind);
        }
        first.get_or_insert_with(|| {
            Problem::new(&row.location, value.map_or_else(|what| what, |value| unknown(&value)))
        });
    }
    Err(Error::Invalid(vec![first.expect("a file without rows is refused")]))
}

fn unknown(row: &Value) -> String {
    let has = match row {
        Value::Object(row) if row.is_empty() => "an object without keys".to_owned(),
        Value::Object(row) => {
            let clipped = |key: &String| key.chars().filter(|char| !char.is_control()).take(40).collect::<String>();
            let keys: Vec<String> = row.keys().take(6).map(|key| format!("`{}`", clipped(key))).collect();
            format!("a row with {}", keys.join(", "))
        }
        _ => "not an object".to_owned(),
    };
    let shapes = [Kind::Text, Kind::Chat, Kind::Comparison, Kind::Prompt];
    let shapes: Vec<String> = shapes.iter().map(|kind| format!("a {} row: {}", kind.name(), kind.shapes())).collect();
    format!("{has}, expected {}", shapes.join("; "))
}

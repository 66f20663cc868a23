//! What the rows of a file are by their keys, whether or not each can be used: who looks at it is told what is wrong with them as what they
//! are.

use std::path::Path;

use serde_json::Value;

use super::raw::RawRows;
use super::records::Kind;
use align_core::error::{Error, Problem, Result};

/// What the rows of a file are: what the first one is that has the keys of a shape.
///
/// # Errors
/// [`Error::Invalid`] when the file cannot be read, and when no row has such keys: with what is wrong with the first one.
pub fn kind_of_rows(file: &Path) -> Result<Kind> {
    let mut first = None;
    for row in RawRows::open(file, None)? {
        let row = row?;
        let value = row.value();
        if let Some(kind) = value.as_ref().ok().and_then(Kind::of) {
            return Ok(kind);
        }
        first.get_or_insert_with(|| Problem::new(&row.place, value.map_or_else(|what| what, |value| unknown(&value))));
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
        _ => "no object".to_owned(),
    };
    let shapes = [Kind::Text, Kind::Chat, Kind::Comparison, Kind::Prompt];
    let shapes: Vec<String> = shapes.iter().map(|kind| format!("a {} row: {}", kind.name(), kind.shapes())).collect();
    format!("{has}, expected {}", shapes.join("; "))
}

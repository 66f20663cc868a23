//! A config as a commented TOML file.

use std::fmt::Write;

use toml::{Table, Value};

use super::{Config, KeyDocs};

/// The whole config, with its docs as comments. Parsing the text gives an equal config.
///
/// # Panics
/// When the config holds what TOML cannot (it is plain data).
pub fn to_toml<C: Config>(config: &C) -> String {
    let table = Table::try_from(config).expect("a config is plain data");
    let mut text = String::new();
    section(&mut text, "", &table, &C::docs());
    text
}

/// Writes the keys of a table, then its sub-tables as sections of their own.
fn section(text: &mut String, name: &str, table: &Table, docs: &[(&'static str, KeyDocs)]) {
    let docs_here: KeyDocs = docs.iter().find(|(section, _)| *section == name).map_or(&[], |(_, keys)| keys);
    let is_section = |value: &Value| value.is_table();
    let has_keys = table.values().any(|value| !is_section(value)) || !docs_here.is_empty();
    if has_keys && !name.is_empty() {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}[{name}]");
    }
    // The docs are in the order of the struct's fields. Keys without docs come last.
    let mut documented = Vec::new();
    for (key, doc) in docs_here {
        match table.get(*key) {
            Some(value) if is_section(value) => continue,
            value => {
                for line in doc.lines() {
                    let _ = writeln!(text, "# {}", line.trim());
                }
                let _ = match value {
                    Some(value) => writeln!(text, "{key} = {}", inline(value)),
                    None => writeln!(text, "# {key} is not set"),
                };
            }
        }
        documented.push(*key);
    }
    for (key, value) in table {
        if !is_section(value) && !documented.contains(&key.as_str()) {
            let _ = writeln!(text, "{} = {}", quoted(key), inline(value));
        }
    }
    // Sections in the order of the docs as well.
    let named = |key: &str| if name.is_empty() { quoted(key) } else { format!("{name}.{}", quoted(key)) };
    let mut sections: Vec<(String, &Table)> =
        table.iter().filter_map(|(key, value)| Some((named(key), value.as_table()?))).collect();
    sections.sort_by_key(|(name, _)| docs.iter().position(|(documented, _)| documented == name).unwrap_or(docs.len()));
    for (name, inner) in sections {
        section(text, &name, inner, docs);
    }
}

/// A value on one line.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::Float(number) if number.is_finite() && *number != 0.0 && !(1e-3..1e16).contains(&number.abs()) => {
            format!("{number:e}")
        }
        Value::Array(values) => {
            let parts: Vec<String> = values.iter().map(inline).collect();
            format!("[{}]", parts.join(", "))
        }
        Value::Table(table) => {
            let parts: Vec<String> =
                table.iter().map(|(key, value)| format!("{} = {}", quoted(key), inline(value))).collect();
            format!("{{ {} }}", parts.join(", "))
        }
        // Text of several lines is written on one line: TOML's basic strings use the same escapes as JSON.
        Value::String(text) if text.contains(['\n', '\r']) => serde_json::Value::from(text.as_str()).to_string(),
        other => other.to_string(),
    }
}

/// A key as TOML writes it.
fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}

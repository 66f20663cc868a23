//! `align inspect`: shows the contents of data, a model or a run.

mod data;
mod model;
mod run;

pub(crate) use data::run as data;
pub(crate) use model::run as model;
pub(crate) use run::run;

use align_core::error::{Error, Problem};
use comfy_table::{Table, presets};
use serde_json::Value;

use crate::output::print_line;

/// Prints named values, one per line.
fn print_facts<'a>(facts: impl IntoIterator<Item = (&'a str, &'a Value)>) {
    let mut rows = bare_table();
    for (name, value) in facts {
        for (index, line) in shown(value).lines().enumerate() {
            rows.add_row([if index == 0 { name } else { "" }, line]);
        }
    }
    print_line(&rows.trim_fmt());
}

/// A table without lines.
fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(values) => {
            values.iter().map(|(key, value)| format!("{} × {key}", shown(value))).collect::<Vec<_>>().join("\n")
        }
        Value::Number(number) => match number.as_u64() {
            Some(count) => grouped(count),
            None => number.as_f64().map_or_else(|| number.to_string(), rounded),
        },
        Value::Bool(is) => if *is { "yes" } else { "no" }.to_owned(),
    }
}

/// A number with its significant digits.
fn rounded(number: f64) -> String {
    match number.abs() {
        size if size != 0.0 && size < 1e-3 => format!("{number:.3e}"),
        _ if number.fract() == 0.0 => format!("{number}"),
        _ => format!("{number:.4}"),
    }
}

/// A count with thousands separated.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let num_digits = digits.len();
    let spaced = digits.chars().enumerate().map(|(at, digit)| match (num_digits - at) % 3 {
        0 if at > 0 => format!(",{digit}"),
        _ => digit.to_string(),
    });
    spaced.collect()
}

/// The first problem of a user error, as one line.
fn first_problem(error: &Error) -> String {
    match error {
        Error::Invalid(problems) => problems.first().map(Problem::to_string).unwrap_or_default(),
        error => error.to_string(),
    }
}

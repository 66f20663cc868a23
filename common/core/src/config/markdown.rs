//! The keys of a stage as Markdown tables: docs/config.md.

use std::fmt::Write;

use toml::Table;

use super::Config;
use super::print::inline;
use crate::error::{Error, Problems};

/// A page section on a stage: for each section of its config a table of key, default and meaning.
///
/// # Panics
/// When the config holds what TOML cannot (it is plain data).
pub fn to_markdown<C: Config>(stage: &str) -> String {
    let defaults = Table::try_from(C::default()).expect("a config is plain data");
    let required = required_keys::<C>();
    let mut text = format!("## align {stage}\n");
    for (section, keys) in C::docs() {
        let heading = if section.is_empty() { String::new() } else { format!("### {stage}: [{section}]\n\n") };
        let _ = write!(text, "\n{heading}| key | default | meaning |\n|---|---|---|\n");
        let values =
            if section.is_empty() { Some(&defaults) } else { defaults.get(section).and_then(|value| value.as_table()) };
        for (key, doc) in keys {
            let name = dotted(section, key);
            let default = match values.and_then(|values| values.get(*key)) {
                _ if required.contains(&name) => "required".to_owned(),
                Some(value) => format!("`{}`", inline(value)),
                None => "not set".to_owned(),
            };
            let meaning: Vec<&str> = doc.lines().map(str::trim).collect();
            let _ = writeln!(text, "| `{name}` | {} | {} |", cell(&default), cell(&meaning.join(" ")));
        }
    }
    text
}

/// The keys that a config must give, because the default of each is refused.
pub fn required_keys<C: Config>() -> Vec<String> {
    let mut problems = Problems::new();
    C::default().validate(&mut problems);
    match problems.into_result() {
        Err(Error::Invalid(found)) => found.into_iter().map(|problem| problem.location).collect(),
        _ => Vec::new(),
    }
}

fn dotted(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// A bar would end the cell, in code as well.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

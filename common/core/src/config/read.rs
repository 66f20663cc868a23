//! TOML and `--set` → a checked config, with every mistake reported at once.

use std::path::Path;

use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::Config;
use super::print::inline;
use crate::error::{Error, Problems, Result};

pub(super) fn load<C: Config>(file: &Path, sets: &[String], out: Option<&Path>) -> Result<C> {
    let location = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::invalid(&location, format!("cannot be read: {error}; expected a TOML file")))?;
    load_text(&location, &text, sets, out)
}

pub(super) fn load_text<C: Config>(location: &str, text: &str, sets: &[String], out: Option<&Path>) -> Result<C> {
    let mut problems = Problems::new();
    let mut given = Given { file: location.to_owned(), table: parse(location, text)?, flags: Vec::new() };
    given.refuse_both::<C>(&mut problems, &given.table);
    for set in sets {
        given.set::<C>(set, &mut problems);
    }
    if let Some(out) = out {
        let out = Value::String(out.to_string_lossy().into_owned());
        insert(&mut given.table, &["run", "out"], out);
        given.flags.push(("run.out".to_owned(), "--out".to_owned()));
    }

    let mut defaults = Table::try_from(C::default()).expect("a config is plain data");
    for (left, right) in C::EITHER {
        for (own, other) in [(left, right), (right, left)] {
            if is_set_in(&defaults, other) && is_set_in(&given.table, own) && !is_set_in(&given.table, other) {
                remove(&mut defaults, &path(other));
            }
        }
    }
    let mut merged = defaults.clone();
    merge(&mut merged, &given.table);
    let mut wrong = Vec::new(); // dotted keys that were reported already
    given.refuse_non_finite(&mut merged, &defaults, &mut wrong, &mut problems);
    let mut config: C = given.typed(&mut merged, &defaults, &mut wrong, &mut problems)?;

    let mut found = Problems::new();
    config.validate(&mut found);
    if let Err(Error::Invalid(found)) = found.into_result() {
        for problem in found {
            let below = |key: &String| problem.location.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
            if !wrong.iter().any(|key| *key == problem.location || below(key)) {
                let value = get(&merged, &path(&problem.location));
                problems.push(given.location(&problem.location), described(&problem.location, value, &problem.what));
            }
        }
    }
    problems.into_result()?;
    config.find_files();
    Ok(config)
}

/// The user's values, and which keys came from flags.
struct Given {
    file: String,
    table: Table,
    flags: Vec<(String, String)>,
}

impl Given {
    /// Where a key was set: the flag, or the file.
    fn location(&self, key: &str) -> &str {
        let covers =
            |flag: &str| key == flag || key.starts_with(&format!("{flag}.")) || key.starts_with(&format!("{flag}["));
        self.flags.iter().rev().find(|(flag, _)| covers(flag)).map_or(&self.file, |(_, location)| location)
    }

    /// Applies one `section.key=TOMLVALUE`.
    fn set<C: Config>(&mut self, set: &str, problems: &mut Problems) {
        let Some((key, text)) = set.split_once('=') else {
            problems.push(format!("--set {set}"), "has no value, expected section.key=VALUE");
            return;
        };
        let (key, text) = (key.trim(), text.trim());
        let location = format!("--set {key}");
        if key.split('.').any(str::is_empty) {
            problems.push(location, "is not a key, expected section.key=VALUE");
            return;
        }
        let value = match toml::from_str::<Table>(&format!("value = {text}")) {
            Ok(mut table) if table.len() == 1 => table.remove("value").expect("the only key"),
            _ => {
                let what = format!("`{text}` is not a TOML value; text needs quotes: --set '{key}=\"{text}\"'");
                problems.push(location, what);
                return;
            }
        };
        // A flag overrides the file: it removes the other key of an exclusive pair, unless that key is a flag
        // as well.
        for (left, right) in C::EITHER {
            for (own, other) in [(left, right), (right, left)] {
                if *own == key && is_set_in(&self.table, other) {
                    if self.flags.iter().any(|(flag, _)| flag == other) {
                        problems.push(&location, format!("{other} is set as well, expected one of the two"));
                    } else {
                        remove(&mut self.table, &path(other));
                    }
                }
            }
        }
        insert(&mut self.table, &path(key), value);
        self.flags.push((key.to_owned(), location));
    }

    /// Refuses a file that sets both keys of an exclusive pair.
    fn refuse_both<C: Config>(&self, problems: &mut Problems, table: &Table) {
        for (left, right) in C::EITHER {
            if is_set_in(table, left) && is_set_in(table, right) {
                problems.push(&self.file, format!("has both {left} and {right}, expected one of the two"));
            }
        }
    }

    /// Refuses `nan` and `inf`: valid TOML, but never a valid setting.
    fn refuse_non_finite(
        &self,
        merged: &mut Table,
        defaults: &Table,
        wrong: &mut Vec<String>,
        problems: &mut Problems,
    ) {
        fn walk(prefix: &str, value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Table(table) => {
                    for (key, value) in table {
                        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                        walk(&name, value, found);
                    }
                }
                Value::Array(values) => values.iter().for_each(|value| walk(prefix, value, found)),
                Value::Float(number) if !number.is_finite() => found.push(prefix.to_owned()),
                _ => {}
            }
        }
        let mut found = Vec::new();
        walk("", &Value::Table(merged.clone()), &mut found);
        found.dedup();
        for key in found {
            let value = get(merged, &path(&key));
            problems.push(self.location(&key), described(&key, value, "expected a finite number"));
            restore(merged, defaults, &path(&key));
            wrong.push(key);
        }
    }

    /// Deserialises. Each failure is reported and its key reset to the default, so that the next attempt
    /// finds the next failure.
    fn typed<C: Config>(
        &self,
        merged: &mut Table,
        defaults: &Table,
        wrong: &mut Vec<String>,
        problems: &mut Problems,
    ) -> Result<C> {
        loop {
            let error = match serde_path_to_error::deserialize::<_, C>(Value::Table(merged.clone())) {
                Ok(config) => return Ok(config),
                Err(error) => error,
            };
            let message = error.inner().message().to_owned();
            let (mut keys, shown) = error_path(error.path());
            let unknown = quoted_names(&message).into_iter().next().filter(|_| message.starts_with("unknown field"));
            if let Some(unknown) = unknown {
                // For an unknown key at the top level or in an array, serde gives the location only.
                let named = shown == unknown || shown.ends_with(&format!(".{unknown}"));
                let key = match shown.as_str() {
                    _ if named => shown,
                    "" => unknown.clone(),
                    location => format!("{location}.{unknown}"),
                };
                if !key.contains('[') && keys.last() != Some(&unknown) {
                    keys.push(unknown);
                }
                problems.push(self.location(&key), unknown_key(&key, &message, defaults));
            } else {
                let path: Vec<&str> = keys.iter().map(String::as_str).collect();
                let value = get(merged, &path).filter(|_| !shown.contains('['));
                problems.push(self.location(&shown), described(&shown, value, &expected(&message)));
            }
            let path: Vec<&str> = keys.iter().map(String::as_str).collect();
            if path.is_empty() || !restore(merged, defaults, &path) {
                // No key to reset: report what was found.
                return std::mem::take(problems).into_result().and(Err(Error::invalid(&self.file, message)));
            }
            wrong.push(keys.join("."));
        }
    }
}

fn parse(location: &str, text: &str) -> Result<Table> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let location = line.map_or(location.to_owned(), |line| format!("{location}:{line}"));
        Error::invalid(location, format!("is not TOML: {}", error.message().replace('\n', ", ")))
    })
}

/// `train.grad_clip = -1: must be above 0`.
fn described(key: &str, value: Option<&Value>, what: &str) -> String {
    let shown = match value {
        None => String::new(),
        Some(Value::String(text)) if text.is_empty() => String::new(),
        Some(Value::Array(values)) if values.is_empty() => String::new(),
        Some(Value::Table(_)) => String::new(),
        Some(value) => format!(" = {}", inline(value)),
    };
    format!("{key}{shown}: {what}")
}

/// Describes an unknown key and suggests a known one: similarly spelled in the same section, or of the same
/// name in another.
fn unknown_key(key: &str, message: &str, defaults: &Table) -> String {
    let leaf = key.rsplit('.').next().unwrap_or(key);
    let known: Vec<String> = quoted_names(message).into_iter().skip(1).collect();
    let section = key.strip_suffix(leaf).unwrap_or_default();
    let near = known
        .iter()
        .map(|name| (distance(leaf, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min()
        .map(|(_, name)| format!("{section}{name}"));
    let elsewhere = || {
        defaults.iter().find_map(|(section, value)| {
            value.as_table().filter(|table| table.contains_key(leaf)).map(|_| format!("{section}.{leaf}"))
        })
    };
    let hint = match near.or_else(elsewhere) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("expected one of {}", known.join(", ")),
    };
    format!("{}, {hint}", described(key, None, "is not a known key"))
}

/// The names that serde puts in backticks.
fn quoted_names(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Translates serde's messages for people who do not write Rust.
fn expected(message: &str) -> String {
    if message.starts_with("unknown variant") {
        let names: Vec<String> = quoted_names(message).into_iter().skip(1).map(|name| format!("{name:?}")).collect();
        return format!("expected {}", names.join(" or "));
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return format!("{name} is required");
    }
    let wanted = message.rsplit_once("expected ").map_or(message, |(_, wanted)| wanted);
    let wanted = match wanted {
        "f64" | "f32" => "a number",
        "u64" | "usize" | "u32" => "a whole number, at least 0",
        "i64" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "path string" => "text in quotes",
        wanted if wanted.starts_with("struct ") => "a section",
        wanted => wanted,
    };
    if message.contains("expected ") { format!("expected {wanted}") } else { wanted.to_owned() }
}

/// The keys down to the innermost one that can be reset, and the whole path as text.
fn error_path(path: &serde_path_to_error::Path) -> (Vec<String>, String) {
    let mut keys = Vec::new();
    for segment in path.iter() {
        match segment {
            Segment::Map { key } => keys.push(key.clone()),
            _ => break,
        }
    }
    let shown = if path.iter().all(|segment| matches!(segment, Segment::Map { .. } | Segment::Seq { .. })) {
        path.to_string()
    } else {
        keys.join(".")
    };
    let shown = if keys.is_empty() { String::new() } else { shown };
    (keys, shown)
}

/// The Levenshtein distance between two short names.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn path(key: &str) -> Vec<&str> {
    key.split('.').collect()
}

/// Whether a table has the key with a value other than an empty list.
fn is_set_in(table: &Table, key: &str) -> bool {
    get(table, &path(key)).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()))
}

fn get<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (leaf, sections) = path.split_last()?;
    let mut table = table;
    for section in sections {
        table = table.get(*section)?.as_table()?;
    }
    table.get(*leaf)
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    let Some((leaf, sections)) = path.split_last() else { return };
    let mut table = table;
    for section in sections {
        let entry = table.entry((*section).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            *entry = Value::Table(Table::new());
        }
        table = entry.as_table_mut().expect("made one above");
    }
    table.insert((*leaf).to_owned(), value);
}

fn remove(table: &mut Table, path: &[&str]) -> bool {
    let Some((leaf, sections)) = path.split_last() else { return false };
    let mut table = table;
    for section in sections {
        match table.get_mut(*section).and_then(Value::as_table_mut) {
            Some(inner) => table = inner,
            None => return false,
        }
    }
    table.remove(*leaf).is_some()
}

/// Resets a key to its default, or removes it if it has none.
fn restore(merged: &mut Table, defaults: &Table, path: &[&str]) -> bool {
    match get(defaults, path) {
        Some(value) if get(merged, path) != Some(value) => {
            insert(merged, path, value.clone());
            true
        }
        _ => remove(merged, path),
    }
}

/// Merges `over` into `table`, section by section.
fn merge(table: &mut Table, over: &Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

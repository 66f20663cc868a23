//! What may change between a run and its resumption.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::print::inline;
use crate::error::{Error, Problems, Result};

/// The keys in which two configs differ, by dotted name, with both values as TOML; `None` where a key is
/// absent.
pub fn differences(old: &Table, new: &Table) -> Vec<(String, Option<String>, Option<String>)> {
    let (old, new) = (flat(old), flat(new));
    let find =
        |flat: &[(String, String)], key: &str| flat.iter().find(|(own, _)| own == key).map(|(_, text)| text.clone());
    let mut keys: Vec<&String> = old.iter().chain(&new).map(|(key, _)| key).collect();
    // Top-level keys, such as the stage, are more important than those in sections.
    keys.sort_by_key(|key| (key.contains('.'), *key));
    keys.dedup();
    keys.into_iter()
        .map(|key| (key.clone(), find(&old, key), find(&new, key)))
        .filter(|(_, old, new)| old != new)
        .collect()
}

/// Refuses to resume a run with a config that differs in anything but the number of steps, `[run]`,
/// `[guards]` and eval settings. The paths under the keys `by_content` may differ: the caller compares the
/// contents.
///
/// # Errors
/// [`Error::Invalid`] with every key that differs, or when either text is not TOML.
pub fn resume_differences(location: &str, old: &str, new: &str, by_content: &BTreeSet<String>) -> Result<()> {
    let parse = |text: &str| {
        let table = toml::from_str::<Table>(text);
        table
            .map(|table| without_paths(table, by_content))
            .map_err(|error| Error::invalid(location, format!("is damaged: {}", error.message())))
    };
    let mut problems = Problems::new();
    for (key, old, new) in differences(&parse(old)?, &parse(new)?) {
        let is_older =
            old.is_none() && LATER.iter().any(|(later, value)| *later == key && new.as_deref() == Some(*value));
        if !may_change(&key) && !is_older {
            let [old, new] = [old, new].map(|text| text.unwrap_or_else(|| "not set".to_owned()));
            problems.push(
                location,
                format!("{key} was {old}, now {new}: across a resume only steps, [run], [guards] and eval settings may change"),
            );
        }
    }
    problems.into_result()
}

/// Keys that older runs do not have, each with the value that reproduces those runs. A resume accepts such a
/// key if it has this value. Every new key with a default
/// belongs here, unless a resume may change it.
const LATER: [(&str, &str); 2] = [("reward.score_at", "\"auto\""), ("schedule.warmup_kind", "\"linear\"")];

/// Whether two configs request the same result dtype.
pub fn same_result_dtype(old: &str, new: &str) -> bool {
    let dtype = |text: &str| -> Option<String> {
        let table = toml::from_str::<Table>(text).ok()?;
        Some(table.get("run")?.get("result_dtype")?.as_str()?.to_owned())
    };
    let default = || "auto".to_owned();
    dtype(old).unwrap_or_else(default) == dtype(new).unwrap_or_else(default)
}

/// The config without the paths under some keys. Tables in a list, such as `[[data.mix]]`, lose their `path`
/// only.
fn without_paths(mut config: Table, keys: &BTreeSet<String>) -> Table {
    for (section, leaf) in keys.iter().filter_map(|key| key.split_once('.')) {
        let Some(Value::Table(section)) = config.get_mut(section) else { continue };
        match section.get_mut(leaf) {
            Some(Value::Array(entries)) if entries.iter().any(Value::is_table) => {
                entries.iter_mut().filter_map(Value::as_table_mut).for_each(|entry| drop(entry.remove("path")));
            }
            _ => drop(section.remove(leaf)),
        }
    }
    config
}

/// Whether a key may change across a resume. `train.epochs` may, as it only sets the length of the run;
/// `ppo.epochs` may not, as it is part of the algorithm.
fn may_change(key: &str) -> bool {
    const KEYS: [&str; 8] = [
        "train.steps",
        "train.epochs",
        "ppo.steps",
        "data.eval",
        "data.eval_prompts",
        "reward.second",
        "reward.second_score_at",
        "reward.second_system",
    ];
    KEYS.contains(&key) || key.starts_with("run.") || key.starts_with("guards.")
}

/// Dotted keys and their values as TOML.
fn flat(table: &Table) -> Vec<(String, String)> {
    fn walk(prefix: &str, table: &Table, found: &mut Vec<(String, String)>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) => walk(&name, inner, found),
                other => found.push((name, inline(other))),
            }
        }
    }
    let mut found = Vec::new();
    walk("", table, &mut found);
    found
}

//! The README's tables of config keys and the stages' defaults say the same.

use std::collections::BTreeMap;
use std::path::Path;

use align_core::config::{self, Config};
use align_ppo::config::PpoConfig;
use align_reward::config::RmConfig;
use align_sft::config::{PretrainConfig, SftConfig};
use toml::{Table, Value};

/// What the README says of each key, by column: `None` where the stage has no such key.
fn table(readme: &str, heading: &str, columns: usize) -> BTreeMap<String, Vec<Option<String>>> {
    let section = readme.split(&format!("\n### {heading}\n")).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            let key = cells.next().expect("a key");
            (key, cells.take(columns).map(|cell| (cell != "–").then_some(cell)).collect())
        })
        .collect()
}

/// Every key of a stage outside `[run]`, with its default as the README writes it. Keys without a default are in the printed
/// config as a comment.
fn defaults<C: Config>(keep: impl Fn(&str) -> bool) -> BTreeMap<String, Option<Value>> {
    let set: Table = toml::from_str(&config::to_toml(&C::default())).expect("a printed config is TOML");
    let mut found = BTreeMap::new();
    for (section, keys) in C::docs() {
        for (key, _) in keys {
            let dotted = if section.is_empty() { (*key).to_owned() } else { format!("{section}.{key}") };
            let table = if section.is_empty() { Some(&set) } else { set.get(section).and_then(Value::as_table) };
            if keep(&dotted) {
                found.insert(dotted, table.and_then(|table| table.get(*key)).cloned());
            }
        }
    }
    found
}

/// Whether a cell says what the default is: a TOML value, "none", or "required" for an empty one.
fn agrees(cell: &str, default: Option<&Value>) -> bool {
    let empty =
        |value: &Value| value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    match cell {
        "none" => default.is_none_or(empty),
        "required" => default.is_none_or(empty),
        cell => toml::from_str::<Table>(&format!("value = {cell}")).is_ok_and(|table| table.get("value") == default),
    }
}

fn compare(
    place: &str,
    said: &BTreeMap<String, Vec<Option<String>>>,
    column: usize,
    defaults: &BTreeMap<String, Option<Value>>,
) {
    for (key, default) in defaults {
        let cell = said.get(key).and_then(|cells| cells[column].as_ref());
        let cell = cell.unwrap_or_else(|| panic!("{key} of {place} is not in the README"));
        assert!(agrees(cell, default.as_ref()), "{key} of {place}: the README says {cell}, the code {default:?}");
    }
    for (key, cells) in said {
        assert!(cells[column].is_none() || defaults.contains_key(key), "{place} has no key {key}, but the README has");
    }
}

/// Every config that the README shows is one that its stage takes.
#[test]
fn the_readmes_configs_are_valid() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 4);
    for block in blocks {
        let loaded = if block.contains("[models]") {
            config::load_text::<PpoConfig>("README.md", block, &[], None).map(drop)
        } else if block.contains("stage =") {
            config::load_text::<RmConfig>("README.md", block, &[], None).map(drop)
        } else {
            config::load_text::<SftConfig>("README.md", block, &[], None).map(drop)
        };
        loaded.unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
}

#[test]
fn the_readmes_config_tables_are_the_stages_defaults() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let stages = table(&readme, "pretrain, sft, rm", 3);
    let of_run = |key: &str| key.starts_with("run.");
    compare("pretrain", &stages, 0, &defaults::<PretrainConfig>(|key| !of_run(key)));
    compare("sft", &stages, 1, &defaults::<SftConfig>(|key| !of_run(key)));
    compare("rm", &stages, 2, &defaults::<RmConfig>(|key| !of_run(key)));
    compare("ppo", &table(&readme, "ppo", 1), 0, &defaults::<PpoConfig>(|key| !of_run(key)));
    let run = table(&readme, "`[run]`, in every stage", 1);
    compare("pretrain", &run, 0, &defaults::<PretrainConfig>(of_run));
    compare("sft", &run, 0, &defaults::<SftConfig>(of_run));
    compare("rm", &run, 0, &defaults::<RmConfig>(of_run));
    compare("ppo", &run, 0, &defaults::<PpoConfig>(of_run));
}

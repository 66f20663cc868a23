//! The README stays short, and every command in it runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use align_core::config::Config;
use align_ppo::config::PpoConfig;
use align_reward::config::RmConfig;
use align_sft::config::{PretrainConfig, SftConfig};

use crate::util::{Folder, world};

const MOST_BYTES: usize = 12 << 10;

/// A file of the repository.
pub(crate) fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a language.
pub(crate) fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    page.split(&format!("\n```{language}\n")).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The lines of a page's shell blocks, without their comments, as words.
pub(crate) fn commands(page: &str) -> Vec<Vec<&str>> {
    let lines = blocks(page, "sh").into_iter().flat_map(str::lines);
    let words = lines.map(|line| line.split(" #").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>());
    words.filter(|words| !words.is_empty()).collect()
}

/// Every key of a stage, dotted.
fn keys<C: Config>() -> Vec<String> {
    let dotted = |section: &str, key: &str| format!("{section}.{key}").trim_start_matches('.').to_owned();
    C::docs().iter().flat_map(|(section, keys)| keys.iter().map(move |(key, _)| dotted(section, key))).collect()
}

#[test]
fn the_readme_is_short_and_has_no_table_of_keys() {
    let readme = page("README.md");
    assert!(readme.len() <= MOST_BYTES, "README.md has {} bytes, expected at most {MOST_BYTES}", readme.len());
    let keys: BTreeSet<String> =
        [keys::<PretrainConfig>(), keys::<SftConfig>(), keys::<RmConfig>(), keys::<PpoConfig>()]
            .concat()
            .into_iter()
            .collect();
    assert!(keys.contains("train.batch_size") && keys.contains("stage"), "{keys:?}");
    for row in readme.lines().filter(|line| line.starts_with('|')) {
        let cell = row.trim_matches('|').split('|').next().unwrap_or_default().trim();
        for code in cell.split('`').skip(1).step_by(2) {
            assert!(!keys.contains(code) && !code.starts_with('-'), "a table of keys or flags belongs to docs/: {row}");
        }
    }
}

#[test]
fn the_readme_names_every_command() {
    let help = Folder::empty().succeed(&["--help"]).stdout;
    let listed = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    let names =
        listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty());
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    assert!(names.len() > 15, "{help}");
    let readme = page("README.md");
    let table = readme.split("\n## Commands\n").nth(1).unwrap().split("\n## ").next().unwrap();
    for name in names {
        assert!(table.contains(&format!("`{name}`")), "{name} is not in the README's table of commands");
    }
}

/// The README's own data, configs and commands, in its order, on a tiny model in place of `models/base`. What
/// would train for long is cut short by flags; `make` is held to the targets of the Makefile alone.
#[test]
fn the_readmes_commands_run() {
    let readme = page("README.md");
    let folder = Folder::empty();
    fs::create_dir(folder.join("models")).unwrap();
    symlink(world().join("base"), folder.join("models/base")).unwrap();
    for (file, row) in
        blocks(&readme, "text").iter().flat_map(|block| block.lines()).filter_map(|line| line.split_once(" {"))
    {
        folder.write(file.trim(), format!("{{{row}\n"));
    }
    for block in blocks(&readme, "toml") {
        let name = block.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a config names its file");
        folder.write(name, block);
    }
    let makefile = page("Makefile");
    let mut run = 0;
    for words in commands(&readme) {
        match words.split_first() {
            Some((&"make", targets)) => {
                for target in targets {
                    assert!(makefile.contains(&format!("\n{target}: ")), "the Makefile has no target {target}");
                }
            }
            Some((&"align", arguments)) => {
                folder.succeed(&[arguments, shortened(arguments)].concat());
                run += 1;
            }
            _ => panic!("{words:?}: neither align nor make"),
        }
    }
    assert!(run >= 8, "{run} commands ran");
    assert!(folder.join("runs/ppo/model/model.safetensors").exists());
}

/// Flags that make a command of the README take seconds.
fn shortened(arguments: &[&str]) -> &'static [&'static str] {
    if arguments.contains(&"ppo.toml") {
        &["--set", "ppo.steps=2", "--set", "ppo.value_warmup_steps=1", "--set", "rollout.max_response_tokens=8"]
    } else {
        &[]
    }
}

/// `make quickstart` would take minutes: its command is held to the arguments that `align` takes.
#[test]
fn the_quickstarts_arguments_are_right() {
    let makefile = page("Makefile");
    let recipe = makefile.split("\nquickstart: build\n").nth(1).unwrap().lines().next().unwrap();
    let arguments: Vec<&str> = recipe.trim().trim_start_matches("@target/release/align ").split(' ').collect();
    assert_eq!(arguments[0], "quickstart", "{recipe}");
    Folder::empty().succeed(&[&arguments[..], &["--help"]].concat());
}

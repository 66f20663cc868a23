//! The pages under docs/ and the program agree.

use std::collections::BTreeSet;
use std::path::Path;

use align_core::config;
use align_ppo::config::PpoConfig;
use align_reward::config::RmConfig;
use align_sft::config::SftConfig;

use crate::readme::{blocks, commands, page};
use crate::util::Folder;

/// README.md and the pages under docs/.
fn pages() -> Vec<String> {
    let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let names = folder.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy()));
    names.chain(["README.md".to_owned()]).collect()
}

/// Every config that a page shows is one that its stage takes.
#[test]
fn every_config_is_valid() {
    let mut count = 0;
    for name in pages() {
        for block in blocks(&page(&name), "toml") {
            let keys: toml::Table = toml::from_str(block).unwrap_or_else(|error| panic!("{name}: {error}\n{block}"));
            let loaded = if keys.contains_key("models") {
                config::load_text::<PpoConfig>(&name, block, &[], None).map(drop)
            } else if keys.contains_key("stage") {
                config::load_text::<RmConfig>(&name, block, &[], None).map(drop)
            } else {
                config::load_text::<SftConfig>(&name, block, &[], None).map(drop)
            };
            loaded.unwrap_or_else(|error| panic!("{error}\n{block}"));
            count += 1;
        }
    }
    assert!(count >= 8, "{count} configs");
}

/// Every `align` command of a page has arguments that `align` takes: with `--help` at their end they are
/// parsed, and nothing runs.
#[test]
fn every_command_has_valid_arguments() {
    let folder = Folder::empty();
    let mut count = 0;
    for name in pages() {
        let page = page(&name);
        for words in commands(&page).iter().filter(|words| words[0] == "align") {
            let output = folder.align(&[&words[1..], &["--help"]].concat());
            assert_eq!(output.code, Some(0), "{name}: {words:?}{output}");
            count += 1;
        }
    }
    assert!(count >= 20, "{count} commands");
}

/// A page's table has every flag of a command but `without`, with its default.
#[track_caller]
pub(crate) fn assert_flags_are_documented(command: &[&str], name: &str, without: &[&str]) {
    let help = Folder::empty().succeed(&[command, &["--help"]].concat()).stdout;
    let page = page(name);
    let flags: Vec<&str> = help.split("\n      --").skip(1).collect();
    assert!(flags.len() >= 9, "{help}");
    for text in flags {
        let flag = text.split([' ', '\n']).next().unwrap();
        let default = text.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
        let row = format!("\n| `--{flag}` | ");
        let said = page.split(&row).nth(1).and_then(|rest| rest.split(" | ").next());
        match (flag, default) {
            (flag, _) if without.contains(&flag) => {}
            (_, Some(default)) => assert_eq!(said.map(|said| said.trim_matches('`')), Some(default), "--{flag}"),
            (_, None) => assert!(said.is_some(), "--{flag} is not in {name}"),
        }
    }
}

#[test]
fn the_page_on_config_is_what_the_program_prints() {
    let printed = Folder::empty().succeed(&["config", "--markdown"]).stdout;
    let page = page("docs/config.md");
    let tables = &page[page.find("\n## ").expect("docs/config.md has a section a stage") + 1..];
    assert!(tables == printed, "docs/config.md is not what `align config --markdown` prints: run `make docs`");
    for stage in ["pretrain", "sft", "rm", "ppo"] {
        let of_stage = Folder::empty().succeed(&["config", stage, "--markdown"]).stdout;
        assert!(of_stage.starts_with(&format!("## align {stage}\n")) && printed.contains(&of_stage), "{stage}");
    }
    // As a reader expects them: one default that differs by stage, one that is required, one with a bar in
    // it.
    for row in [
        "| `train.batch_size` | `128` |",
        "| `train.batch_size` | `64` |",
        "| `optimizer.lr` | `3e-6` |",
        "| `data.train` | required |",
        "| `data.pretrain` | required |",
        "| `models.value` | not set |",
        "\"end\" (`<\\|im_end\\|>`)",
    ] {
        assert!(printed.contains(row), "{row}");
    }
}

/// What `align config STAGE` prints is a config that lacks the required keys and nothing else.
#[test]
fn a_printed_config_is_one_to_start_from() {
    let folder = Folder::new();
    folder.write("all.toml", folder.succeed(&["config", "sft"]).stdout);
    let run = ["sft", "--config", "all.toml", "--dry-run"];
    folder.refuse(&run, &[&["model.path", "required"], &["data.train", "required"], &["run.out", "required"]]);
    let given = ["--set", "model.path='base'", "--set", "data.train='data/sft.jsonl'", "--out", "runs/all"];
    folder.succeed(&[&run[..], &given].concat());
    for stage in ["pretrain", "rm", "ppo"] {
        folder.write("all.toml", folder.succeed(&["config", stage]).stdout);
        let output = folder.align(&[stage, "--config", "all.toml", "--dry-run"]);
        assert_eq!(output.code, Some(2), "{output}");
        assert!(output.stderr.lines().all(|line| line.contains("is required")), "{output}");
    }
}

/// The metrics that docs/metrics.md lists in a section.
fn documented(section: &str) -> BTreeSet<String> {
    let page = page("docs/metrics.md");
    let rest = page.split(&format!("\n## {section}\n")).nth(1).unwrap_or_else(|| panic!("no section {section}"));
    let text = rest.split("\n## ").next().unwrap_or_default();
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

/// The metrics that a run has logged; one set and one decile represent all.
fn logged(folder: &Folder, run: &str) -> BTreeSet<String> {
    let general = |name: &str| {
        let parts: Vec<&str> = name.split('/').collect();
        let parts = parts.iter().enumerate().map(|(index, part)| match *part {
            _ if index == 1 && parts[0] == "eval" => "<set>",
            part if part.starts_with("decile_") => "decile_<n>",
            part => part,
        });
        parts.collect::<Vec<_>>().join("/")
    };
    let rows = folder.rows(&format!("{run}/metrics.jsonl"));
    rows.iter().flat_map(|row| row.as_object().unwrap().keys().map(|name| general(name)).collect::<Vec<_>>()).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_logged() {
    let folder = Folder::new();
    let short: &[&str] = &["train.steps=2", "run.eval_every=1"];
    for (stage, section, sets) in [
        ("pretrain", "sft, pretrain", short),
        ("sft", "sft, pretrain", short),
        ("rm", "rm", &["train.steps=2", "run.eval_every=1", "loss.lm_coef=0.1"]),
        (
            "ppo",
            "ppo",
            &[
                "ppo.steps=2",
                "ppo.value_warmup_steps=1",
                "run.eval_every=1",
                "reward.second='reward'",
                "data.eval_prompts='data/ppo.jsonl'",
            ],
        ),
    ] {
        let config = format!("{stage}.toml");
        let flags: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        folder.succeed(&[&[stage, "--config", &config], &flags[..]].concat());
        let documented: BTreeSet<String> = documented("Every stage").union(&documented(section)).cloned().collect();
        let logged = logged(&folder, &format!("runs/{stage}"));
        let missing: Vec<&String> = logged.difference(&documented).collect();
        let unknown: Vec<&String> = documented.difference(&logged).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "{stage}: undocumented {missing:?}, never logged {unknown:?}"
        );
    }
}

/// The warning signs in the tables of docs/evaluation.md are called as the program calls them.
#[test]
fn every_documented_warning_sign_is_in_the_code() {
    let code = [page("ppo/src/findings.rs"), page("reward/src/diagnostics.rs")].concat();
    let evaluation = page("docs/evaluation.md");
    let tables = evaluation.split("| warning sign | when |\n|---|---|\n").skip(1);
    let rows = tables.flat_map(|table| table.lines().take_while(|line| line.starts_with('|')));
    let cells: Vec<&str> = rows.map(|row| row.trim_start_matches("| ").split([':', '|']).next().unwrap()).collect();
    assert!(cells.len() >= 13, "{cells:?}");
    for name in cells.iter().flat_map(|cell| cell.trim().split(", ")) {
        assert!(code.contains(name), "docs/evaluation.md has a warning sign {name:?}, the code has none of that name");
    }
}

/// The plan that docs/memory.md shows has rows that the program prints.
#[test]
fn the_shown_plan_has_rows_of_a_printed_one() {
    let printed = Folder::new().succeed(&["plan", "--config", "ppo.toml"]).stdout;
    let memory = page("docs/memory.md");
    let shown = blocks(&memory, "text").into_iter().find(|block| block.starts_with(" GiB")).expect("a plan");
    let label = |row: &str| row.trim().split("  ").next().unwrap_or_default().to_owned();
    let labels: Vec<String> = printed.lines().map(label).collect();
    for row in shown.lines() {
        assert!(labels.contains(&label(row)), "{row}\nis none of\n{printed}");
    }
}

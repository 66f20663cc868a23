//! A run does what was asked, or says what it does instead.

mod counts;
mod damaged;
mod epochs;
mod inputs;
mod warnings;
mod weights;

use serde_json::{Value, json};

use crate::util::{Folder, Output};

const PRETRAIN: [&str; 3] = ["pretrain", "--config", "pretrain.toml"];
const SFT: [&str; 3] = ["sft", "--config", "sft.toml"];
const RM: [&str; 3] = ["rm", "--config", "rm.toml"];
const PPO: [&str; 3] = ["ppo", "--config", "ppo.toml"];

/// A command with `--set` before each of `sets`.
fn set<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let flags = sets.iter().flat_map(|set| ["--set", set]);
    command.iter().copied().chain(flags).collect()
}

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

/// The value of an entry in the table that is printed before the first step.
#[track_caller]
fn fact(output: &Output, name: &str) -> String {
    let of_line = |line: &str| line.trim_start().strip_prefix(name)?.strip_prefix("  ").map(str::to_owned);
    output.stderr.lines().find_map(of_line).unwrap_or_else(|| panic!("no fact {name}: {output}"))
}

/// The warnings before the first step.
fn warnings(text: &str) -> Vec<String> {
    let reported = text.lines().filter_map(|line| line.strip_prefix("warning: "));
    reported.filter(|reported| !reported.starts_with("step ")).map(str::to_owned).collect()
}

fn run_json(folder: &Folder, run: &str) -> Value {
    serde_json::from_str(&folder.read(&format!("{run}/run.json"))).unwrap()
}

/// A dialogue of one question and one answer.
fn dialogue(question: &str, answer: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] })
}

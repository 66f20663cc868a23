//! The command line: what it refuses, in which words, and that nothing is lost; and what it does when all is
//! well.

mod arguments;
mod checkpoint;
mod config;
mod data;
mod fine;
mod measuring;
mod run_folder;

use std::process::Stdio;

use serde_json::{Value, json};

use crate::util::Folder;

const SFT: [&str; 3] = ["sft", "--config", "sft.toml"];
const RM: [&str; 3] = ["rm", "--config", "rm.toml"];
const PPO: [&str; 3] = ["ppo", "--config", "ppo.toml"];

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

/// A command with `--set` before each of `sets`.
fn set<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let flags = sets.iter().flat_map(|set| ["--set", set]);
    command.iter().copied().chain(flags).collect()
}

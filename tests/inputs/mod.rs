//! The odd files, folders and models that people bring: what is read, and what is refused in which words.

mod files;
mod messages;
mod models;
mod output;
mod tokenizers;

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::util::Folder;

const SFT: [&str; 3] = ["sft", "--config", "sft.toml"];

/// A command with `--set` before each of `sets`.
fn set<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let flags = sets.iter().flat_map(|set| ["--set", set]);
    command.iter().copied().chain(flags).collect()
}

fn gz(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

/// Rows of instructions, numbered from `start`.
fn rows(start: usize, count: usize) -> String {
    let row = |number| json!({ "instruction": format!("Say {number}."), "output": format!("It is {number}.") });
    (start..start + count).map(|number| format!("{}\n", row(number))).collect()
}

/// What `align inspect data` finds.
fn inspected(folder: &Folder, path: &str) -> Value {
    folder.succeed(&["inspect", "data", path, "--model", "base", "--rows", "100", "--json"]).json()
}

/// What sft says of training data that it refuses, without `align: `.
#[track_caller]
fn refused(folder: &Folder, path: &str) -> Vec<String> {
    let train = format!("data.train='{path}'");
    let output = folder.align(&set(&SFT, &[&train, "data.eval=[]"]));
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
    let line = |line: &str| line.strip_prefix("align: ").unwrap_or_else(|| panic!("{output}")).to_owned();
    output.stderr.lines().map(line).collect()
}

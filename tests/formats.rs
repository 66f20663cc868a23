//! The same rows in every format that data files may have.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::util::Folder;

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)).unwrap()
}

/// What three shuffled steps make of the base model.
fn weights(folder: &Folder, data: &str) -> BTreeMap<String, Vec<u8>> {
    let train = format!("data.train='{data}'");
    let out = format!("runs/{data}");
    let run = format!("run.out='{out}'");
    let sets = [
        &train,
        &run,
        "data.max_tokens=512",
        "train.steps=3",
        "train.microbatch_tokens=512",
        "schedule.warmup_steps=1",
    ];
    let sets = sets.into_iter().flat_map(|set| ["--set", set]);
    folder.succeed(&["sft", "--config", "sft.toml"].into_iter().chain(sets).collect::<Vec<_>>());
    let mut files = folder.files(&format!("{out}/model"));
    files.retain(|name, _| name.ends_with(".safetensors"));
    assert!(!files.is_empty());
    files
}

#[test]
fn every_format_trains_to_the_same_weights() {
    let folder = Folder::new();
    let lines = golden("chat.jsonl");
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    gz.write_all(&lines).unwrap();
    let rows: Vec<&str> = std::str::from_utf8(&lines).unwrap().lines().collect();
    let expected = {
        folder.write("rows.jsonl", &lines);
        weights(&folder, "rows.jsonl")
    };
    for (name, content) in [
        ("rows.jsonl.gz", gz.finish().unwrap()),
        ("rows.jsonl.zst", golden("chat.jsonl.zst")),
        ("rows.json", format!("[{}]", rows.join(",\n")).into_bytes()),
        ("rows.parquet", golden("chat.parquet")),
        ("rows-zstd.parquet", golden("chat-zstd.parquet")),
        ("rows-gzip.parquet", golden("chat-gzip.parquet")),
    ] {
        folder.write(name, content);
        assert!(weights(&folder, name) == expected, "{name} trains to other weights than rows.jsonl");
    }
    // Other rows are other weights: the comparison can fail.
    folder.write("others.jsonl", rows[..39].join("\n"));
    assert!(weights(&folder, "others.jsonl") != expected);
}

/// Rows of a table come out as JSON Lines, and bad ones are named by their number.
#[test]
fn tables_are_data_everywhere() {
    let folder = Folder::empty();
    folder.write("chat.parquet", golden("chat.parquet"));
    folder.write("chat.jsonl", golden("chat.jsonl"));
    folder.succeed(&["data", "dedup", "chat.parquet", "chat.jsonl", "--out", "unique.jsonl"]);
    assert_eq!(folder.read("unique.jsonl"), folder.read("chat.jsonl"), "every row of the second file is a copy");
    let report = folder.read("unique.report.json");
    assert!(report.contains(r#""of":"chat.parquet: row 39""#), "{report}");

    let folder = Folder::new();
    folder.write("text.parquet", golden("text.parquet"));
    let sets = ["--set", "data.train='text.parquet'", "--set", "data.bad_rows='skip'"];
    let expected: &[&str] =
        &["text.parquet: every row is bad (text.parquet: row 0: a row with `id`", "expected chat rows"];
    folder.refuse(&[&["sft", "--config", "sft.toml"], &sets[..]].concat(), &[expected]);
    folder.succeed(&["pretrain", "--config", "pretrain.toml", "--dry-run", "--set", "data.train='text.parquet'"]);
}

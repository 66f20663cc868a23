//! Output: permissions of files, and closed stdout and stderr.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

/// Every file and folder below one, with its permissions.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
        if !metadata.is_symlink() {
            found.push((path, metadata.permissions().mode() & 0o777));
        }
    }
    found
}

/// Weights, moments, caches, pages and lines: all get what the umask leaves.
#[test]
fn every_file_is_readable_by_whom_the_umask_lets() {
    let folder = Folder::new();
    for (umask, file, dir) in [("022", 0o644, 0o755), ("027", 0o640, 0o750), ("077", 0o600, 0o700)] {
        let out = format!("umask-{umask}");
        let succeed = |args: &[&str]| {
            let output = folder.align_under_umask(umask, args);
            assert_eq!(output.code, Some(0), "{output}");
        };
        let run = format!("{out}/sft");
        let cache = format!("data.cache='{out}/cache'");
        succeed(&["sft", "--config", "sft.toml", "--out", &run, "--set", "train.steps=2", "--set", &cache]);
        succeed(&["rm", "--config", "rm.toml", "--out", &format!("{out}/rm"), "--set", "train.steps=2"]);
        succeed(&["report", &run]);
        let html = format!("{out}/eval.html");
        let rows = format!("{out}/rows.jsonl");
        let data = "data/heldout-comparisons.jsonl";
        succeed(&["eval", "rm", "--model", "reward", "--data", data, "--html", &html, "--per-row", &rows]);
        succeed(&["data", "dedup", "data/sft.jsonl", "--out", &format!("{out}/unique.jsonl")]);
        let found = modes(&folder.join(&out));
        let names: Vec<String> =
            found.iter().map(|(path, _)| path.file_name().unwrap().to_string_lossy().into()).collect();
        for name in [
            "model.safetensors",
            "state.safetensors",
            "training_pairs.bin",
            "report.html",
            "eval.html",
            "unique.report.json",
            "about.json",
        ] {
            assert!(names.iter().any(|other| other == name), "{name} is not in {names:?}");
        }
        for (path, mode) in found {
            assert_eq!(mode, if path.is_dir() { dir } else { file }, "{} under {umask}", path.display());
        }
    }
}

/// The reader of a result may leave: no message, and the exit code of other tools.
#[test]
fn a_closed_stdout_ends_a_command_quietly() {
    let folder = Folder::new();
    folder.write("responses.jsonl", "{\"prompt\": \"q\", \"response\": \"a\"}\n");
    for args in [
        &["inspect", "model", "base"][..],
        &["inspect", "data", "data/sft.jsonl", "--model", "base"],
        &["inspect", "data", "data/sft.jsonl", "--model", "base", "--json"],
        &["eval", "lm", "--model", "base", "--data", "data/heldout-sft.jsonl"],
        &["eval", "rm", "--model", "reward", "--data", "data/heldout-comparisons.jsonl"],
        &["score", "--model", "reward", "--data", "responses.jsonl", "--out", "-"],
        &["data", "dedup", "data/sft.jsonl", "--out", "unique.jsonl"],
        &["plan", "--config", "sft.toml"],
        &["doctor", "--config", "sft.toml"],
    ] {
        let output = folder.align_unread(args, true);
        assert_eq!((output.code, output.stderr.as_str()), (Some(141), ""), "{output}");
        assert_eq!(folder.align_unread(args, false).code, Some(141), "{output}");
    }
    // What was written to files is whole.
    assert_eq!(folder.read("unique.jsonl"), folder.read("data/sft.jsonl"));
    let refusal = folder.align_unread(&["inspect", "model", "nothing"], false);
    assert_eq!(refusal.code, Some(2), "{refusal}");
}

/// A run is worth more than what is said of it.
#[test]
fn a_run_continues_when_its_output_is_closed() {
    let folder = Folder::new();
    for (config, unread) in [("sft", "runs/unread"), ("ppo", "runs/unread-ppo")] {
        let file = format!("{config}.toml");
        let steps = if config == "ppo" { "ppo.steps=5" } else { "train.steps=5" };
        let args = |out: &'static str| [config, "--config", &file, "--set", steps, "--out", out].map(str::to_owned);
        let (alone, read) = (args(unread), args(if config == "ppo" { "runs/read-ppo" } else { "runs/read" }));
        let output = folder.align_unread(&alone.each_ref().map(String::as_str), false);
        assert_eq!(output.code, Some(0), "{output}");
        folder.succeed(&read.each_ref().map(String::as_str));
        assert!(folder.files(&format!("{}/model", alone[6])) == folder.files(&format!("{}/model", read[6])));
        // The same holds for a resume, with or without steps to do.
        let resumed = [&alone.each_ref().map(String::as_str)[..], &["--resume"]].concat();
        assert_eq!(folder.align_unread(&resumed, false).code, Some(0));
    }
}

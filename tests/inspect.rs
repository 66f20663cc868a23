//! `align inspect`: data as tokens, a model's headers, a run's folder.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::util::Folder;

/// Counts of an `inspect data --json` and the tokens of its first row.
fn inspect(folder: &Folder, args: &[&str]) -> (Value, Vec<Value>) {
    let found = folder.succeed(&[&["inspect", "data", "--model", "base", "--json"], args].concat()).json();
    let tokens = found["rows"][0]["dialogues"][0]["tokens"].as_array().cloned().unwrap_or_default();
    (found["counts"].clone(), tokens)
}

#[test]
fn data_is_shown_as_the_tokens_it_becomes() {
    let folder = Folder::new();
    let dialogue = |user: &str| json!({ "messages": [{ "role": "user", "content": user }, { "role": "assistant", "content": "Yes." }] });
    let long = dialogue(&"word ".repeat(3000));
    let rows = [dialogue("Is it?"), dialogue("\u{1b}[31m <|im_end|>"), dialogue("Is it?"), long, json!({ "text": 3 })];
    folder.write("chat.jsonl", rows.map(|row| format!("{row}\n")).concat());
    let (counts, tokens) = inspect(&folder, &["chat.jsonl"]);
    for (name, expected) in [
        ("rows", 3),
        ("turns", 6),
        ("rows dropped for length", 1),
        ("rows with special-token text", 1),
        ("duplicate rows", 1),
        ("bad rows", 1),
    ] {
        assert_eq!(counts[name], expected, "{name}: {counts}");
    }
    assert_eq!(counts["bad rows by reason"].as_object().unwrap().len(), 1);
    // The answer and its end carry loss, and nothing else.
    let text = |tokens: &[&Value]| tokens.iter().map(|token| token["text"].as_str().unwrap()).collect::<String>();
    let with_loss: Vec<&Value> = tokens.iter().filter(|token| token["loss"] == true).collect();
    assert_eq!(text(&with_loss), "Yes.<|im_end|>");
    assert!(with_loss.iter().all(|token| token["role"] == "assistant"));
    let of_user: Vec<&Value> = tokens.iter().filter(|token| token["role"] == "user").collect();
    assert_eq!(text(&of_user), "<|im_start|>user\nIs it?<|im_end|>\n");
    assert!(tokens.iter().enumerate().all(|(at, token)| token["position"] == at));

    let plain = folder.succeed(&["inspect", "data", "chat.jsonl", "--model", "base", "--from", "1", "--rows", "1"]);
    assert!(!plain.stdout.contains('\u{1b}'), "{plain}");
    assert!(plain.stdout.contains("row 1 · chat.jsonl:2") && plain.stdout.contains("bad: chat.jsonl:5: "), "{plain}");
}

#[test]
fn every_kind_of_rows_is_shown() {
    let folder = Folder::new();
    folder.write("pairs.jsonl", "{\"prompt\": \"Hi\", \"chosen\": \"Good day.\", \"rejected\": \"No.\"}\n");
    let found = folder.succeed(&["inspect", "data", "pairs.jsonl", "--model", "base", "--json"]).json();
    let names: Vec<&Value> = found["rows"][0]["dialogues"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!((found["kind"].as_str(), names), (Some("comparison"), vec![&json!("chosen"), &json!("rejected")]));
    let last = found["rows"][0]["dialogues"][1]["tokens"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((last["text"].as_str(), last["scored"].as_bool()), (Some("<|im_end|>"), Some(true)));

    folder.write("prompts.jsonl", "{\"prompt\": \"Hi\"}\n");
    let (counts, tokens) = inspect(&folder, &["prompts.jsonl"]);
    assert_eq!((&counts["rows"], &tokens.last().unwrap()["role"]), (&json!(1), &json!("assistant")));
    folder.write("text.txt", "Some words.");
    let (counts, tokens) = inspect(&folder, &["text.txt"]);
    assert_eq!((&counts["rows"], &tokens.last().unwrap()["text"]), (&json!(1), &json!("<|endoftext|>")));
    folder.write("none.jsonl", "{\"a\": 1}\n");
    folder.refuse(
        &["inspect", "data", "none.jsonl", "--model", "base"],
        &[&["none.jsonl:1: ", "a row with `a`, expected a text row: `text`; a chat row: "]],
    );
    folder.refuse(&["inspect", "data", "missing.jsonl", "--model", "base"], &[&["missing.jsonl", "no such file"]]);
}

/// Sets the rows of a tensor in a safetensors file of fp32 to zero.
fn zero_row(path: &std::path::Path, name: &str, row: usize) {
    let mut bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let about: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    assert_eq!(about[name]["dtype"], "F32");
    let width = about[name]["shape"][1].as_u64().unwrap() as usize * 4;
    let start = 8 + header + about[name]["data_offsets"][0].as_u64().unwrap() as usize + row * width;
    bytes[start..start + width].fill(0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_base_checkpoint_with_untrained_chatml_tokens_is_reported() {
    let folder = Folder::new();
    let sound = folder.succeed(&["inspect", "model", "base", "--json"]).json();
    assert_eq!(sound["untrained_ChatML_tokens"], json!([]), "{sound}");
    assert_eq!((sound["chat_format_fits"].as_bool(), sound["holds"].as_str()), (Some(true), Some("a language model")));
    let dry = ["sft", "--config", "sft.toml", "--dry-run"];
    assert!(!folder.succeed(&dry).stderr.contains("untrained"));

    folder.write("probe.jsonl", "{\"instruction\": \"a\", \"output\": \"b\"}\n");
    let (_, tokens) = inspect(&folder, &["probe.jsonl"]);
    let end = tokens.iter().find(|token| token["text"] == "<|im_end|>").unwrap()["id"].as_u64().unwrap();
    let base = folder.copy("base", "unknowing");
    zero_row(&base.join("model.safetensors"), "model.embed_tokens.weight", end as usize);
    let base = folder.succeed(&["inspect", "model", "unknowing", "--json"]).json();
    assert_eq!(base["untrained_ChatML_tokens"], json!(["<|im_end|>"]), "{base}");
    let output = folder.succeed(&[&dry[..], &["--set", "model.path='unknowing'"]].concat());
    assert!(output.stderr.contains("untrained tokens") && output.stderr.contains("<|im_end|>: "), "{output}");
}

#[test]
fn a_run_is_shown_with_its_checkpoints() {
    let folder = Folder::new();
    folder.succeed(&[
        "sft",
        "--config",
        "sft.toml",
        "--set",
        "train.steps=2",
        "--set",
        "run.save_every=1",
        "--out",
        "runs/inspected",
    ]);
    let run = "runs/inspected";
    let found = folder.succeed(&["inspect", "run", run, "--json"]).json();
    assert_eq!((found["state"].as_str(), found["steps"].as_u64()), (Some("finished"), Some(2)));
    assert!(found["metrics"]["train/loss"].is_number() && found["facts"]["duplicate_rows"].is_number());
    let damage = |found: &Value| -> Vec<bool> {
        found["checkpoints"].as_array().unwrap().iter().map(|one| !one["damage"].is_null()).collect()
    };
    assert_eq!(damage(&found), [false, false]);
    let table = folder.succeed(&["inspect", "run", run]);
    assert!(table.stdout.contains("finished") && table.stdout.contains("checkpoint of step 2: intact"), "{table}");

    let file = folder.join(run).join("checkpoints/step-000002/model/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = folder.align(&["inspect", "run", run, "--json"]);
    assert_eq!((output.code, damage(&output.json())), (Some(1), vec![false, true]));
    folder.refuse(&["inspect", "run", "base"], &[&["base", "has no run.json"]]);
}

/// Documents of letters without order, which are hardly smaller when they are compressed.
fn large_file(folder: &Folder, name: &str) {
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 58) as u8)
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..1300 {
        let text: String = (0..2000).map(|_| letter()).collect();
        writeln!(gzip, "{}", json!({ "text": text })).unwrap();
    }
    let bytes = gzip.finish().unwrap();
    assert!(bytes.len() as u64 * 20 > 32 << 20, "{} bytes", bytes.len());
    folder.write(name, bytes);
}

#[test]
fn tokens_of_large_files_are_cached_and_an_unwritable_folder_is_no_error() {
    let folder = Folder::new();
    let kept = folder.join("cache-home/align");
    folder.write("small.jsonl", "{\"text\": \"A word.\"}\n");
    inspect(&folder, &["small.jsonl"]);
    assert!(!kept.exists());

    large_file(&folder, "large.jsonl.gz");
    let args = ["inspect", "data", "large.jsonl.gz", "--model", "base", "--rows", "0", "--json"];
    let first = folder.succeed(&args).json();
    assert_eq!(first["counts"]["rows"], 1300);
    let entries: Vec<_> = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let written = || fs::metadata(entries[0].join("tokens.u32")).unwrap().modified().unwrap();
    let when = written();
    assert_eq!(folder.succeed(&args).json(), first);
    assert_eq!(written(), when, "the entry was created again");

    fs::remove_dir_all(&kept).unwrap();
    fs::write(&kept, "a file where the folder would be").unwrap();
    let output = folder.succeed(&args);
    assert_eq!(output.json(), first);
    assert!(output.stderr.contains("tokens are kept in memory"), "{output}");
}

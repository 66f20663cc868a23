//! `align data`: what is planted is found, what only looks like it stays, and what is kept is as it was.

use std::collections::{BTreeMap, BTreeSet};

use align_datasets::{Planted, write_planted};
use serde_json::{Value, json};

use crate::util::Folder;

/// A corpus with planted copies and overlaps. `ALIGN_PLANTED_ROWS=100000` takes as many rows as there are to
/// be in earnest.
fn corpus(folder: &Folder) -> (Planted, Vec<String>) {
    let num = std::env::var("ALIGN_PLANTED_ROWS").map_or(3000, |num| num.parse().unwrap());
    let planted = write_planted(&folder.join(""), num, 1).unwrap();
    for part in [planted.exact.len(), planted.near.len(), planted.unlike.len(), planted.overlaps.len()] {
        assert!(part > 20, "{planted:?}");
    }
    (planted, folder.read("corpus.jsonl").lines().map(str::to_owned).collect())
}

/// The rows that a report names for a reason, with what it says of each.
fn removed(report: &Value, reason: &str) -> BTreeMap<usize, Value> {
    let rows = report["removed"].as_array().unwrap().iter().filter(|row| row["reason"] == reason);
    rows.map(|row| (row["index"].as_u64().unwrap() as usize, row.clone())).collect()
}

fn report(folder: &Folder, name: &str) -> Value {
    serde_json::from_str(&folder.read(name)).unwrap()
}

/// What is kept is every other row, as it stood.
#[track_caller]
fn assert_kept(folder: &Folder, file: &str, lines: &[String], removed: &BTreeSet<usize>) {
    let expected: Vec<&str> =
        (0..lines.len()).filter(|row| !removed.contains(row)).map(|row| lines[row].as_str()).collect();
    assert!(folder.read(file).lines().eq(expected), "{file} does not hold the rows that were not removed");
}

#[test]
fn planted_copies_are_found_and_nothing_else() {
    let folder = Folder::empty();
    let (planted, lines) = corpus(&folder);
    let command = ["data", "dedup", "corpus.jsonl", "--out", "kept.jsonl"];
    let output = folder.succeed(&command);
    let report = report(&folder, "kept.report.json");
    let (exact, near) = (removed(&report, "exact copy"), removed(&report, "near copy"));

    // Every exact copy, and none but those.
    let of = |row: &Value| row["of"].as_str().unwrap().to_owned();
    let line = |row: &usize| format!("corpus.jsonl:{}", row + 1);
    let found: Vec<_> = exact.iter().map(|(row, said)| (*row, of(said))).collect();
    let expected: Vec<_> = planted.exact.iter().map(|(row, first)| (*row, line(first))).collect();
    assert_eq!(found, expected);
    // At least 95 of 100 near copies, with the similarity counted from their words; nothing below the
    // threshold.
    let expected: BTreeMap<usize, (String, f64)> =
        planted.near.iter().map(|(row, first, jaccard)| (*row, (line(first), *jaccard))).collect();
    let share = near.len() as f64 / expected.len() as f64;
    eprintln!("near copies found: {} of {}", near.len(), expected.len());
    assert!(share >= 0.95, "{share}");
    for (row, said) in &near {
        let (first, jaccard) = expected.get(row).unwrap_or_else(|| panic!("row {row} is no copy: {said}"));
        assert_eq!(&of(said), first);
        assert!((said["jaccard"].as_f64().unwrap() - jaccard).abs() < 1e-9, "{said}, expected {jaccard}");
    }

    let gone: BTreeSet<usize> = exact.keys().chain(near.keys()).copied().collect();
    assert_kept(&folder, "kept.jsonl", &lines, &gone);
    let counts = [lines.len(), lines.len() - gone.len(), exact.len(), near.len(), 0];
    let numbers: Vec<String> = counts.iter().map(ToString::to_string).collect();
    let row = output.stdout.lines().find(|line| line.contains("corpus.jsonl")).unwrap();
    assert!(row.split_whitespace().skip(1).eq(&numbers), "{output}");
    let removed = json!({ "exact copy": exact.len(), "near copy": near.len() });
    assert_eq!(
        report["files"],
        json!([{ "file": "corpus.jsonl", "rows": counts[0], "kept": counts[1], "removed": removed }])
    );

    // The same again, to the byte, whatever the number of threads.
    let files = folder.files("");
    folder.succeed(&command);
    assert!(folder.files("") == files);
}

#[test]
fn planted_overlaps_are_found_and_nothing_else() {
    let folder = Folder::empty();
    let (planted, lines) = corpus(&folder);
    let args = ["data", "decontaminate", "corpus.jsonl", "--against", "evaluation.jsonl", "--out", "kept.jsonl"];
    let output = folder.succeed(&args);
    let report = report(&folder, "kept.report.json");
    let overlaps = removed(&report, "overlap");
    let with = |row: &Value| row["with"].as_str().unwrap().to_owned();
    let found: Vec<_> = overlaps.iter().map(|(row, said)| (*row, with(said))).collect();
    let expected: Vec<_> =
        planted.overlaps.iter().map(|(row, asked)| (*row, format!("evaluation.jsonl:{}", asked + 1))).collect();
    assert_eq!(found, expected);
    assert!(overlaps.values().all(|row| row["words"].as_str().unwrap().split(' ').count() == 13));
    assert!(!planted.short_overlaps.is_empty());
    assert_kept(&folder, "kept.jsonl", &lines, &overlaps.keys().copied().collect());
    assert_eq!(report["against"][0]["removed"], json!(overlaps.len()));
    assert!(output.stdout.contains("rows too short for one"), "{output}");
}

#[test]
fn a_sample_is_complex_and_diverse() {
    let folder = Folder::empty();
    let tags: [&[&str]; 6] = [&["math"], &["math", "code", "poem"], &[], &["code", "law"], &["law", "math"], &["poem"]];
    let rows: Vec<String> = tags.iter().map(|tags| format!("{{\"tags\": {}, \"text\":\"t\" }}", json!(tags))).collect();
    folder.write("rows.jsonl", rows.join("\n"));
    let output = folder.succeed(&["data", "sample", "rows.jsonl", "--rows", "3", "--out", "few.jsonl"]);
    // Most tags first; then what adds a tag (law); then from the start.
    assert_eq!(folder.read("few.jsonl"), [1, 3, 4].map(|row: usize| format!("{}\n", rows[row])).concat());
    assert!(output.stdout.contains("tags per kept row"), "{output}");
    let report = report(&folder, "few.report.json");
    assert_eq!(report["tags"]["covered"], json!(4));
    assert_eq!(report["files"], json!([{ "file": "rows.jsonl", "rows": 6, "kept": 3, "removed": {} }]));
}

/// Rows of every shape and format go in; lines of JSON come out.
#[test]
fn rows_of_all_formats_are_kept_as_lines() {
    let folder = Folder::empty();
    folder.write("array.json", "[\n  {\n    \"text\": \"one\"\n  },\n  {\"text\": \"two\"}\n]");
    folder.write("plain.txt", "Two\n");
    folder.write("chat.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\r\n\n{\"prompt\":\"one\"}");
    let files = ["array.json", "plain.txt", "chat.jsonl"];
    folder.succeed(&[&["data", "dedup"], &files[..], &["--out", "kept.jsonl"]].concat());
    let expected = concat!(
        "{        \"text\": \"one\"   }\n{\"text\": \"two\"}\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\r\n"
    );
    assert_eq!(folder.read("kept.jsonl").replace(' ', ""), expected.replace(' ', ""));
    let report = report(&folder, "kept.report.json");
    let said: Vec<String> = report["removed"].as_array().unwrap().iter().map(|row| format!("{row}")).collect();
    assert_eq!(
        said,
        [
            r#"{"row":"plain.txt:1","index":0,"reason":"exact copy","of":"array.json:5"}"#,
            r#"{"row":"chat.jsonl:3","index":1,"reason":"exact copy","of":"array.json:2"}"#
        ]
    );
}

#[test]
fn mistakes_are_reported_and_leave_no_files() {
    let folder = Folder::empty();
    folder.write("a.jsonl", "{\"text\": \"one\"}\n{\"id\": 1}\nx\n{\"text\": \"two\", \"tags\": [1]}\n");
    folder.write("eval.jsonl", "{\"q\": \"one\"}\n[\n");
    let before = folder.files("");
    let dedup = ["data", "dedup", "a.jsonl"];
    let bad: [&[&str]; 2] = [&["a.jsonl:2: a row without text"], &["a.jsonl:3: not JSON"]];
    folder.refuse(&[&dedup[..], &["--out", "kept.jsonl"]].concat(), &bad);
    folder.refuse(&[&dedup[..], &["--out", "a.jsonl"]].concat(), &[&["a.jsonl: ", "is also given to FILE"]]);
    folder.refuse(&[&dedup[..], &["--out", "b.jsonl.gz"]].concat(), &[&["b.jsonl.gz: ", "ends with .jsonl"]]);
    folder.refuse(&[&dedup[..], &["--out", "none/b.jsonl"]].concat(), &[&["none/b.jsonl: cannot be written"]]);
    let same = ["--out", "b.jsonl", "--report", "b.jsonl"];
    folder.refuse(&[&dedup[..], &same].concat(), &[&["b.jsonl: is given to --out and --report"]]);
    let against = ["data", "decontaminate", "a.jsonl", "--against", "eval.jsonl", "none.jsonl", "--out", "b.jsonl"];
    folder.refuse(&against, &[&["eval.jsonl:2: not JSON"], &["none.jsonl: no such file"]]);
    let tags: [&[&str]; 3] = [
        &["a.jsonl:1: a row without tags, expected `tags`, a list of strings; the same in 1 more row: a.jsonl:2"],
        &["a.jsonl:3: not JSON"],
        &["a.jsonl:4: the tag 1, expected"],
    ];
    folder.refuse(&["data", "sample", "a.jsonl", "--rows", "1", "--out", "b.jsonl"], &tags);
    assert!(folder.files("") == before);

    // Skipped when asked to, and in the report.
    let output = folder.succeed(&[&dedup[..], &["--out", "kept.jsonl", "--bad-rows", "skip"]].concat());
    let row = output.stdout.lines().find(|line| line.contains("a.jsonl")).unwrap();
    assert!(row.split_whitespace().skip(1).eq(["4", "2", "0", "0", "2"]), "{output}");
    let report = report(&folder, "kept.report.json");
    assert_eq!(removed(&report, "bad row").into_keys().collect::<Vec<_>>(), [1, 2]);
}

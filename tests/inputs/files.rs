//! Formats, folders and patterns.

use super::*;

/// The same three dialogues in every format that has a name of its own.
#[test]
fn tables_as_text_are_rows_like_any_other() {
    let folder = Folder::new();
    let texts = [("Say \"a\", please.", "a"), ("Two\nlines?", "Yes,\nthey are."), ("Tab\there", "é 😀")];
    let lines = texts.map(|(prompt, answer)| json!({ "instruction": prompt, "input": "", "output": answer }));
    folder.write_rows("rows.jsonl", &lines);
    let field = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let table = |between: &str, end: &str| {
        let row = |(prompt, answer): &(&str, &str)| [field(prompt), String::new(), field(answer)].join(between) + end;
        ["instruction", "input", "output"].join(between) + end + &texts.iter().map(row).collect::<String>()
    };
    folder.write("rows.csv", table(",", "\n"));
    folder.write("ends.csv", table(",", "\r\n"));
    folder.write("rows.CSV.gz", gz(table(",", "\n")));
    folder.write("bom.tsv", format!("\u{feff}{}", table("\t", "\n")));
    let of = |path: &str| {
        let found = inspected(&folder, path);
        let places: Vec<Value> = found["rows"].as_array().unwrap().iter().map(|row| row["line"].clone()).collect();
        let tokens: Vec<Value> = found["rows"].as_array().unwrap().iter().map(|row| row["dialogues"].clone()).collect();
        (found["kind"].clone(), found["counts"].clone(), tokens, places)
    };
    let (kind, counts, tokens, _) = of("rows.jsonl");
    assert_eq!((&kind, tokens.len(), &counts["bad rows"]), (&json!("chat"), 3, &json!(0)));
    for path in ["rows.csv", "ends.csv", "rows.CSV.gz", "bom.tsv"] {
        // Row 2 begins on line 3 and has two line breaks within quotes.
        assert_eq!(
            of(path),
            (kind.clone(), counts.clone(), tokens.clone(), vec![json!(2), json!(3), json!(6)]),
            "{path}"
        );
    }
    let others = of("rows.jsonl").3;
    assert_eq!(others, [1, 2, 3]);
}

#[test]
fn records_that_do_not_fit_their_table_are_named_by_line() {
    let folder = Folder::new();
    folder.write("rows.csv", "instruction,output\nq,a\n\n\"long\ntext\",a,b\nq\n");
    let said = refused(&folder, "rows.csv");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("rows.csv:4: fields: 3, expected 2 as in the header"), "{said:?}");
    assert!(said[0].ends_with("; the same in 1 more row: rows.csv:6"), "{said:?}");
    let sets = ["data.train='rows.csv'", "data.eval=[]", "data.bad_rows='skip'"];
    let output = folder.succeed(&[&set(&SFT, &sets)[..], &["--dry-run"]].concat());
    assert!(output.stderr.contains("bad rows skipped  2\n"), "{output}");
    folder.write("open.csv", format!("instruction,output\nq,\"a\n{}", "q,a\n".repeat(1000)));
    assert!(refused(&folder, "open.csv")[0].starts_with("open.csv:2: a quote that does not end"));
    folder.write("semicolons.csv", "instruction;output\nq;a\n");
    assert!(refused(&folder, "semicolons.csv")[0].starts_with("semicolons.csv:1: a header of one column"));
}

/// One object over several lines is a row; several of them, and one that holds the rows, are no JSON Lines.
#[test]
fn pretty_printed_json() {
    let folder = Folder::new();
    let row = json!({ "messages": [{ "role": "user", "content": "2+2?" }, { "role": "assistant", "content": "4." }] });
    let pretty = serde_json::to_string_pretty(&row).unwrap();
    folder.write("plain.jsonl", format!("{row}\n"));
    folder.write("pretty.json", &pretty);
    let (one, other) = (inspected(&folder, "pretty.json"), inspected(&folder, "plain.jsonl"));
    assert_eq!((&one["counts"], &one["rows"]), (&other["counts"], &other["rows"]));
    // What passes through comes out as a line.
    folder.succeed(&["data", "dedup", "pretty.json", "--out", "unique.jsonl"]);
    assert_eq!(folder.rows("unique.jsonl"), std::slice::from_ref(&row));

    folder.write("several.json", format!("{pretty}\n{pretty}\n"));
    assert_eq!(
        refused(&folder, "several.json"),
        [
            "several.json: pretty-printed JSON, objects over several lines, expected one object per line; convert it: jq -c . several.json > rows.jsonl"
        ]
    );
    let wrapped = json!({ "version": "1.0", "data": [row, row] });
    for (name, text) in [("wrapped.json", wrapped.to_string()), ("wrapped-pretty.json", format!("{wrapped:#}"))] {
        folder.write(name, text);
        let said = refused(&folder, name);
        let start = format!("{name}: one object with rows under `data` (2), expected one object per line");
        assert!(said.len() == 1 && said[0].starts_with(&start) && said[0].contains("jq -c '.data[]'"), "{said:?}");
    }
    folder.write("open.json", "{\n  \"messages\": [\n");
    assert!(refused(&folder, "open.json")[0].contains("an object over several lines that does not end"));
    // A first line that was cut off is a bad row, not the beginning of an object.
    folder.write("cut.jsonl", format!("{{\"messages\": [\n{}", rows(0, 2)));
    let said = refused(&folder, "cut.jsonl");
    assert!(said.len() == 1 && said[0].starts_with("cut.jsonl:1: not JSON (EOF"), "{said:?}");
}

#[test]
fn formats_that_are_not_read_are_named() {
    let folder = Folder::new();
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let cases: [(&str, &[u8], &str, &str); 12] = [
        ("a.arrow", b"\xff\xff\xff\xff\x10\0\0\0", "an Apache Arrow file", "to_json"),
        ("b.arrow", b"ARROW1\0\0", "an Apache Arrow file", "to_json"),
        ("c.feather", b"FEA1....", "a Feather file", "to_parquet"),
        ("d.xlsx", b"PK\x03\x04....", "an Excel workbook", "CSV"),
        ("e.zip", b"PK\x03\x04....", "a zip archive", "unzip e.zip"),
        ("f.tar", &tar, "a tar archive", "tar -xf f.tar"),
        ("g.tar.gz", &gz(&tar), "a tar archive", "tar -xf g.tar.gz"),
        ("h.jsonl.bz2", b"BZh91AY&SY....", "compressed with bzip2", "bunzip2 -k h.jsonl.bz2"),
        ("i.jsonl.xz", b"\xfd7zXZ\0....", "compressed with xz", "unxz -k i.jsonl.xz"),
        ("j.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "git lfs pull"),
        ("k.jsonl", b"<!DOCTYPE html>\n<html>", "an HTML page", "download the file itself"),
        ("l.jsonl", b"BZh91AY&SY....", "compressed with bzip2", "bunzip2 -k l.jsonl"),
    ];
    for (name, bytes, what, fix) in cases {
        folder.write(name, bytes);
        let said = refused(&folder, name);
        assert!(said.len() == 1 && said[0].starts_with(&format!("{name}: {what}")), "{said:?}");
        assert!(said[0].contains("expected") && said[0].contains(fix), "{said:?}");
    }
    // Text that only begins like an archive is text.
    folder.write("m.txt", "ORCHIDS and BZh bees.");
    assert_eq!(inspected(&folder, "m.txt")["counts"]["rows"], json!(1));
}

#[test]
fn parquet_without_rows_is_no_empty_file() {
    // Written by pyarrow: a schema of one text column, and no row group.
    let folder = Folder::new();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/empty.parquet");
    fs::copy(golden, folder.join("empty.parquet")).unwrap();
    assert_eq!(refused(&folder, "empty.parquet"), ["empty.parquet: a Parquet file of 0 rows, expected chat rows"]);
}

/// A folder is its data files, in the order of their names' bytes; the run says which, and holds a resume to
/// them.
#[test]
fn a_folder_of_shards_is_its_files() {
    let folder = Folder::new();
    folder.write("shards/b.jsonl", rows(0, 4));
    folder.write("shards/a.jsonl.gz", gz(rows(4, 4)));
    folder.write("shards/B.JSON", format!("[{}]", rows(8, 4).trim_end().replace('\n', ",")));
    for (name, text) in [("README.md", "x"), (".part.jsonl", "x"), ("dataset_info.json", "{}"), ("notes", "x")] {
        folder.write(&format!("shards/{name}"), text);
    }
    folder.write("shards/below/c.jsonl", "not read");
    let run = |train: &str, out: &str, more: &[&str]| {
        let (train, out) = (format!("data.train={train}"), format!("run.out='{out}'"));
        let sets = [&train, &out, "train.steps=3", "data.eval=[]", "schedule.warmup_steps=1"];
        folder.align(&[&set(&SFT, &sets)[..], more].concat())
    };
    let files = "['shards/B.JSON', 'shards/a.jsonl.gz', 'shards/b.jsonl']";
    for (train, out) in [("'shards'", "runs/folder"), ("'shards/[aBb].*'", "runs/pattern"), (files, "runs/files")] {
        let output = run(train, out, &[]);
        assert_eq!(output.code, Some(0), "{output}");
        let config: toml::Table = folder.read(&format!("{out}/config.toml")).parse().unwrap();
        let named: Vec<&str> =
            config["data"]["train"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
        assert_eq!(named, ["shards/B.JSON", "shards/a.jsonl.gz", "shards/b.jsonl"], "{train}");
        assert!(folder.files(&format!("{out}/model")) == folder.files("runs/folder/model"), "{train}");
        let facts: Value = serde_json::from_str(&folder.read(&format!("{out}/run.json"))).unwrap();
        let inputs = facts["inputs"]["data.train"].as_array().unwrap().iter();
        assert_eq!(inputs.map(|file| file["file"].as_str().unwrap()).collect::<Vec<_>>(), named, "{train}");
        if train == "'shards'" {
            let ignored = "shards/README.md, shards/below, shards/dataset_info.json, shards/notes";
            assert_eq!(facts["not_read,_no_data_by_name"], json!(ignored));
            assert!(output.stderr.contains(ignored), "{output}");
        }
    }
    // Another file in the folder is other data.
    folder.write("shards/c.jsonl", rows(12, 4));
    let output = run("'shards'", "runs/folder", &["--set", "train.steps=4", "--resume"]);
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.stderr.contains("shards/c.jsonl: was not among data.train when the run began"), "{output}");
}

/// A folder is one set, whatever number of files; a pattern is as many as it matches.
#[test]
fn a_folder_of_held_out_files_is_one_set() {
    let folder = Folder::new();
    let text = folder.read("data/heldout-sft.jsonl");
    let (first, rest) = text.split_at(text.find('\n').unwrap() + 1);
    folder.write("held/v1.5/1.jsonl", first);
    folder.write("held/v1.5/2.jsonl", rest);
    let sets =
        ["data.eval=['held/v1.5/', 'data/heldout-sft.jsonl', 'held/v1.5/*']", "train.steps=1", "run.eval_every=1"];
    folder.succeed(&set(&SFT, &sets));
    let loss = |name: &str| folder.metric("runs/sft", &format!("eval/{name}/loss"))[0];
    assert_eq!(loss("v1.5"), loss("heldout-sft"));
    assert!(loss("1") != loss("2") && loss("1").is_finite() && loss("2").is_finite());

    let eval = [
        "eval",
        "lm",
        "--model",
        "base",
        "--json",
        "--per-row",
        "rows.jsonl",
        "--data",
        "held/v1.5",
        "data/heldout-sft.jsonl",
    ];
    let sets = folder.succeed(&eval).json()["sets"].clone();
    assert_eq!((&sets[0]["file"], &sets[0]["rows"]), (&json!("held/v1.5"), &json!(8)));
    assert_eq!((&sets[0]["loss"], &sets[0]["tokens"]), (&sets[1]["loss"], &sets[1]["tokens"]));
    let rows = folder.rows("rows.jsonl");
    let places: Vec<(&str, u64)> =
        rows[..3].iter().map(|row| (row["file"].as_str().unwrap(), row["index"].as_u64().unwrap())).collect();
    assert_eq!(places, [("held/v1.5/1.jsonl", 0), ("held/v1.5/2.jsonl", 0), ("held/v1.5/2.jsonl", 1)]);
}

#[test]
fn folders_and_patterns_are_data_for_every_command() {
    let folder = Folder::new();
    let split = |from: &str, to: &str| {
        let text = folder.read(&format!("data/{from}.jsonl"));
        let half = text.match_indices('\n').nth(2).unwrap().0 + 1;
        folder.write(&format!("{to}/1.jsonl"), &text[..half]);
        folder.write(&format!("{to}/2.jsonl"), &text[half..]);
        folder.write(&format!("{to}/README.md"), "x");
    };
    split("heldout-comparisons", "pairs");
    split("heldout-prompts", "prompts");
    split("heldout-text", "text");
    let not_read = |output: &crate::util::Output, name: &str| {
        assert_eq!(output.stderr, format!("ignored, not data files by name: {name}/README.md\n"), "{output}");
    };
    let eval = |data: &str| folder.succeed(&["eval", "rm", "--model", "reward", "--json", "--data", data]);
    let (whole, parts) = (eval("data/heldout-comparisons.jsonl"), eval("pairs"));
    not_read(&parts, "pairs");
    let set = |output: &crate::util::Output| output.json()["models"][0]["sets"][0].clone();
    assert_eq!((&set(&parts)["file"], &set(&parts)["accuracy"]), (&json!("pairs"), &set(&whole)["accuracy"]));

    let generate = |prompts: &str, out: &str| {
        folder.succeed(&["generate", "--model", "policy", "--prompts", prompts, "--out", out, "--max-tokens", "4"]);
        folder.rows(out)
    };
    let (whole, parts) = (generate("data/heldout-prompts.jsonl", "1.jsonl"), generate("prompts/*.jsonl", "2.jsonl"));
    let tokens = |rows: &[Value]| rows.iter().map(|row| row["tokens"].clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&whole), tokens(&parts));
    assert_eq!(
        (&parts[3]["file"], &parts[3]["index"], whole[3].get("file")),
        (&json!("prompts/2.jsonl"), &json!(0), None)
    );

    folder.write("answers/a.jsonl", "{\"prompt\": \"q\", \"response\": \"a\"}\n");
    folder.write("answers/b.jsonl", "{\"prompt\": \"q\", \"response\": \"a\"}\n");
    folder.succeed(&["score", "--model", "reward", "--data", "answers", "--out", "scores.jsonl"]);
    let scores = folder.rows("scores.jsonl");
    assert_eq!((&scores[0]["file"], &scores[1]["file"]), (&json!("answers/a.jsonl"), &json!("answers/b.jsonl")));
    let score = |row: usize| scores[row]["score"].as_f64().unwrap();
    assert!((score(0) - score(1)).abs() < 1e-5, "{scores:?}");

    let output = folder.succeed(&["data", "dedup", "text", "data/heldout-text.jsonl", "--out", "unique.jsonl"]);
    not_read(&output, "text");
    assert_eq!(folder.read("unique.jsonl"), folder.read("data/heldout-text.jsonl"));
    folder.succeed(&["data", "decontaminate", "text/*.jsonl", "--against", "text", "--out", "clean.jsonl"]);
    let text = "data/heldout-text.jsonl";
    folder.succeed(&["data", "decontaminate", text, "--against", text, "--out", "expected.jsonl"]);
    assert_eq!(folder.read("clean.jsonl"), folder.read("expected.jsonl"));
    assert!(folder.read("clean.jsonl").lines().count() < 12);

    let found =
        folder.succeed(&["inspect", "data", "text", "--model", "base", "--from", "3", "--rows", "1", "--json"]).json();
    assert_eq!((&found["counts"]["rows"], &found["rows"][0]["index"]), (&json!(12), &json!(0)));

    let pretrain = ["pretrain", "--config", "pretrain.toml", "--dry-run", "--set", "data.train=[]", "--set"];
    let mix = "data.mix=[{path='text', weight=1.0}, {path='data/pretrain.jsonl', weight=2.0}]";
    let output = folder.succeed(&[&pretrain[..], &[mix]].concat());
    assert!(output.stderr.contains("path = [\"text/1.jsonl\", \"text/2.jsonl\"]"), "{output}");
    let ppo = [
        "ppo",
        "--config",
        "ppo.toml",
        "--dry-run",
        "--set",
        "data.prompts='prompts'",
        "--set",
        "data.pretrain='text/[0-9].*'",
    ];
    let output = folder.succeed(&[&ppo[..], &["--set", "data.eval_prompts='prompts'"]].concat());
    let shown = "prompts = [\"prompts/1.jsonl\", \"prompts/2.jsonl\"]\n";
    assert!(
        output.stderr.contains(shown) && output.stderr.contains("pretrain = [\"text/1.jsonl\", \"text/2.jsonl\"]"),
        "{output}"
    );
    assert!(output.stderr.contains("eval_prompts = [\"prompts\"]"), "{output}");
    folder.write("doctor.toml", folder.read("sft.toml").replace("data/sft.jsonl", "answers2"));
    folder.write("answers2/rows.jsonl", rows(0, 8));
    assert_eq!(folder.succeed(&["doctor", "--config", "doctor.toml", "--json"]).json()["faults"], json!(0));
}

#[test]
fn paths_that_stand_for_nothing() {
    let folder = Folder::new();
    let one = |path: &str, parts: &[&str]| {
        let said = refused(&folder, path);
        assert!(said.len() == 1 && said[0].starts_with(&format!("{path}: ")), "{said:?}");
        parts.iter().for_each(|part| assert!(said[0].contains(part), "{part}: {said:?}"));
    };
    fs::create_dir(folder.join("empty")).unwrap();
    folder.write("texts/README.md", "x");
    folder.write("hub/data/train-00000.jsonl", rows(0, 2));
    folder.write("splits/train-00000.jsonl", rows(0, 2));
    folder.write("splits/test-00000.jsonl", rows(2, 2));
    folder.write("mixed/a.jsonl", rows(0, 2));
    folder.write("mixed/b.jsonl.bz2", b"BZh91AY&SY");
    one("empty", &["an empty folder, expected data files (.jsonl"]);
    one("texts", &["a folder without data files, expected .jsonl", "in it: README.md"]);
    one("hub", &["a folder without data files of its own", "its folders are data"]);
    one("splits", &["to train on (`train-00000.jsonl`) and to measure on (`test-00000.jsonl`)", "`splits/train*`"]);
    one("none/*.jsonl", &["matches no file, expected data files"]);
    one("*.none", &["matches no file"]);
    one("none.jsonl", &["no such file, expected data"]);
    // A shard that cannot be read is not skipped.
    let said = refused(&folder, "mixed");
    assert!(said.len() == 1 && said[0].starts_with("mixed/b.jsonl.bz2: compressed with bzip2"), "{said:?}");
    std::os::unix::fs::symlink("nowhere", folder.join("broken.jsonl")).unwrap();
    std::os::unix::fs::symlink("round.jsonl", folder.join("round.jsonl")).unwrap();
    one("broken.jsonl", &["a link to a file that is not there"]);
    one("round.jsonl", &["cannot be read (", "expected data"]);
    // A folder may have any name, and a file that of a pattern.
    folder.write("named.jsonl/a.jsonl", rows(0, 3));
    folder.write("a[1]*.jsonl", rows(0, 3));
    assert_eq!(inspected(&folder, "named.jsonl")["counts"]["rows"], json!(3));
    assert_eq!(inspected(&folder, "a[1]*.jsonl")["counts"]["rows"], json!(3));
}

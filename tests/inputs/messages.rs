//! How much a refusal says: a line a cause, ten lines at most, wherever the rows are read.

use super::*;

#[test]
fn rows_that_are_bad_in_one_way_are_one_line() {
    let folder = Folder::new();
    folder.write("prompts.jsonl", "{\"prompt\": \"q\"}\n".repeat(5000));
    let said = refused(&folder, "prompts.jsonl");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("prompts.jsonl:1: a row with `prompt`, expected a chat row"), "{said:?}");
    let more = "; the same in 4999 more rows: prompts.jsonl:2, prompts.jsonl:3, prompts.jsonl:4, …";
    assert!(said[0].ends_with(more), "{said:?}");
    // Over several files, and in a format whose rows are located by index.
    folder.write("array.json", "[{\"prompt\": \"q\"}, {\"prompt\": \"q\"},\n{\"prompt\": \"q\"}]");
    let sets = ["data.train=['array.json', 'data/sft.jsonl']", "data.eval='data/heldout-prompts.jsonl'"];
    let output = folder.align(&set(&SFT, &sets));
    let more =
        "; the same in 8 more rows: array.json:1 (row 1), array.json:2 (row 2), data/heldout-prompts.jsonl:1, …\n";
    assert!(output.stderr.starts_with("align: array.json:1: row 0: a row with `prompt`"), "{output}");
    assert!(output.code == Some(2) && output.stderr.lines().count() == 1 && output.stderr.ends_with(more), "{output}");
}

/// Forty kinds of bad rows, in files for training and for measuring.
fn many_causes(folder: &Folder) {
    let row = |number: usize| {
        let role: String = (0..=number).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        json!({ "messages": [{ "role": role, "content": "q" }] })
    };
    let all: Vec<Value> = (0..40).map(row).collect();
    folder.write_rows("bad.jsonl", &all);
}

#[test]
fn a_refusal_has_at_most_ten_lines() {
    let folder = Folder::new();
    many_causes(&folder);
    let said = refused(&folder, "bad.jsonl");
    assert_eq!(said.len(), 10, "{said:?}");
    assert!(said[0].starts_with("bad.jsonl:1: `messages[0]` has the role `a`"), "{said:?}");
    assert!(said[9].ends_with(" more problems: not shown, expected none; fix those above first"), "{said:?}");
    let eval = ["eval", "lm", "--model", "base", "--data", "bad.jsonl", "none.jsonl"];
    let output = folder.align(&eval);
    assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 10), "{output}");
    let keys: Vec<String> = (0..25).map(|key| format!("train.{}=1", "k".repeat(key + 1))).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let output = folder.align(&set(&SFT, &keys));
    assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 10), "{output}");
    assert!(
        output.stderr.ends_with("align: 16 more problems: not shown, expected none; fix those above first\n"),
        "{output}"
    );
}

/// Skipped rows are reported in the same way.
#[test]
fn skipped_rows_are_reported_by_their_cause() {
    let folder = Folder::new();
    many_causes(&folder);
    let text = folder.read("bad.jsonl") + &rows(0, 4) + &"{\"prompt\": \"q\"}\n".repeat(30);
    folder.write("mostly.jsonl", text);
    let sets = ["data.train='mostly.jsonl'", "data.eval=[]", "data.bad_rows='skip'"];
    let output = folder.succeed(&[&set(&SFT, &sets)[..], &["--dry-run"]].concat());
    let skipped: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("skipped ")).collect();
    assert_eq!((skipped.len(), skipped[9]), (10, "skipped rows for 32 more reasons"), "{output}");
    assert!(output.stderr.contains("bad rows skipped  70\n"), "{output}");
    let output = folder.succeed(&["inspect", "data", "mostly.jsonl", "--model", "base", "--rows", "0"]);
    assert_eq!(output.stdout.lines().filter(|line| line.starts_with("bad: ")).count(), 10, "{output}");
}

/// What `inspect data` says of a file that sft refuses is what sft says.
#[test]
fn inspecting_gives_the_reason_that_training_gives() {
    let folder = Folder::new();
    let inspect = |name: &str| {
        let output = folder.align(&["inspect", "data", name, "--model", "base"]);
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.lines().count()), (Some(2), "", 1), "{output}");
        output.stderr
    };
    for (name, text, reason) in [
        (
            "list.jsonl",
            r#"{"messages": [{"role": "user", "content": 7}]}"#,
            "`messages[0].content` is a number, expected",
        ),
        ("role.jsonl", r#"{"conversations": [{"from": "robot", "value": "q"}]}"#, "the role `robot`"),
        ("number.jsonl", r#"{"instruction": 1, "output": "a"}"#, "`instruction` is a number"),
        ("silent.jsonl", r#"{"messages": [{"role": "system", "content": "q"}]}"#, "no assistant turn"),
        ("nan.jsonl", r#"{"messages": [], "score": NaN}"#, "`NaN` at column 27 is not JSON, expected null or a number"),
        (
            "twice.jsonl",
            r#"{"output": "a", "instruction": "q", "output": "b"}"#,
            "the key `output` twice in one object",
        ),
    ] {
        folder.write(name, text);
        let trained = refused(&folder, name);
        assert!(trained.len() == 1 && trained[0].contains(reason), "{trained:?}");
        assert!(inspect(name).contains(&trained[0]), "{}", inspect(name));
    }
    folder.write("pair.jsonl", r#"{"prompt": "q", "chosen": 3, "rejected": "b"}"#);
    assert!(inspect("pair.jsonl").contains("`chosen` is a number, expected messages"));
    folder.write("text.jsonl", r#"{"text": ""}"#);
    assert!(inspect("text.jsonl").contains("`text` is empty, expected a document"));
    folder.write("none.jsonl", r#"{"a": 1, "b": 2}"#);
    let said = inspect("none.jsonl");
    assert!(
        said.starts_with("align: none.jsonl:1: a row with `a`, `b`, expected a text row: `text`; a chat row:"),
        "{said}"
    );
}

#[test]
fn what_python_writes_and_json_does_not_have_is_named_once() {
    let folder = Folder::new();
    let row = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"score":NaN}"#;
    folder.write("nan.jsonl", format!("{}{row}\n", rows(0, 1)));
    let column = row.find("NaN").unwrap() + 1;
    let expected = format!("nan.jsonl:2: `NaN` at column {column} is not JSON, expected null or a number");
    assert_eq!(refused(&folder, "nan.jsonl"), [expected]);
    folder.write("array.json", "[\n{\"instruction\": \"NaN\",\n \"output\": -Infinity}]");
    let expected = "array.json:2: row 0: `-Infinity` at line 3, column 12 is not JSON, expected null or a number";
    assert_eq!(refused(&folder, "array.json"), [expected]);
    folder.write("dict.jsonl", "{'instruction': 'q', 'output': 'a'}\n".repeat(3));
    let said = refused(&folder, "dict.jsonl");
    assert!(said.len() == 1 && said[0].starts_with("dict.jsonl:1: keys in single quotes (a Python dict)"), "{said:?}");
    folder.write("commas.jsonl", rows(0, 3).replace("}\n", "},\n"));
    let said = refused(&folder, "commas.jsonl");
    assert!(said.len() == 1 && said[0].starts_with("commas.jsonl:1: a comma after the object"), "{said:?}");
    folder.write("mac.jsonl", rows(0, 3).replace('\n', "\r"));
    let said = refused(&folder, "mac.jsonl");
    assert!(said.len() == 1 && said[0].contains("lines that end with a carriage return alone"), "{said:?}");
}

#[test]
fn what_is_advised_is_not_set_already() {
    let folder = Folder::new();
    let long = json!({ "instruction": "q ".repeat(300), "output": "a" });
    folder.write_rows("long.jsonl", &[long]);
    let sft = |overlong: &str| {
        let overlong = format!("data.overlong='{overlong}'");
        let output = folder.align(&set(&SFT, &["data.train='long.jsonl'", "data.eval=[]", &overlong]));
        assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 1), "{output}");
        output.stderr
    };
    assert!(sft("drop").contains("raise data.max_tokens or set data.overlong = \"truncate\""), "{}", sft("drop"));
    let said = sft("truncate");
    assert!(said.ends_with("raise data.max_tokens\n") && !said.contains("overlong"), "{said}");
}

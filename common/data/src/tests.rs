use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;
use align_core::error::Error;
use align_text::chatml::{Message, Role};

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    }

    fn read(&self, name: &str, bytes: impl AsRef<[u8]>, kind: Kind) -> Result<Rows, String> {
        let file = self.write(name, bytes);
        read(&[file], kind, BadRows::Error).map_err(|error| self.message(&error))
    }

    fn records(&self, name: &str, bytes: impl AsRef<[u8]>, kind: Kind) -> Vec<Record> {
        self.read(name, bytes, kind).unwrap().records.into_iter().map(|(_, record)| record).collect()
    }

    /// The message without the path of the folder.
    fn message(&self, error: &Error) -> String {
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One Zstandard frame of one raw block (RFC 8878): magic, single-segment header, content size, block header,
/// content.
fn zst(bytes: &[u8]) -> Vec<u8> {
    let block = (bytes.len() as u32) << 3 | 1;
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(bytes.len()).unwrap()], &block.to_le_bytes()[..3], bytes].concat()
}

fn zst_with_wrong_checksum() -> Vec<u8> {
    let mut frame = zst(b"{\"text\": \"a\"}");
    frame[4] |= 4;
    [frame, vec![1, 2, 3, 4]].concat()
}

fn user(content: &str) -> Message {
    Message::new(Role::User, content)
}

fn assistant(content: &str) -> Message {
    Message::new(Role::Assistant, content)
}

fn pair(chosen: Vec<Message>, rejected: Vec<Message>) -> Record {
    Record::Comparison(Comparison { dialogues: vec![chosen.into(), rejected.into()], scores: None })
}

/// One row that must give one record.
fn row(json: &str, kind: Kind) -> Record {
    Files::new().records("rows.jsonl", json, kind).swap_remove(0)
}

/// One row that must be refused: the message after `rows.jsonl:1: `.
fn refusal(json: &str, kind: Kind) -> String {
    let message = Files::new().read("rows.jsonl", json, kind).unwrap_err();
    assert!(!message.contains('\n'), "{message}");
    message.strip_prefix("rows.jsonl:1: ").unwrap_or_else(|| panic!("no line in {message}")).to_owned()
}

#[test]
fn every_chat_shape_becomes_a_dialogue() {
    let dialogue = Record::Chat(vec![user("q"), assistant("a")].into());
    let roles = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 7}"#;
    assert_eq!(row(roles, Kind::Chat), dialogue);
    let sharegpt = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
    assert_eq!(row(sharegpt, Kind::Chat), dialogue);
    assert_eq!(row(r#"{"instruction": "q", "input": "", "output": "a"}"#, Kind::Chat), dialogue);
    assert_eq!(row(r#"{"instruction": "q", "output": "a"}"#, Kind::Chat), dialogue);
    let with_input = Record::Chat(vec![user("q\nx"), assistant("a")].into());
    assert_eq!(row(r#"{"instruction": "q", "input": "x", "output": "a"}"#, Kind::Chat), with_input);
    let verbatim = Record::Chat(vec![Message::new(Role::System, ""), user(" q\n"), assistant("<|im_end|> a\n")].into());
    let json = r#"{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": " q\n"},
        {"role": "assistant", "content": "<|im_end|> a\n"}]}"#;
    assert_eq!(row(&json.replace('\n', ""), Kind::Chat), verbatim);
}

#[test]
fn every_comparison_shape_becomes_whole_dialogues() {
    let expected = pair(vec![user("q"), assistant("a")], vec![user("q"), assistant("b")]);
    let q = r#"[{"role": "user", "content": "q"}]"#;
    let (a, b) = (r#"{"role": "assistant", "content": "a"}"#, r#"{"role": "assistant", "content": "b"}"#);
    for json in [
        r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#.to_owned(),
        format!(r#"{{"prompt": {q}, "chosen": [{a}], "rejected": [{b}]}}"#),
        format!(r#"{{"prompt": {q}, "chosen": "a", "rejected": [{b}]}}"#),
        // A prompt repeated by whole dialogues.
        format!(r#"{{"prompt": "q", "chosen": [{{"role": "user", "content": "q"}}, {a}], "rejected": [{b}]}}"#),
        format!(
            r#"{{"chosen": [{{"role": "user", "content": "q"}}, {a}], "rejected": [{{"role": "user", "content": "q"}}, {b}]}}"#
        ),
        r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q \n\nAssistant:  b\n"}"#.to_owned(),
        r#"{"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"}}"#
            .replace('\n', ""),
    ] {
        assert_eq!(row(&json, Kind::Comparison), expected, "{json}");
    }
    let ranked = row(r#"{"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 2.5, 1]}"#, Kind::Comparison);
    let Record::Comparison(ranked) = ranked else { panic!("not a comparison") };
    assert_eq!(ranked.scores, Some(vec![1.0, 2.5, 1.0]));
    assert_eq!(ranked.dialogues[2].messages, [user("q"), assistant("c")]);
}

#[test]
fn the_mean_of_ratings_does_not_depend_on_their_order() {
    let json =
        r#"{"prompt": "q", "responses": ["a", "b", "c", "d"], "scores": [[3, 4, 5], [4, null, 1], 2.5, [1, 4]]}"#;
    let Record::Comparison(rated) = row(json, Kind::Comparison) else { panic!("not a comparison") };
    assert_eq!(rated.scores, Some(vec![4.0, 2.5, 2.5, 2.5]));
    // 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in their last bit; answers with equal ratings must not
    // become a pair.
    let json = r#"{"prompt": "q", "responses": ["a", "b"], "scores": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]}"#;
    let Record::Comparison(rated) = row(json, Kind::Comparison) else { panic!("not a comparison") };
    assert_eq!(rated.scores.as_ref().map(|scores| scores[0] == scores[1]), Some(true));
}

#[test]
fn transcripts_split_into_turns() {
    let json = r#"{"chosen": "\n\nHuman: q\n\nwith a paragraph\n\nAssistant: a\n\nHuman: r\n\nHuman: s\n\nAssistant: c: \"\n\"",
        "rejected": "Human: q\n\nAssistant: b"}"#;
    let chosen = vec![user("q\n\nwith a paragraph"), assistant("a"), user("r\n\ns"), assistant("c: \"\n\"")];
    assert_eq!(row(&json.replace("\n        ", ""), Kind::Comparison), pair(chosen, vec![user("q"), assistant("b")]));
    let bad = |chosen: &str| {
        let row = serde_json::json!({"chosen": chosen, "rejected": "\n\nHuman: q\n\nAssistant: b"});
        refusal(&row.to_string(), Kind::Comparison)
    };
    assert_eq!(bad("\n\nHuman: q\n\nAssistant: "), "the answer `chosen[1]` is empty, expected a text");
    assert_eq!(bad("\n\nHuman: q"), "`chosen` ends with a turn of role `user`, expected an answer");
    assert!(bad("q").starts_with("`chosen` is a text that does not begin with `Human:`"));
    assert!(bad("see\n\nHuman: q\n\nAssistant: a").starts_with("`chosen` is a text that does not begin"));
    assert!(bad("").starts_with("`chosen` is a text that does not begin"));
}

#[test]
fn responses_alone_in_a_list_and_in_a_dialogue() {
    let one = Record::Response(vec![user("q"), assistant("a")].into());
    assert_eq!(row(r#"{"prompt": "q", "response": "a", "index": 3}"#, Kind::Response), one);
    let messages = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
    assert_eq!(row(messages, Kind::Response), one);
    let prompt = r#"{"prompt": [{"from": "human", "value": "q"}], "response": {"role": "assistant", "content": "a"}}"#;
    assert_eq!(row(prompt, Kind::Response), one);
    let several =
        Record::Responses(vec![vec![user("q"), assistant("a")].into(), vec![user("q"), assistant("b")].into()]);
    assert_eq!(row(r#"{"prompt": "q", "responses": ["a", "b"]}"#, Kind::Response), several);
    let single = Record::Responses(vec![vec![user("q"), assistant("a")].into()]);
    assert_eq!(row(r#"{"prompt": "q", "responses": ["a"], "scores": [1]}"#, Kind::Response), single);
}

#[test]
fn prompts_and_texts() {
    assert_eq!(row(r#"{"prompt": "q"}"#, Kind::Prompt), Record::Prompt(vec![user("q")].into()));
    let list = r#"{"prompt": [{"from": "system", "value": "s"}, {"role": "user", "content": "q"}]}"#;
    assert_eq!(row(list, Kind::Prompt), Record::Prompt(vec![Message::new(Role::System, "s"), user("q")].into()));
    assert_eq!(row(r#"{"text": "t\u0001"}"#, Kind::Text), Record::Text("t\u{1}".to_owned()));
}

#[test]
fn messages_on_bad_rows_say_what_was_expected() {
    for (kind, json, expected) in [
        (Kind::Chat, "[1]", "row 0: a number, expected an object with `messages`"),
        (Kind::Chat, "{}", "an object without keys, expected a chat row: `messages`, `conversations`"),
        (
            Kind::Chat,
            r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#,
            "a row with `prompt`, `chosen`, `rejected`, expected a chat row",
        ),
        (
            Kind::Chat,
            r#"{"conversations": [], "chosen": {}, "rejected": {}}"#,
            "a row with `conversations`, `chosen`, `rejected`, expected a chat",
        ),
        (Kind::Chat, r#"{"messages": "q"}"#, "`messages` is a string, expected messages"),
        (Kind::Chat, r#"{"messages": null, "id": 1}"#, "a row with `id`, expected a chat row"),
        (Kind::Chat, r#"{"messages": []}"#, "`messages` is empty, expected messages"),
        (Kind::Chat, r#"{"messages": ["q"]}"#, "`messages[0]` is a string, expected a message"),
        (Kind::Chat, r#"{"messages": [{"content": "q"}]}"#, "`messages[0]` has no role, expected"),
        (
            Kind::Chat,
            r#"{"messages": [{"role": "narrator", "content": "q"}]}"#,
            "`messages[0]` has the role `narrator`, expected system, user, assistant or tool",
        ),
        (Kind::Chat, r#"{"messages": [{"role": 1, "content": "q"}]}"#, "`messages[0]` has the role a number, expected"),
        (Kind::Chat, r#"{"messages": [{"role": "user"}]}"#, "`messages[0]` has no `content`, expected a text"),
        (
            Kind::Chat,
            r#"{"messages": [{"role": "user", "content": null}]}"#,
            "`messages[0].content` is null, expected a text",
        ),
        (Kind::Chat, r#"{"messages": [{"role": "user", "content": "q"}]}"#, "no assistant turn, expected at least one"),
        (
            Kind::Chat,
            r#"{"messages": [{"role": "assistant", "content": " \n"}]}"#,
            "the answer `messages[0]` is empty, expected a text",
        ),
        (Kind::Chat, r#"{"instruction": "q", "input": "", "output": ""}"#, "`output` is empty, expected an answer"),
        (Kind::Chat, r#"{"instruction": 1, "output": "a"}"#, "`instruction` is a number, expected a string"),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "chosen": "", "rejected": "b"}"#,
            "`chosen` is empty, expected an answer",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "chosen": "a", "rejected": "  "}"#,
            "`rejected` is empty, expected an answer",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "", "chosen": "a", "rejected": "b"}"#,
            "`prompt` is empty, expected a text or messages",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "chosen": "a"}"#,
            "a row with `prompt`, `chosen`, expected a comparison row",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}"#,
            "`chosen` begins with another turn",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "responses": ["a"], "scores": [1]}"#,
            "`responses` has 1 answers, expected 2 to 256",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "responses": ["a", "b"], "scores": [1]}"#,
            "2 `responses` but 1 `scores`",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "responses": ["a", "b"], "scores": [[1, "2"], 1]}"#,
            "`scores[0][1]` is a string, expected a number",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "responses": ["a", "b"], "scores": [1, [null]]}"#,
            "`scores[1]` has no number, expected at least one",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "responses": ["a", ""], "scores": [1, 2]}"#,
            "`responses[1]` is empty, expected an answer",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "responses": ["a", "b"], "scores": [1, null]}"#,
            "`scores[1]` is null, expected a number, or a list of them",
        ),
        (
            Kind::Comparison,
            r#"{"prompt": "q", "responses": ["a", "b"], "scores": [1, 1e999]}"#,
            "not JSON (number out of range",
        ),
        (
            Kind::Prompt,
            r#"{"messages": [{"role": "assistant", "content": "q"}]}"#,
            "`messages` ends with a turn of role `assistant`, expected a user turn to answer",
        ),
        (Kind::Prompt, r#"{"prompt": " "}"#, "`prompt` is empty, expected a text or messages"),
        (
            Kind::Prompt,
            r#"{"prompt": [{"role": "assistant", "content": "a"}]}"#,
            "`prompt` ends with a turn of role `assistant`, expected a user turn",
        ),
        (Kind::Response, r#"{"prompt": "q", "response": " "}"#, "`response` is empty, expected an answer"),
        (Kind::Response, r#"{"prompt": "q", "response": 3}"#, "`response` is a number, expected messages"),
        (Kind::Response, r#"{"prompt": "q", "responses": "a"}"#, "`responses` is a string, expected a list of answers"),
        (Kind::Response, r#"{"prompt": "q", "responses": []}"#, "`responses` is empty, expected at least one answer"),
        (Kind::Response, r#"{"prompt": "q", "responses": ["a", null]}"#, "`responses[1]` is null, expected messages"),
        (
            Kind::Response,
            r#"{"messages": [{"role": "user", "content": "q"}]}"#,
            "`messages` ends with a turn of role `user`, expected an answer",
        ),
        (
            Kind::Response,
            r#"{"prompt": "q", "response": "a", "responses": ["a"]}"#,
            "a row with `prompt`, `response`, `responses`, expected a response row: `prompt` with `response` or",
        ),
        (Kind::Response, r#"{"response": "a"}"#, "a row with `response`, expected a response row"),
        (Kind::Text, r#"{"text": ""}"#, "`text` is empty, expected a document"),
        (Kind::Text, r#"{"text": ["t"]}"#, "`text` is a list, expected a string"),
        (Kind::Text, r#"{"prompt": "q"}"#, "a row with `prompt`, expected a text row: `text`"),
        (Kind::Text, "text\n", "not JSON (expected"),
        (Kind::Text, "{\"text\": \"a\0b\"}", "a NUL byte, expected text"),
    ] {
        let message = refusal(json, kind);
        assert!(message.starts_with(expected), "{json}: {message}");
    }
    // Keys are clipped and cannot break the line.
    let message = refusal(&format!(r#"{{"a\n\u001b[31m{}": 1}}"#, "k".repeat(1000)), Kind::Text);
    assert!(message.len() < 200 && !message.contains('\u{1b}'), "{message}");
}

#[test]
fn formats_are_recognised_by_content() {
    let files = Files::new();
    let (one, two) = (r#"{"text": "a"}"#, r#"{"text": "b"}"#);
    let expected = [Record::Text("a".to_owned()), Record::Text("b".to_owned())];
    for (name, content) in [
        ("rows.jsonl", format!("{one}\n{two}\n")),
        ("crlf.jsonl", format!("{one}\r\n\r\n{two}\r\n")),
        ("bom.jsonl", format!("\u{feff}{one}\n{two}")),
        ("array.json", format!("[{one}, {two}]")),
        ("array.jsonl", format!("\u{feff} [\n  {one},\n  {two}\n]\n")),
        ("no_extension", format!("\n\n{one}\n\n{two}\n\n")),
    ] {
        assert_eq!(files.records(name, &content, Kind::Text), expected, "{name}");
        assert_eq!(files.records(&format!("{name}.gz"), gz(content.as_bytes()), Kind::Text), expected, "{name}.gz");
        assert_eq!(
            files.records("misnamed", gz(content.as_bytes()), Kind::Text),
            expected,
            "{name} by its first bytes"
        );
    }
    // A skippable frame and two others.
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
    let frames = [&zst(format!("{one}\n").as_bytes())[..], &skippable, &zst(two.as_bytes())].concat();
    assert_eq!(files.records("rows.jsonl.zst", frames, Kind::Text), expected);
    assert_eq!(files.records("a.txt.zst", zst(b"a"), Kind::Text), [Record::Text("a".to_owned())]);
    // Two gzip members, as log rotation writes them.
    let members = [gz(format!("{one}\n").as_bytes()), gz(two.as_bytes())].concat();
    assert_eq!(files.records("members.gz", members, Kind::Text), expected);
    let document = [Record::Text("line\r\n{\"text\": 1}\n".to_owned())];
    assert_eq!(files.records("a.txt", "\u{feff}line\r\n{\"text\": 1}\n", Kind::Text), document);
    assert_eq!(files.records("a.TXT.gz", gz(b"line\r\n{\"text\": 1}\n"), Kind::Text), document);
    assert_eq!(
        files.records("brackets.json", r#"[{"text": "]},\"{["}]"#, Kind::Text),
        [Record::Text("]},\"{[".to_owned())]
    );
}

#[test]
fn places_count_rows_and_lines() {
    let files = Files::new();
    let lines = files.read("a.jsonl", "\n{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n", Kind::Text).unwrap();
    let locations =
        |rows: &Rows| rows.records.iter().map(|(location, _)| (location.index, location.line)).collect::<Vec<_>>();
    assert_eq!(locations(&lines), [(0, 2), (1, 4)]);
    assert!(lines.records[1].0.to_string().ends_with("a.jsonl:4"));
    let array =
        files.read("a.json", "[\n{\"text\":\n\"a\"}\n,\n{\"text\": \"b\"}, {\"text\": \"c\"}]", Kind::Text).unwrap();
    assert_eq!(locations(&array), [(0, 2), (1, 5), (2, 5)]);
}

#[test]
fn damaged_files_are_refused_in_one_line() {
    let files = Files::new();
    let refused = |name: &str, bytes: &[u8]| {
        let message = files.read(name, bytes, Kind::Text).unwrap_err();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    assert_eq!(refused("empty.jsonl", b""), "empty.jsonl: an empty file, expected text rows");
    assert_eq!(refused("blank.jsonl", b" \n\n"), "blank.jsonl: an empty file, expected text rows");
    assert_eq!(refused("blank.txt", b" \n\n"), "blank.txt: an empty file, expected text rows");
    assert_eq!(refused("empty.gz", b""), "empty.gz: an empty file, expected text rows");
    assert_eq!(refused("array.json", b"[]"), "array.json: an empty array, expected text rows");
    assert_eq!(refused("open.json", b"[{\"text\": \"a\"}\n,"), "open.json:2: the array does not end, expected `]`");
    assert_eq!(
        refused("more.json", b"[{\"text\": \"a\"}] x"),
        "more.json:1: text after the end of the array, expected nothing"
    );
    assert_eq!(
        refused("comma.json", b"[{\"text\": \"a\"},\n]"),
        "comma.json:2: a comma before the end of the array, expected a row"
    );
    assert_eq!(
        refused("latin.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xe9\"}"),
        "latin.jsonl:2: byte 0xe9 is not UTF-8, expected UTF-8 text"
    );
    assert_eq!(refused("latin.txt", b"a\n\nb\xff"), "latin.txt:3: byte 0xff is not UTF-8, expected UTF-8 text");
    assert_eq!(refused("nul.txt", b"a\nb\0"), "nul.txt:2: a NUL byte, expected text");
    assert_eq!(refused("utf16.jsonl", b"\xff\xfe{\0"), "utf16.jsonl:1: UTF-16, expected UTF-8");
    assert!(
        refused("zst.jsonl", b"\x28\xb5\x2f\xfd....").starts_with("zst.jsonl:1: damaged or cut off compressed data")
    );
    assert!(refused("sum.zst", &zst_with_wrong_checksum()).contains("the checksum is wrong"));
    assert_eq!(refused("plain.zst", b"{}"), "plain.zst: not compressed with zstd, expected it from the file's name");
    assert_eq!(refused("plain.parquet", b"{}"), "plain.parquet: not a Parquet file, expected one from the file's name");
    assert_eq!(
        refused("plain.jsonl.gz", b"{}"),
        "plain.jsonl.gz: not compressed with gzip, expected it from the file's name"
    );
    let whole = gz("{\"text\": \"a\"}\n".repeat(100).as_bytes());
    assert!(refused("cut.gz", &whole[..whole.len() - 9]).contains("damaged or cut off compressed data"));
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused("deep.jsonl", format!("{{\"text\": {deep}}}").as_bytes()).contains("recursion limit exceeded"));
    assert!(refused("deep.json", deep.as_bytes()).contains("recursion limit exceeded"));
    let text = files.read("plain.txt", "text", Kind::Chat).unwrap_err();
    assert!(text.starts_with("plain.txt: plain text, expected one chat row per line"), "{text}");
    let missing = read(&[files.0.path().join("missing.jsonl"), files.0.path().to_owned()], Kind::Text, BadRows::Skip)
        .unwrap_err();
    let missing = files.message(&missing);
    assert!(
        missing.starts_with("missing.jsonl: no such file") && missing.contains("a folder, expected a file"),
        "{missing}"
    );
}

#[test]
fn sizes_of_records_and_decompressed_files_are_limited() {
    let files = Files::new();
    let large = format!("{{\"text\": \"{}\"}}\n{{\"text\": \"b\"}}\n", "a".repeat(17 << 20));
    let message = files.read("large.jsonl", &large, Kind::Text).unwrap_err();
    assert_eq!(message, "large.jsonl:1: a record of more than 16 MB, expected at most that");
    let skipped = read(&[files.write("large.jsonl.gz", gz(large.as_bytes()))], Kind::Text, BadRows::Skip).unwrap();
    assert_eq!((skipped.records.len(), skipped.skipped.len()), (1, 1));
    let document = files.read("large.txt", "a".repeat(17 << 20), Kind::Text).unwrap_err();
    assert!(document.starts_with("large.txt: a document of more than 16 MB"), "{document}");
    // A decompression bomb of blank lines, which no record contains.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    let blank = vec![b'\n'; 1 << 20];
    for _ in 0..300 {
        bomb.write_all(&blank).unwrap();
    }
    let message = files.read("bomb.jsonl.gz", bomb.finish().unwrap(), Kind::Text).unwrap_err();
    assert!(message.starts_with("bomb.jsonl.gz: decompresses to more than 256 MB"), "{message}");
}

#[test]
fn bad_rows_are_all_reported_or_skipped_and_counted() {
    let files = Files::new();
    let file = files.write("rows.jsonl", "{\"text\": \"a\"}\n{}\n{\"text\": 3}\nx\n{\"text\": \"b\"}\n");
    let message = files.message(&read(std::slice::from_ref(&file), Kind::Text, BadRows::Error).unwrap_err());
    assert_eq!(
        message.lines().map(|line| &line[..13]).collect::<Vec<_>>(),
        ["rows.jsonl:2:", "rows.jsonl:3:", "rows.jsonl:4:"]
    );
    let rows = read(&[file], Kind::Text, BadRows::Skip).unwrap();
    assert_eq!(rows.records.iter().map(|(location, _)| location.index).collect::<Vec<_>>(), [0, 4]);
    assert_eq!(rows.skipped.len(), 3);
    assert!(rows.skipped[1].location.ends_with("rows.jsonl:3"));
    let all_bad = files.write("bad.jsonl", "{\"text\": 1}\n".repeat(100));
    let message = files.message(&read(std::slice::from_ref(&all_bad), Kind::Text, BadRows::Error).unwrap_err());
    let more = "; the same in 99 more rows: bad.jsonl:2, bad.jsonl:3, bad.jsonl:4, …";
    assert!(message.lines().count() == 1 && message.ends_with(more), "{message}");
    let message = files.message(&read(&[all_bad], Kind::Text, BadRows::Skip).unwrap_err());
    assert!(message.starts_with("bad.jsonl: every row is bad"), "{message}");
}

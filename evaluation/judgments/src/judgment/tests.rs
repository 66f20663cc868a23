//! Reading items and judgments.

use std::fs;

use super::*;

const ITEM: &str = r#"{"id": "a", "prompt": "Hi", "responses": ["x", "y", "x"], "models": ["m", "n", "o"]}"#;

fn folder(items: &str, judgments: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(ITEMS), items).unwrap();
    fs::write(folder.path().join(JUDGMENTS), judgments).unwrap();
    folder
}

#[test]
fn ranks_have_no_gaps() {
    assert_eq!(dense(&[1, 2, 2, 4]), [1, 2, 2, 3]);
    assert_eq!(ranks_of_scores(&[6.0, 3.0, 3.0, 7.0]), [2, 3, 3, 1]);
}

#[test]
fn identical_responses_are_shown_once() {
    let item = crate::item::parse_item(ITEM.as_bytes()).unwrap();
    assert_eq!(item.first_of_same_text(), [0, 1, 0]);
    assert_eq!(item.distinct(), [0, 1]);
    assert_eq!(item.index_of_model("n"), Some(1));
}

#[test]
fn an_id_is_a_hash_of_prompt_and_responses() {
    let items =
        "{\"prompt\": \"Hi\", \"responses\": [\"x\", \"y\"]}\n{\"prompt\": \"Hi\", \"responses\": [\"y\", \"x\"]}\n";
    let labels = Labels::read(folder(items, "").path()).unwrap();
    assert_eq!(labels.items[0].id.len(), 16);
    assert_ne!(labels.items[0].id, labels.items[1].id);
}

#[test]
fn a_later_line_replaces_and_a_torn_one_is_dropped() {
    let line = |ranks: &str| {
        format!(r#"{{"item":"a","annotator":"ann","ask":"rank","order":[1,0],"ranks":{ranks},"seconds":1.5}}"#)
    };
    let text = format!("{}\n{}\n{{\"item\":\"a\",\"annot", line("[1,2,1]"), line("[2,1,2]"));
    let labels = Labels::read(folder(ITEM, &text).path()).unwrap();
    assert_eq!(labels.read.judgments.len(), 1);
    assert_eq!(labels.read.judgments[0].ranks(), Some(vec![2, 1, 2]));
    assert_eq!((labels.read.replaced, labels.read.torn_bytes), (1, 18));
    assert_eq!(&text.as_bytes()[..labels.read.complete_bytes as usize].last(), &Some(&b'\n'));
    // The same without a line break, but whole.
    let labels = Labels::read(folder(ITEM, &line("[1,2,1]")).path()).unwrap();
    assert!(labels.read.lacks_line_break && labels.read.torn_bytes == 0);
}

#[test]
fn a_written_judgment_is_read_back() {
    let text = r#"{"item":"a","annotator":"ann","ask":"score","order":[1,0],"scores":[6,3,6],"flags":[[],["unsafe"],[]],"seconds":41.2,"time":"2026-01-01T00:00:00Z","seed":3}"#;
    let judgment: Judgment = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&judgment).unwrap(), text);
}

#[test]
fn bad_lines_are_all_named() {
    let bad = [
        r#"{"item":"b","annotator":"ann","ask":"rank","ranks":[1,2,3]}"#,
        r#"{"item":"a","annotator":"ann","ask":"rank","ranks":[1,2]}"#,
        r#"{"item":"a","annotator":"ann","ask":"score","ranks":[1,2,3]}"#,
        r#"{"item":"a","annotator":"ann","ask":"rank","ranks":[1,2,3],"order":[0,0,1]}"#,
        "not json",
    ];
    let error = Labels::read(folder(ITEM, &(bad.join("\n") + "\n")).path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.contains("the item b is not in items.jsonl"), "{text}");
    let two_bad = "{\"prompt\": \"Hi\", \"responses\": [\"x\"]}\n{\"prompt\": \"Hi\", \"responses\": [\"x\", \"y\"], \"models\": [\"m\", \"m\"]}\n";
    let text = Labels::read(folder(two_bad, "").path()).unwrap_err().to_string();
    assert!(text.contains("expected 2 to 9") && text.contains("names m twice"), "{text}");
}

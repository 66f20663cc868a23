//! Table 6. Expected scores follow from the rules of QwenLM/Qwen's eval/evaluate_plugin.py.

use std::fs;
use std::path::PathBuf;

use align_tools::selection::{NegativeCounts, PositiveCounts, RowKind, is_false_positive, read, score};

fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

#[test]
fn tool_and_input_are_scored_apart() {
    let golden = "Thought: a\nAction: find\nAction Input: {\"b\": 1, \"a\": \"x y\"}\nObservation: o\nThought: b\nFinal Answer: c";
    let of = |response: &str| score(golden, response, &words);
    let exact = of("Thought: z\nAction:  FIND \nAction Input: {'a': 'x y', 'b': 1,}\nObservation: other");
    assert!(exact.calls && exact.is_selected && exact.input_parses);
    assert_eq!(exact.input_rouge_l, 1.0);
    // Another tool. Of `{"a": "x y", "b": 1}` and `{"a": "x y z", "b": 2}` three words of five and of six are
    // in both: `{"a":`, `"x` and `"b":`.
    let other = of("Thought: z\nAction: look\nAction Input: {'a': 'x y z', 'b': 2}");
    assert!(!other.is_selected);
    assert_eq!(other.input_rouge_l, 2.0 * (3.0 / 6.0) * (3.0 / 5.0) / (3.0 / 6.0 + 3.0 / 5.0));
    // No call: nothing is selected; `\nAction: ` with a space is what counts.
    let none = of("Thought: a\nFinal Answer: find");
    assert!(!none.calls && !none.is_selected && none.input_rouge_l == 0.0);
    assert!(!of("Thought: a\nAction:find\nAction Input: {}").calls);
    // An input that does not parse scores 0, and so does an empty response.
    let broken = of("Thought: a\nAction: find\nAction Input: b = 1\n");
    assert!(broken.is_selected && !broken.input_parses && broken.input_rouge_l == 0.0);
    assert_eq!(of("").input_rouge_l, 0.0);
    // Without `Action Input:` the tool's name reaches to the end.
    assert!(!of("Thought: a\nAction: find\nand more").is_selected);
    assert!(of("Thought: a\nAction: find").is_selected);
    for hostile in
        ["Action Input:", "Observation:Action:", "é", "\u{0}", "Action: \u{1f389}Action Input:\u{1f389}Observation:"]
    {
        of(hostile);
    }

    let mut counts = PositiveCounts::default();
    assert_eq!(counts.rouge_l(), None);
    [exact, other, none, broken].iter().for_each(|scored| counts.add(scored));
    assert_eq!((counts.rows, counts.calls, counts.selected, counts.inputs_parsed), (4, 3, 2, 2));
    assert_eq!(counts.rouge_l(), Some((1.0 + other.input_rouge_l) / 4.0));
}

#[test]
fn a_call_where_none_is_needed_is_a_false_positive() {
    let responses = ["Thought: a\nAction: find\nAction Input: {}", "Thought: a\nFinal Answer: b", "Action: find"];
    assert_eq!(responses.map(is_false_positive), [true, false, false]);
    let mut counts = NegativeCounts::default();
    responses.iter().for_each(|response| counts.add(response));
    assert_eq!((counts.rows, counts.false_positives), (3, 1));
}

#[test]
fn bad_rows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let good = "{\"prompt\": \"p\", \"response\": \"Thought: a\\nAction: x\\nAction Input: {}\", \"id\": 5}\n";
    let rows = read(&[file("good.jsonl", good)], RowKind::Positive).unwrap();
    assert_eq!((rows[0].prompt.as_str(), rows.len()), ("p", 1));
    assert!(rows[0].location.ends_with("good.jsonl:1"), "{}", rows[0].location);
    let bad = file(
        "bad.jsonl",
        &format!(
            "{good}{{\"prompt\": \"p\"}}\nnot json\n{{\"prompt\": \"p\", \"response\": \"b\"}}\n{{\"prompt\": \" \", \"response\": \"b\"}}\n"
        ),
    );
    let what = read(&[bad, file("empty.jsonl", "")], RowKind::Positive).unwrap_err().to_string();
    for part in [
        "bad.jsonl:2: no `response`",
        "bad.jsonl:3: ",
        "bad.jsonl:4: `response` has no call",
        "bad.jsonl:5: `prompt` is empty",
    ] {
        assert!(what.contains(part), "{part}: {what}");
    }
    let what = read(&[file("negative.jsonl", good)], RowKind::Negative).unwrap_err().to_string();
    assert!(what.contains("negative.jsonl:1: `response` has a call, expected none"), "{what}");
    assert!(read(&[file("none.jsonl", "\n")], RowKind::Negative).is_err());
}

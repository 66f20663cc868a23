//! `align compare` and `align label export`: what they print, write and refuse.

use serde_json::{Value, json};

use crate::util::Folder;

/// Four items of three models, each ranked by two people, and by a program.
fn labelled() -> Folder {
    let folder = Folder::new();
    let comparisons = folder.rows("data/heldout-comparisons.jsonl");
    let item = |index: usize| {
        let row = &comparisons[index];
        let responses = [row["chosen"].clone(), row["rejected"].clone(), json!(format!("response {index}"))];
        let category = if index < 2 { "math" } else { "<b>chat" };
        json!({ "id": index.to_string(), "prompt": row["prompt"], "responses": responses,
                "models": ["ppo", "sft", "base"], "category": category })
    };
    let judgment = |item: usize, annotator: &str, ranks: [u32; 3]| {
        json!({ "item": item.to_string(), "annotator": annotator, "ask": "rank", "order": [0, 1, 2],
                "ranks": ranks, "seconds": 20, "time": "2026-01-01T00:00:00Z" })
    };
    folder.write_rows("labels/items.jsonl", &(0..4).map(item).collect::<Vec<_>>());
    let of_item = |index: usize| {
        let bob = if index == 3 { [3, 2, 1] } else { [1, 2, 2] };
        [judgment(index, "ann", [1, 2, 3]), judgment(index, "bob", bob), judgment(index, "judge:rm", [2, 1, 3])]
    };
    folder.write_rows("labels/judgments.jsonl", &(0..4).flat_map(of_item).collect::<Vec<_>>());
    folder
}

#[test]
fn models_are_compared_with_the_baseline() {
    let folder = labelled();
    let compare = ["compare", "labels", "--baseline", "sft"];
    let shown = folder.succeed(&[&compare[..], &["--figure", "figure.svg", "--html", "page.html"]].concat()).stdout;
    // ppo beats sft in every verdict but bob's on the last item; base loses to it or ties, and wins there.
    assert!(shown.contains("Against sft, by people") && shown.contains("87.5 %"), "{shown}");
    assert!(shown.contains("Only 4 items are judged"), "{shown}");
    assert!(folder.read("figure.svg").starts_with("<svg"));
    let page = folder.read("page.html");
    assert!(page.contains("&lt;b&gt;chat") && !page.contains("<b>chat") && page.contains("<svg"));

    folder.succeed(&[&compare[..], &["--figure", "figure.png"]].concat());
    assert!(std::fs::read(folder.join("figure.png")).unwrap().starts_with(b"\x89PNG"));

    let json_of = |more: &[&str]| -> Value {
        let output = folder.succeed(&[&compare[..], &["--json"], more].concat());
        serde_json::from_str(&output.stdout).unwrap()
    };
    let found = json_of(&[]);
    assert_eq!(found["models"][0]["model"], "ppo");
    assert_eq!(found["models"][0]["outcome"]["win"], 0.875);
    assert_eq!((&found["judgments"], &found["groups"][1]["group"]), (&json!(8), &json!("judge:rm")));
    assert_eq!(found, json_of(&[]), "the same draws");
    assert_eq!(json_of(&["--judges"])["models"][0]["outcome"]["loss"], 1.0);
    assert_eq!(json_of(&["--majority"])["models"][0]["outcome"]["verdicts"], 4);
}

#[test]
fn mistakes_in_comparisons_are_all_named() {
    let folder = labelled();
    let refused = |args: &[&str]| {
        let output = folder.align(args);
        assert_eq!(output.code, Some(2), "{output}");
        output.stderr
    };
    let unknown = refused(&["compare", "labels", "--baseline", "gpt"]);
    assert!(unknown.contains("expected one of: base, ppo, sft"), "{unknown}");
    let bad = r#"{"item":"0","annotator":"ann","ask":"rank","ranks":[1,2]}"#;
    folder.write("labels/judgments.jsonl", format!("{bad}\n"));
    let both = refused(&["compare", "labels", "--baseline", "sft", "--figure", "figure.pdf"]);
    assert!(both.contains("expected .svg or .png") && both.contains("judgments.jsonl:1"), "{both}");
    let missing = refused(&["compare", "nowhere", "--baseline", "sft"]);
    assert!(missing.contains("nowhere/items.jsonl"), "{missing}");
}

#[test]
fn exported_judgments_are_read_by_the_reward_model() {
    let folder = labelled();
    for (shape, file) in [("lists", "lists.jsonl"), ("pairs", "pairs.jsonl")] {
        let shown = folder.succeed(&["label", "export", "labels", "--as", shape, "--out", file]).stdout;
        assert!(shown.contains("4 judged items"), "{shown}");
        folder.succeed(&["eval", "rm", "--model", "reward", "--data", file]);
    }
    assert_eq!(folder.rows("lists.jsonl")[0]["scores"], json!([[3, 3], [2, 2], [1, 2]]));
    let refused = folder.align(&["label", "export", "labels", "--out", "x.jsonl", "--min-agree", "2"]);
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("--as pairs"), "{refused}");
}

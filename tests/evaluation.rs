//! `eval rm` as a judgement: what it says of planted faults, and its page.

use serde_json::{Value, json};

use crate::util::Folder;

const RM: [&str; 5] = ["eval", "rm", "--model", "reward", "--data"];

fn pair(index: usize, chosen: &str, rejected: &str) -> Value {
    json!({ "prompt": format!("What is {index} plus 1?"), "chosen": chosen, "rejected": rejected })
}

fn evaluation(folder: &Folder, file: &str) -> Value {
    folder.succeed(&[&RM[..], &[file, "--json"]].concat()).json()["models"][0]["sets"][0].clone()
}

fn verdict(set: &Value) -> String {
    set["verdict"].as_array().unwrap().iter().map(|sentence| sentence.as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn a_set_in_which_the_longer_answer_always_wins_is_called_out() {
    let folder = Folder::new();
    let rows: Vec<Value> =
        (0..60).map(|index| pair(index, "It is so, and there is more to say of it.", "No.")).collect();
    folder.write_rows("long.jsonl", &rows);
    let set = evaluation(&folder, "long.jsonl");
    assert_eq!(set["longer_wins"]["accuracy"], json!(1.0), "{set}");
    assert!(
        verdict(&set).contains("length bias: the rule \"the longer answer is better\" is right in 100.0 %"),
        "{set}"
    );
    let said = folder.succeed(&[&RM[..], &["long.jsonl"]].concat());
    assert!(said.stdout.contains("length bias") && said.stdout.contains("the longer answer wins"), "{said}");
}

#[test]
fn pairs_that_were_trained_on_are_counted() {
    let folder = Folder::new();
    let (trained, new) = (folder.rows("data/rm.jsonl"), folder.rows("data/heldout-comparisons.jsonl"));
    let mut turned = trained[7].clone();
    (turned["chosen"], turned["rejected"]) = (trained[7]["rejected"].clone(), trained[7]["chosen"].clone());
    let planted = [trained[3].clone(), trained[100].clone(), turned];
    folder.write_rows("mixed.jsonl", &[&new[..], &planted].concat());
    let distinct = |rows: &[Value]| rows.iter().filter(|row| trained.contains(row)).count();
    assert_eq!(distinct(&new), 0, "the held-out rows are new");
    let set = evaluation(&folder, "mixed.jsonl");
    assert_eq!((&set["pairs"], &set["seen_in_training"]), (&json!(15), &json!(3)), "{set}");
    assert!(verdict(&set).contains("training overlap: 3 of 15 pairs"), "{set}");
    assert_eq!(evaluation(&folder, "data/heldout-comparisons.jsonl")["seen_in_training"], json!(0));

    // A model that comes from a reward model has seen the pairs of both trainings.
    folder.write_rows("more.jsonl", &new[..4]);
    let sets =
        ["stage='finetune'", "model.path='reward'", "data.train='more.jsonl'", "train.steps=1", "run.out='runs/more'"];
    let flags: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    folder.succeed(&[&["rm", "--config", "rm.toml"], &flags[..]].concat());
    let args = ["eval", "rm", "--model", "runs/more/model", "--data", "mixed.jsonl", "--json"];
    assert_eq!(folder.succeed(&args).json()["models"][0]["sets"][0]["seen_in_training"], json!(7));
}

#[test]
fn the_page_stands_alone_and_escapes_what_it_shows() {
    let folder = Folder::new();
    let markup = "<script>alert(1)</script><img src=x onerror=alert(2)>";
    let rows: Vec<Value> =
        (0..8).flat_map(|index| [pair(index, markup, "It is so."), pair(index + 8, "It is so.", markup)]).collect();
    folder.write_rows("rows<b>.jsonl", &rows);
    let args =
        [&RM[..], &["rows<b>.jsonl", "data/heldout-comparisons.jsonl", "--html", "page.html", "--json"]].concat();
    let sets = folder.succeed(&args).json();
    let page = folder.read("page.html");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;"), "the text is shown");
    for raw in ["<script", "<img", "<b>.jsonl", "src=\"http", "href=", "@import", "url("] {
        assert!(!page.contains(raw), "{raw}");
    }
    assert_eq!(page.matches("<svg").count(), 8, "four plots a set");
    let accuracy = sets["models"][0]["sets"][1]["accuracy"].as_f64().unwrap();
    assert!(page.contains(&format!("<b>{:.1} %</b>", 100.0 * accuracy)), "{accuracy}");

    // A bad row is reported once, although two models read it.
    folder.write("bad.jsonl", "{}\n");
    folder.refuse(&[&RM[..], &["bad.jsonl", "--model", "reward"]].concat(), &[&["bad.jsonl:1: ", "comparison row"]]);

    folder.write_rows("own.jsonl", &rows);
    folder.refuse(
        &[&RM[..], &["own.jsonl", "--html", "own.jsonl"]].concat(),
        &[&["own.jsonl: ", "--data", "expected another file"]],
    );
}

/// Ratings of several people make pairs; a row on which they come out even makes none. Line breaks between
/// the rows of a file and at its end change no score.
#[test]
fn ratings_of_several_people_and_line_breaks_in_the_data() {
    let folder = Folder::new();
    let prompt = "What is the capital of France?";
    let rated =
        |scores: Value| json!({ "prompt": prompt, "responses": ["Paris.", "Rome.", "It rains."], "scores": scores });
    let rows =
        [rated(json!([[5, 4], [1, null], [0, 2, 1]])), rated(json!([2, [1, 3], [2, 2]])), rated(json!([3, 1, 2]))];
    folder.write_rows("rated.jsonl", &rows);
    let args = [&RM[..], &["rated.jsonl", "--json", "--per-row", "rated.scores"]].concat();
    let set = folder.succeed(&args).json()["models"][0]["sets"][0].clone();
    assert_eq!((&set["pairs"], &set["tied_rows"]), (&json!(5), &json!(1)), "{set}");
    let pairs: Vec<Value> = folder.rows("rated.scores").iter().map(|row| json!([row["index"], row["pair"]])).collect();
    assert_eq!(json!(pairs), json!([[0, [0, 1]], [0, [0, 2]], [2, [0, 1]], [2, [0, 2]], [2, [2, 1]]]));
    assert!(folder.succeed(&[&RM[..], &["rated.jsonl"]].concat()).stdout.contains("1 rows left out"));

    let scores = |file: &str| {
        folder.succeed(&[&RM[..], &[file, "--per-row", "out.scores"]].concat());
        let of = |row: &Value| [row["chosen_score"].clone(), row["rejected_score"].clone()];
        folder.rows("out.scores").iter().map(of).collect::<Vec<_>>()
    };
    folder.write_rows("plain.jsonl", &[pair(1, "Two.", "It rains."), pair(2, "Three, I think.", "No.")]);
    let plain = folder.read("plain.jsonl");
    folder.write("broken.jsonl", plain.replace('\n', "\n\n") + "\n\n");
    folder.write("unended.jsonl", plain.trim_end());
    assert_eq!(scores("unended.jsonl"), scores("plain.jsonl"));
    assert_eq!(scores("broken.jsonl"), scores("plain.jsonl"));
}

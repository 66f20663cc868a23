//! `align score`: the scores of `eval rm`, the best of several, and what is refused.

use std::fs::File;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::util::Folder;

const SCORE: [&str; 5] = ["score", "--model", "reward", "--out", "scores.jsonl"];

/// Comparisons with each of their responses alone, both in a list, and the chosen one as a dialogue.
fn rows_of_all_shapes(comparisons: &[Value]) -> Vec<Value> {
    let shapes = |row: &Value| {
        let (prompt, chosen, rejected) = (&row["prompt"], &row["chosen"], &row["rejected"]);
        [
            json!({ "prompt": prompt, "response": chosen }),
            json!({ "prompt": prompt, "response": rejected }),
            json!({ "prompt": prompt, "responses": [chosen, rejected] }),
            json!({ "messages": [{ "role": "user", "content": prompt }, { "role": "assistant", "content": chosen }] }),
        ]
    };
    comparisons.iter().flat_map(shapes).collect()
}

fn score(folder: &Folder, file: &str, more: &[&str]) -> Vec<Value> {
    let output = folder.succeed(&[&SCORE, &["--data", file][..], more].concat());
    let reported = output.stderr.lines().all(|line| line.starts_with("warning: "));
    assert!(output.stdout.is_empty() && reported, "{output}");
    folder.rows("scores.jsonl")
}

#[track_caller]
fn assert_close(one: &Value, other: &Value) {
    let difference = one.as_f64().unwrap() - other.as_f64().unwrap();
    assert!(difference.abs() < 1e-5, "{one} and {other}");
}

#[test]
fn scores_are_those_of_eval_rm() {
    let folder = Folder::new();
    let file = "data/heldout-comparisons.jsonl";
    let comparisons = folder.rows(file);
    folder.write_rows("all.jsonl", &rows_of_all_shapes(&comparisons));
    let mut of_system = Vec::new();
    for system in [&[][..], &["--system", "Be brief."]] {
        folder.succeed(
            &[&["eval", "rm", "--model", "reward", "--data", file, "--per-row", "eval.jsonl"], system].concat(),
        );
        let scores = score(&folder, "all.jsonl", system);
        let expected = folder.rows("eval.jsonl");
        assert_eq!((scores.len(), expected.len()), (4 * comparisons.len(), comparisons.len()));
        for ((scores, expected), row) in scores.chunks(4).zip(&expected).zip(&comparisons) {
            let [chosen, rejected] = ["chosen_score", "rejected_score"].map(|key| &expected[key]);
            assert_close(&scores[0]["score"], chosen);
            assert_close(&scores[1]["score"], rejected);
            assert_close(&scores[2]["scores"][0], chosen);
            assert_close(&scores[2]["scores"][1], rejected);
            assert_close(&scores[3]["score"], chosen);
            let best = usize::from(scores[2]["scores"][1].as_f64() > scores[2]["scores"][0].as_f64());
            assert_eq!(scores[2]["best"], json!(best));
            assert_eq!(scores[2]["best_response"], row[["chosen", "rejected"][best]]);
        }
        let indices: Vec<u64> = scores.iter().map(|row| row["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..scores.len() as u64).collect::<Vec<_>>());
        let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&scores[0]), ["index", "score"]);
        assert_eq!(keys(&scores[2]), ["index", "scores", "best", "best_response"]);
        of_system.push(scores[0]["score"].as_f64().unwrap());
    }
    assert!((of_system[0] - of_system[1]).abs() > 1e-4, "the system text changes nothing: {of_system:?}");
}

/// More responses than are computed at once share their prompt piece by piece; equals go to the first.
#[test]
fn many_responses_score_as_each_alone() {
    let folder = Folder::new();
    let words = ["Paris", "is", "the", "capital", "of", "France", "and", "it", "rains", "there", "often"];
    let answer =
        |k: usize| (0..400).map(|word| words[(word * (k + 1) + k) % words.len()]).collect::<Vec<_>>().join(" ");
    let mut answers: Vec<String> = (0..12).map(answer).collect();
    answers.push(answers[3].clone());
    let prompt = json!([{ "role": "user", "content": answer(5) }]);
    let mut rows = vec![json!({ "prompt": prompt, "responses": answers })];
    rows.extend(answers.iter().map(|answer| json!({ "prompt": prompt, "response": answer })));
    folder.write_rows("rows.jsonl", &rows);
    let scores = score(&folder, "rows.jsonl", &[]);
    let together: Vec<f64> = scores[0]["scores"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    assert_eq!(together.len(), 13);
    for (k, alone) in scores[1..].iter().enumerate() {
        assert_close(&alone["score"], &json!(together[k]));
    }
    let highest = together.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(scores[0]["best"], json!(together.iter().position(|score| *score == highest).unwrap()));

    // Two responses that are the same text have the same score: the first is the best.
    folder.write_rows("same.jsonl", &[json!({ "prompt": "What is two and two?", "responses": ["Four.", "Four."] })]);
    let same = score(&folder, "same.jsonl", &[]);
    assert_eq!(same[0]["scores"][0], same[0]["scores"][1]);
    assert_eq!(same[0]["best"], json!(0));
}

#[test]
fn standard_input_and_output() {
    let folder = Folder::new();
    let prompts = folder.rows("data/heldout-comparisons.jsonl");
    folder.write_rows("rows.jsonl", &rows_of_all_shapes(&prompts[..2]));
    let expected = score(&folder, "rows.jsonl", &[]);
    let args = ["score", "--model", "reward", "--data", "-", "--out", "-"];
    let output = folder.align_with_input(&args, Stdio::from(File::open(folder.join("rows.jsonl")).unwrap()));
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output}");
    let lines: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, expected);
    assert!(!folder.join("-").exists() && !folder.join("-.partial").exists());

    folder.write("bad.jsonl", "{\"prompt\": \"q\", \"response\": \"a\"}\n{\"prompt\": \"q\"}\n");
    let output = folder.align_with_input(&args, Stdio::from(File::open(folder.join("bad.jsonl")).unwrap()));
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
    assert!(output.stderr.starts_with("align: /dev/stdin:2: a row with `prompt`, expected a response row"), "{output}");
}

#[test]
fn what_is_generated_can_be_scored() {
    let folder = Folder::new();
    let prompts = "data/heldout-prompts.jsonl";
    let args = ["generate", "--model", "policy", "--prompts", prompts, "--out", "said.jsonl", "--max-tokens", "16"];
    folder.succeed(&args);
    let said = folder.rows("said.jsonl").into_iter().filter(|row| !row["response"].as_str().unwrap().trim().is_empty());
    let said: Vec<Value> = said.collect();
    folder.write_rows("said.jsonl", &said);
    assert_eq!(score(&folder, "said.jsonl", &[]).len(), said.len());
}

#[test]
fn refusals() {
    let folder = Folder::new();
    let refuse = |file: &str, expected: &[&[&str]]| {
        folder.refuse(&[&SCORE[..], &["--data", file]].concat(), expected);
        assert!(!folder.join("scores.jsonl").exists() && !folder.join("scores.jsonl.partial").exists());
    };
    refuse("none.jsonl", &[&["none.jsonl: ", "no such file"]]);
    folder.write("empty.jsonl", "");
    refuse("empty.jsonl", &[&["empty.jsonl: ", "an empty file, expected response rows"]]);
    let rows = [
        "{\"prompt\": \"q\", \"response\": \"a\"}",
        "{\"prompt\": \"q\", \"response\": \"\"}",
        "not JSON",
        "{\"prompt\": \"q\", \"responses\": []}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}",
    ];
    folder.write("bad.jsonl", rows.join("\n"));
    let expected: [&[&str]; 4] = [
        &["bad.jsonl:2: ", "`response` is empty, expected an answer"],
        &["bad.jsonl:3: ", "not JSON"],
        &["bad.jsonl:4: ", "`responses` is empty, expected at least one answer"],
        &["bad.jsonl:5: ", "`messages` ends with a turn of role `user`, expected an answer"],
    ];
    refuse("bad.jsonl", &expected);

    folder.write("good.jsonl", rows[0]);
    let score = |model, out| ["score", "--model", model, "--data", "good.jsonl", "--out", out];
    folder.refuse(&score("reward", "./good.jsonl"), &[&["./good.jsonl: ", "--data", "expected another file"]]);
    folder.refuse(&score("reward", "none/scores.jsonl"), &[&["none/scores.jsonl: ", "expected a writable file"]]);
    folder.refuse(&score("base", "scores.jsonl"), &[&["base: ", "holds a language model, expected a reward model"]]);
    // Everything is said at once.
    let none = ["score", "--model", "base", "--data", "bad.jsonl", "--out", "scores.jsonl"];
    let base: &[&str] = &["base: "];
    folder.refuse(&none, &[&[base], &expected[..]].concat());

    folder.copy("reward", "value");
    let mut contract: Value = serde_json::from_str(&folder.read("value/align.json")).unwrap();
    contract["value_shift"] = json!(0.5);
    folder.write("value/align.json", contract.to_string());
    folder.refuse(&score("value", "scores.jsonl"), &[&["value: ", "holds a value model, expected a reward model"]]);
}

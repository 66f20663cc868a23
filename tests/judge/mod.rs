//! `align judge`: a reward model, a chat model and a service as annotators, and what `align compare` makes of
//! their judgments.

mod endpoint;
mod stub;

use align_judgments::judge::question::{AnswerForm, question};
use align_judgments::read_items;
use serde_json::{Value, json};

use crate::docs::assert_flags_are_documented;
use crate::util::Folder;

/// Items with three responses, of which one has two that are identical, and one has nothing else.
fn items(folder: &Folder) -> Vec<Value> {
    let rows = folder.rows("data/heldout-comparisons.jsonl");
    let item = |(index, row): (usize, &Value)| {
        let (chosen, rejected) = (&row["chosen"], &row["rejected"]);
        let responses = match index {
            0 => json!([chosen, rejected, chosen]),
            1 => json!([chosen, chosen, chosen]),
            _ => json!([chosen, rejected, format!("response {index}")]),
        };
        json!({ "id": index.to_string(), "prompt": row["prompt"], "responses": responses,
                "models": ["ppo", "sft", "base"] })
    };
    let items: Vec<Value> = rows.iter().enumerate().map(item).collect();
    folder.write_rows("items.jsonl", &items);
    items
}

/// The same with the first two responses alone, without those that are identical.
fn pairs(folder: &Folder) -> Vec<Value> {
    let mut items = items(folder);
    items.remove(1);
    for item in &mut items {
        for key in ["responses", "models"] {
            item[key].as_array_mut().unwrap().truncate(2);
        }
    }
    folder.write_rows("pairs.jsonl", &items);
    items
}

fn judgments(folder: &Folder, labels: &str) -> Vec<Value> {
    folder.rows(&format!("{labels}/judgments.jsonl"))
}

/// (K) Numbers of a judgment.
fn numbers(judgment: &Value, key: &str) -> Vec<f64> {
    judgment[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key}: {judgment}"))
        .iter()
        .map(|n| n.as_f64().unwrap())
        .collect()
}

const RM: [&str; 6] = ["judge", "--rm", "reward", "--out", "labels", "--items"];
const CHAT: [&str; 6] = ["judge", "--judge", "policy", "--out", "labels", "--items"];

#[test]
fn a_reward_model_ranks_by_the_scores_of_align_score() {
    let folder = Folder::new();
    let items = items(&folder);
    let shown = folder.succeed(&[&RM[..], &["items.jsonl"]].concat());
    assert!(shown.stdout.contains("judge:reward: 11 of 12 items judged, 1 with identical responses"), "{shown}");
    folder.succeed(&["score", "--model", "reward", "--data", "items.jsonl", "--out", "scores.jsonl"]);
    let scores = folder.rows("scores.jsonl");
    let found = judgments(&folder, "labels");
    assert_eq!(found.len(), items.len() - 1);
    for judgment in &found {
        let index: usize = judgment["item"].as_str().unwrap().parse().unwrap();
        assert_ne!(index, 1, "identical responses are not judged");
        let (expected, rewards) = (numbers(&scores[index], "scores"), numbers(judgment, "rewards"));
        for (reward, score) in rewards.iter().zip(&expected) {
            assert!((reward - score).abs() < 1e-5, "{judgment} {expected:?}");
        }
        // The rank of a response is 1 and the number of different rewards above its own.
        let ranks: Vec<f64> = rewards
            .iter()
            .map(|own| {
                let mut above: Vec<f64> = rewards.iter().copied().filter(|other| other > own).collect();
                above.sort_by(f64::total_cmp);
                above.dedup();
                1.0 + above.len() as f64
            })
            .collect();
        assert_eq!(numbers(judgment, "ranks"), ranks, "{judgment}");
        assert_eq!((&judgment["annotator"], &judgment["ask"]), (&json!("judge:reward"), &json!("rank")));
    }
    // Again: nothing is left to do, and nothing is written.
    let before = folder.read("labels/judgments.jsonl");
    folder.succeed(&["judge", "--rm", "reward", "--out", "labels"]);
    assert_eq!(folder.read("labels/judgments.jsonl"), before);
}

#[test]
fn compare_has_the_soft_wins_of_rewards_and_keeps_judges_apart() {
    let folder = Folder::new();
    pairs(&folder);
    folder.succeed(&[&RM[..], &["pairs.jsonl", "--name", "by-rm"]].concat());
    let compare =
        |more: &[&str]| folder.succeed(&[&["compare", "labels", "--baseline", "sft", "--json"], more].concat());
    let found = compare(&["--judges"]).json();
    // The mean of 1/(1 + e^(r' - r)) over items.
    let given = judgments(&folder, "labels");
    let soft = |judgment: &Value| {
        let rewards = numbers(judgment, "rewards");
        1.0 / (1.0 + (rewards[1] - rewards[0]).exp())
    };
    let expected = given.iter().map(soft).sum::<f64>() / given.len() as f64;
    let win_rate = found["models"][0]["soft"]["win_rate"].as_f64().unwrap();
    assert!((win_rate - expected).abs() < 1e-12, "{win_rate} {expected}");

    // Without --judges there are only people, of whom there are none.
    let refused = folder.align(&["compare", "labels", "--baseline", "sft"]);
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("no judgments of people") && refused.stderr.contains("--judges"), "{refused}");

    // People: ann agrees with the judge everywhere, bob on the first four items.
    let mut lines = given.clone();
    for (at, judgment) in given.iter().enumerate() {
        for (name, agrees) in [("ann", true), ("bob", at < 4)] {
            let mut ranks = numbers(judgment, "ranks");
            if !agrees {
                ranks.reverse();
            }
            let ranks: Vec<u32> = ranks.into_iter().map(|rank| rank as u32).collect();
            lines.push(json!({ "item": judgment["item"], "annotator": name, "ask": "rank", "ranks": ranks }));
        }
    }
    folder.write_rows("labels/judgments.jsonl", &lines);
    let of_people = compare(&[]).json();
    assert_eq!(of_people["judgments"], json!(2 * given.len()));
    let [people, judge] = &of_people["groups"].as_array().unwrap()[..] else { panic!("{of_people}") };
    assert_eq!((&people["group"], &judge["group"]), (&json!("people"), &json!("judge:by-rm")));
    let count = given.len() as f64;
    assert!((people["all"]["value"].as_f64().unwrap() - 4.0 / count).abs() < 1e-12, "{people}");
    assert!((judge["all"]["value"].as_f64().unwrap() - (count + 4.0) / (2.0 * count)).abs() < 1e-12, "{judge}");
}

#[test]
fn a_reward_model_is_not_independent_of_a_policy_trained_against_it() {
    let folder = Folder::new();
    items(&folder);
    folder.succeed(&["ppo", "--config", "ppo.toml", "--set", "ppo.steps=1", "--set", "ppo.value_warmup_steps=0"]);
    let related = [&RM[..], &["items.jsonl", "--policy", "ppo=runs/ppo/model", "--policy", "sft=policy"]].concat();
    let shown = folder.succeed(&related).stdout;
    let finding = "judge:reward is not independent of ppo: ppo was trained against this reward model.";
    assert!(shown.contains(finding) && !shown.contains("independent of sft"), "{shown}");
    let compared = folder.succeed(&["compare", "labels", "--judges", "--baseline", "sft"]).stdout;
    assert!(compared.contains(finding), "{compared}");
    // Another reward model is independent, as far as it is known.
    folder.copy("reward", "other");
    let mut contract: Value = serde_json::from_str(&folder.read("other/config.json")).unwrap();
    contract["note"] = json!("another one");
    folder.write("other/config.json", contract.to_string());
    let other = ["judge", "--rm", "other", "--out", "labels", "--policy", "ppo=runs/ppo"];
    let shown = folder.succeed(&other).stdout;
    assert!(!shown.contains("not independent"), "{shown}");
    // A name refers to one judge.
    folder.refuse(
        &["judge", "--rm", "other", "--out", "labels", "--name", "reward"],
        &[&["labels/judges.json", "judge:reward has judged with other values of files", "--name"]],
    );
}

#[test]
fn a_chat_model_gives_the_probabilities_of_the_letters() {
    let folder = Folder::new();
    pairs(&folder);
    let args = ["pairs.jsonl", "--context", "4096", "--system", "Be brief."];
    let shown = folder.succeed(&[&CHAT[..], &args].concat()).stdout;
    assert!(shown.contains("the same verdict in both orders"), "{shown}");

    // The same questions as dialogues whose answer is a letter: `eval lm` gives the letter's log-probability.
    let items = read_items(&folder.join("pairs.jsonl")).unwrap();
    let mut rows = Vec::new();
    for item in &items {
        for (first, second) in [(0, 1), (1, 0)] {
            for letter in ["A", "B"] {
                let text = question(item, first, second, AnswerForm::Letter);
                let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
                rows.push(json!({ "messages": [turn("user", &text), turn("assistant", letter)] }));
            }
        }
    }
    folder.write_rows("letters.jsonl", &rows);
    let eval = ["eval", "lm", "--model", "policy", "--data", "letters.jsonl", "--system", "Be brief."];
    folder.succeed(&[&eval[..], &["--per-row", "rows.jsonl"]].concat());
    let probabilities: Vec<f64> = folder
        .rows("rows.jsonl")
        .iter()
        .map(|row| {
            let first = row["logprobs"].as_array().unwrap().iter().find(|logprob| !logprob.is_null()).unwrap();
            first.as_f64().unwrap().exp()
        })
        .collect();
    let found = judgments(&folder, "labels");
    assert_eq!(found.len() * 4, probabilities.len());
    for (judgment, of_item) in found.iter().zip(probabilities.chunks(4)) {
        // In the second order the first response is B.
        let expected = [of_item[0] / (of_item[0] + of_item[1]), of_item[3] / (of_item[2] + of_item[3])];
        let pair = &judgment["both_orders"][0];
        for (order, expected) in expected.iter().enumerate() {
            let found = pair[order].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-4, "{judgment} {expected}");
        }
        let first_is_better = expected[0] + expected[1] > 1.0;
        assert_eq!(judgment["ranks"], if first_is_better { json!([1, 2]) } else { json!([2, 1]) });
    }
}

#[test]
fn several_responses_are_asked_about_in_pairs_and_a_limit_keeps_its_items() {
    let folder = Folder::new();
    items(&folder);
    let args = [&CHAT[..], &["items.jsonl", "--context", "4096", "--json", "--limit"]].concat();
    let first = folder.succeed(&[&args[..], &["4"]].concat()).json();
    assert_eq!((&first["judged"], &first["identical"]), (&json!(4), &json!(1)));
    assert!(first["letters"].as_f64().unwrap() < 1.0);
    let before = judgments(&folder, "labels");
    let second = folder.succeed(&[&args[..], &["9"]].concat()).json();
    assert_eq!(second["judged"], json!(9));
    let found = judgments(&folder, "labels");
    assert_eq!(found[..4], before[..]);
    for judgment in &found {
        let pairs = judgment["both_orders"].as_array().unwrap();
        assert_eq!(pairs.len(), 3, "{judgment}");
        // Won pairs of 0-1, 0-2 and 1-2, ties being half of one; a rank is 1 and the number of larger sums.
        let half = |pair: usize| {
            let sum = pairs[pair][0].as_f64().unwrap() + pairs[pair][1].as_f64().unwrap();
            if sum > 1.0 {
                1.0
            } else if sum < 1.0 {
                0.0
            } else {
                0.5
            }
        };
        let wins = [half(0) + half(1), 1.0 - half(0) + half(2), 2.0 - half(1) - half(2)];
        let ranks = numbers(judgment, "ranks");
        for one in 0..3 {
            for other in 0..3 {
                assert_eq!(ranks[one] < ranks[other], wins[one] > wins[other], "{judgment}");
            }
        }
    }
}

#[test]
fn items_that_are_too_long_for_a_chat_model_are_skipped() {
    let folder = Folder::new();
    pairs(&folder);
    let shown = folder.succeed(&[&CHAT[..], &["pairs.jsonl", "--context", "50"]].concat());
    assert!(shown.stdout.contains("0 of 11 items judged, 11 skipped (too long)"), "{shown}");
    assert!(shown.stderr.contains("11 items are longer than the 50 tokens"), "{shown}");
    assert!(judgments(&folder, "labels").iter().all(|judgment| judgment["skipped"] == "too long"));
}

#[test]
fn judgments_have_the_form_of_the_folder_and_interruptions_cost_nothing() {
    let folder = Folder::new();
    pairs(&folder);
    folder.write("labels/label.json", r#"{"ask":"score","scale":5,"seed":0}"#);
    folder.succeed(&[&RM[..], &["pairs.jsonl"]].concat());
    let found = judgments(&folder, "labels");
    for judgment in &found {
        // 1 + 4/(1 + e^(r' - r)).
        let (rewards, scores) = (numbers(judgment, "rewards"), numbers(judgment, "scores"));
        let expected = 1.0 + 4.0 / (1.0 + (rewards[1] - rewards[0]).exp());
        assert!((scores[0] - expected).abs() < 1e-9 && (scores[0] + scores[1] - 6.0).abs() < 1e-9, "{judgment}");
    }
    // As after kill -9 while a line was being written.
    let text = folder.read("labels/judgments.jsonl");
    let cut = text.lines().take(5).map(|line| format!("{line}\n")).collect::<String>() + "{\"item\": \"7\", \"ann";
    folder.write("labels/judgments.jsonl", cut);
    folder.succeed(&["judge", "--rm", "reward", "--out", "labels"]);
    let again = judgments(&folder, "labels");
    assert_eq!(again.len(), found.len());
    for (at, (again, found)) in again.iter().zip(&found).enumerate() {
        assert_eq!(again["item"], found["item"]);
        // What was judged before is kept; the rest is judged in other batches, which may change rounding.
        assert!(at >= 5 || again == found, "{again} {found}");
        for key in ["rewards", "scores"] {
            for (again, found) in numbers(again, key).iter().zip(numbers(found, key)) {
                assert!((again - found).abs() < 1e-5, "{key}: {again} {found}");
            }
        }
    }
}

#[test]
fn mistakes_are_refused_before_a_model_loads() {
    let folder = Folder::new();
    items(&folder);
    let refuse = |args: &[&str], expected: &[&[&str]]| {
        folder.refuse(&[&["judge", "--out", "new"], args].concat(), expected);
        assert!(!folder.join("new").exists(), "nothing is made: {args:?}");
    };
    let rm = ["--rm", "reward", "--items", "items.jsonl"];
    let chat = ["--judge", "policy", "--items", "items.jsonl"];
    refuse(&["--items", "items.jsonl"], &[&["--rm", "--judge", "--endpoint"]]);
    refuse(&["--rm", "reward"], &[&["new", "does not exist", "--items"]]);
    refuse(&[&rm[..], &["--name", "a b"]].concat(), &[&["--name", "without spaces"]]);
    refuse(&[&rm[..], &["--tie-margin", "-1"]].concat(), &[&["--tie-margin", "from 0"]]);
    refuse(
        &[&rm[..], &["--limit", "0", "--policy", "x=reward", "--policy", "ppo=nowhere"]].concat(),
        &[
            &["--limit", "at least 1"],
            &["--policy", "x is not a model of the items"],
            &["--policy", "nowhere is no folder"],
        ],
    );
    refuse(&["--rm", "policy", "--items", "items.jsonl"], &[&["policy", "expected a reward model"]]);
    refuse(&["--judge", "reward", "--items", "items.jsonl"], &[&["reward", "expected a language model"]]);
    refuse(&[&chat[..], &["--tie-margin", "1"]].concat(), &[&["--tie-margin", "--rm"]]);

    folder.write("one.jsonl", "{\"prompt\": \"Hi\", \"responses\": [\"x\"]}\n");
    refuse(&["--rm", "reward", "--items", "one.jsonl"], &[&["one.jsonl:1", "1 texts, expected 2 to 9"]]);

    let bare = folder.copy("policy", "bare");
    let path = bare.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("chat_template").expect("it has a template");
    std::fs::write(&path, config.to_string()).unwrap();
    let _ = std::fs::remove_file(bare.join("chat_template.jinja"));
    refuse(&["--judge", "bare", "--items", "items.jsonl"], &[&["bare", "has no chat template"]]);
    std::fs::remove_file(bare.join("tokenizer.json")).unwrap();
    refuse(&["--judge", "bare", "--items", "items.jsonl"], &[&["bare", "tokenizer"]]);
}

#[test]
fn a_folder_in_use_and_other_items_are_refused() {
    let folder = Folder::new();
    items(&folder);
    pairs(&folder);
    let label = ["label", "--items", "items.jsonl", "--out", "labels", "--listen", "127.0.0.1:0"];
    let mut labelling = folder.spawn(&label);
    labelling.wait_for_lines(&folder.join("spawned.stderr"), 3);
    folder.refuse(&[&RM[..], &["items.jsonl"]].concat(), &[&["labels", "in use by another process"]]);
    assert!(labelling.kill());
    folder.refuse(&[&RM[..], &["pairs.jsonl"]].concat(), &[&["labels/items.jsonl", "another --out"]]);
    // The folder's own items need no argument, and people continue afterwards.
    folder.succeed(&["judge", "--rm", "reward", "--out", "labels"]);
    let mut labelling = folder.spawn(&label);
    labelling.wait_for_lines(&folder.join("spawned.stderr"), 3);
    assert!(folder.read("spawned.stderr").contains("0 of"), "a program's judgments are not people's");
}

#[test]
fn the_page_on_judging_has_every_flag() {
    assert_flags_are_documented(&["judge"], "docs/judging.md", &["help"]);
}

//! Folders in which programs judge.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use super::*;
use crate::fixtures::item;
use crate::judges::read_judges;
use crate::judgment::{JUDGMENTS, Labels};

fn items() -> Vec<Item> {
    let mut items: Vec<Item> =
        (0..20).map(|index| item(&index.to_string(), &["m", "n"], &["one", &format!("two {index}")])).collect();
    items[7].responses[1] = "one".to_owned();
    items
}

fn judging(limit: Option<usize>, margin: f64) -> Judging {
    let record = JudgeRecord {
        kind: "rm".to_owned(),
        model: "reward".to_owned(),
        identity: BTreeMap::from([("tie_margin".to_owned(), json!(margin))]),
        not_independent: BTreeMap::new(),
    };
    Judging { annotator: annotator("rm").unwrap(), record, limit, seed: 3 }
}

fn opinion() -> Opinion {
    Opinion::Rewards { rewards: vec![1.0, 0.0], tie_margin: 0.0 }
}

#[test]
fn a_second_start_continues_and_a_higher_limit_keeps_the_first_items() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = JudgedFolder::open(folder.path(), judging(Some(5), 0.0), items()).unwrap();
    let five = first.waiting().to_vec();
    assert_eq!((five.len(), first.num_identical()), (5, 1));
    assert!(five.is_sorted() && !five.contains(&7), "{five:?}");
    five[..3].iter().for_each(|&index| first.append(index, opinion(), 0.5).unwrap());
    let busy = JudgedFolder::open(folder.path(), judging(None, 0.0), items()).unwrap_err().to_string();
    assert!(busy.contains("in use"), "{busy}");
    drop(first);
    let second = JudgedFolder::open(folder.path(), judging(Some(5), 0.0), items()).unwrap();
    assert_eq!(second.waiting(), &five[3..]);
    assert_eq!(second.own().count(), 3);
    drop(second);
    let more = JudgedFolder::open(folder.path(), judging(Some(8), 0.0), items()).unwrap();
    assert_eq!(more.waiting().len(), 5);
    assert!(five[3..].iter().all(|index| more.waiting().contains(index)));
    drop(more);
    // What was being written when the process ended is dropped.
    let path = folder.path().join(JUDGMENTS);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 9]).unwrap();
    let torn = JudgedFolder::open(folder.path(), judging(Some(5), 0.0), items()).unwrap();
    assert_eq!(torn.waiting(), &five[2..]);
}

#[test]
fn a_name_stands_for_one_judge() {
    let folder = tempfile::tempdir().unwrap();
    drop(JudgedFolder::open(folder.path(), judging(None, 0.0), items()).unwrap());
    let mut dependent = judging(None, 0.0);
    dependent.record.not_independent.insert("n".to_owned(), "because".to_owned());
    drop(JudgedFolder::open(folder.path(), dependent, items()).unwrap());
    let refused = JudgedFolder::open(folder.path(), judging(None, 0.5), items()).unwrap_err().to_string();
    assert!(refused.contains("judge:rm") && refused.contains("tie_margin") && refused.contains("--name"), "{refused}");
    // What is known stays known.
    drop(JudgedFolder::open(folder.path(), judging(None, 0.0), items()).unwrap());
    assert_eq!(read_judges(folder.path()).unwrap()["judge:rm"].not_independent["n"], "because");
    assert_eq!(Labels::read(folder.path()).unwrap().judges.len(), 1);
}

#[test]
fn judgments_have_the_form_that_the_folder_asks_for() {
    for (ask, has_ranks) in [("rank", true), ("pair", true), ("score", false)] {
        let folder = tempfile::tempdir().unwrap();
        let settings = json!({ "ask": ask, "scale": 5, "seed": 0 });
        fs::write(folder.path().join(crate::desk::SETTINGS), settings.to_string()).unwrap();
        let mut open = JudgedFolder::open(folder.path(), judging(None, 0.0), items()).unwrap();
        open.append(0, opinion(), 0.0).unwrap();
        drop(open);
        let labels = Labels::read(folder.path()).unwrap();
        let judgment = &labels.read.judgments[0];
        assert_eq!((judgment.ranks.is_some(), judgment.scores.is_some()), (has_ranks, !has_ranks));
        assert_eq!(judgment.ranks(), Some(vec![1, 2]));
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(crate::desk::SETTINGS), r#"{"ask":"pair","scale":7,"seed":0}"#).unwrap();
    let three = vec![item("a", &["m", "n", "o"], &["x", "y", "z"])];
    let refused = JudgedFolder::open(folder.path(), judging(None, 0.0), three).unwrap_err().to_string();
    assert!(refused.contains("3 responses"), "{refused}");
}

#[test]
fn names() {
    assert_eq!(annotator("rm"), Ok("judge:rm".to_owned()));
    assert_eq!(annotator("judge:rm"), Ok("judge:rm".to_owned()));
    for bad in ["", "judge:", "a b", "a\nb", "a\u{202e}b", &"x".repeat(101)] {
        assert!(annotator(bad).is_err(), "{bad:?}");
    }
}

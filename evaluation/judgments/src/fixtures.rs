//! Labels for tests.

use crate::item::{Item, Prompt};
use crate::judges::Judges;
use crate::judgment::{Ask, Judgment, Labels, ReadJudgments};

/// An item with a response per model.
pub(crate) fn item(id: &str, models: &[&str], responses: &[&str]) -> Item {
    Item {
        id: id.to_owned(),
        prompt: Prompt::Text(format!("prompt of {id}")),
        responses: responses.iter().map(|&text| text.to_owned()).collect(),
        models: Some(models.iter().map(|&name| name.to_owned()).collect()),
        category: None,
        tags: Vec::new(),
        gold: None,
    }
}

/// A judgment that ranks the responses, shown in the item's own order.
pub(crate) fn ranked(item: &str, annotator: &str, ranks: &[u32]) -> Judgment {
    Judgment {
        order: (0..ranks.len()).collect(),
        ranks: Some(ranks.to_vec()),
        seconds: 10.0,
        ..Judgment::empty(item, annotator, Ask::Rank)
    }
}

/// A judgment that scores the responses.
pub(crate) fn scored(item: &str, annotator: &str, scores: &[f64]) -> Judgment {
    let ranks = vec![1; scores.len()];
    Judgment { ask: Ask::Score, ranks: None, scores: Some(scores.to_vec()), ..ranked(item, annotator, &ranks) }
}

/// A folder with these items and judgments, which fit each other.
pub(crate) fn labels(items: Vec<Item>, judgments: Vec<Judgment>) -> Labels {
    for judgment in &judgments {
        let item = items.iter().find(|item| item.id == judgment.item).unwrap();
        assert_eq!(judgment.problems(item), Vec::<String>::new());
    }
    Labels { items, read: ReadJudgments { judgments, ..ReadJudgments::default() }, judges: Judges::new() }
}

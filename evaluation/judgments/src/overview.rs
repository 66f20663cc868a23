//! The state of a labelling folder for its owner: how far it is, and how the annotators agree.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::assignment::Task;
use crate::compare::{Annotators, alpha};
use crate::desk::Desk;
use crate::judges::Judges;
use crate::judgment::{Judgment, Labels, ReadJudgments};

/// The state of a folder. It names no models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// The number of items.
    pub items: usize,
    /// The number of judgments, at most as many of each item as wanted.
    pub judgments: usize,
    /// The number of judgments that are wanted.
    pub wanted: usize,
    /// For each number of judgments from 0 on, the number of items that have it.
    pub items_by_judgments: Vec<usize>,
    /// The number of items that are on somebody's screen.
    pub reserved: usize,
    /// The number of skipped items.
    pub skipped: usize,
    /// The median time of a judgment, in seconds.
    pub median_seconds: Option<f64>,
    /// Between annotators.
    pub agreement: Agreement,
    /// Krippendorff's α between annotators, ordinal; `None` if no two have judged the same item.
    pub alpha: Option<f64>,
    /// By name.
    pub annotators: Vec<AnnotatorOverview>,
    /// The items that were skipped, with the reasons.
    pub skips: Vec<Skip>,
}

/// What an annotator did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnotatorOverview {
    /// The name.
    pub name: String,
    /// The number of judgments, without repeated ones.
    pub judgments: usize,
    /// The number of skipped items.
    pub skipped: usize,
    /// The median time of a judgment, in seconds.
    pub median_seconds: Option<f64>,
    /// With the other annotators.
    pub agreement: Agreement,
    /// With the known answers.
    pub gold: Agreement,
    /// With himself, on repeated items.
    pub consistency: Agreement,
    /// The time of the last judgment.
    pub last: String,
}

/// An item that somebody skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skip {
    /// The index of the item in its file, from 1.
    pub number: usize,
    /// The annotator.
    pub annotator: String,
    /// The reason.
    pub reason: String,
    /// The remark.
    pub comment: Option<String>,
}

/// How often two rankings order two responses in the same way: better, worse or tied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// The number of pairs of responses that are ordered in the same way.
    pub agreeing: u64,
    /// The number of pairs of responses.
    pub all: u64,
}

impl Agreement {
    /// Counts the pairs of responses of two rankings.
    pub fn count(&mut self, one: &[u32], other: &[u32]) {
        for second in 0..one.len().min(other.len()) {
            for first in 0..second {
                self.all += 1;
                self.agreeing += u64::from(one[first].cmp(&one[second]) == other[first].cmp(&other[second]));
            }
        }
    }
}

/// The state of a folder at a time in seconds since 1970.
pub fn overview(desk: &Desk, now: u64) -> Overview {
    let mut by_item: BTreeMap<usize, Vec<(&str, Vec<u32>)>> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, Vec<(Task, &Judgment)>> = BTreeMap::new();
    for (task, judgment) in desk.judgments() {
        by_name.entry(&judgment.annotator).or_default().push((task, judgment));
        if let (0, Some(ranks)) = (task.repeat, judgment.ranks()) {
            by_item.entry(task.item).or_default().push((&judgment.annotator, ranks));
        }
    }
    let mut agreement = Agreement::default();
    for ranks in by_item.values() {
        for (second, (_, ranks_of_second)) in ranks.iter().enumerate() {
            ranks[..second].iter().for_each(|(_, ranks_of_first)| agreement.count(ranks_of_first, ranks_of_second));
        }
    }
    let progress = desk.assignment().progress("");
    let skips = skips(desk);
    let judgments = desk.judgments().map(|(_, judgment)| judgment.clone()).collect();
    let labels = Labels {
        items: desk.items().to_vec(),
        read: ReadJudgments { judgments, ..ReadJudgments::default() },
        judges: Judges::new(),
    };
    Overview {
        items: desk.items().len(),
        judgments: progress.all,
        wanted: progress.wanted,
        items_by_judgments: desk.assignment().items_by_judgments(),
        reserved: desk.assignment().reservations(now).len(),
        skipped: skips.len(),
        median_seconds: median_seconds(desk.judgments().map(|(_, judgment)| judgment)),
        agreement,
        alpha: alpha(&labels, &Annotators::People),
        annotators: by_name.into_iter().map(|(name, own)| of_annotator(desk, name, &own, &by_item)).collect(),
        skips,
    }
}

fn of_annotator(
    desk: &Desk,
    name: &str,
    own: &[(Task, &Judgment)],
    by_item: &BTreeMap<usize, Vec<(&str, Vec<u32>)>>,
) -> AnnotatorOverview {
    let (mut agreement, mut gold, mut consistency) = (Agreement::default(), Agreement::default(), Agreement::default());
    let ranks_of: HashMap<Task, Vec<u32>> =
        own.iter().filter_map(|(task, judgment)| Some((*task, judgment.ranks()?))).collect();
    for (task, ranks) in &ranks_of {
        if task.repeat > 0 {
            if let Some(first) = ranks_of.get(&Task { repeat: 0, ..*task }) {
                consistency.count(first, ranks);
            }
            continue;
        }
        let others = by_item.get(&task.item).into_iter().flatten().filter(|(other, _)| *other != name);
        others.for_each(|(_, other)| agreement.count(ranks, other));
        if let Some(known) = &desk.items()[task.item].gold {
            gold.count(known, ranks);
        }
    }
    let first = || own.iter().filter(|(task, _)| task.repeat == 0);
    AnnotatorOverview {
        name: name.to_owned(),
        judgments: first().filter(|(_, judgment)| judgment.skipped.is_none()).count(),
        skipped: first().filter(|(_, judgment)| judgment.skipped.is_some()).count(),
        median_seconds: median_seconds(own.iter().map(|(_, judgment)| *judgment)),
        agreement,
        gold,
        consistency,
        last: own.iter().map(|(_, judgment)| judgment.time.clone()).max().unwrap_or_default(),
    }
}

fn skips(desk: &Desk) -> Vec<Skip> {
    let of = |(task, judgment): (Task, &Judgment)| {
        let (annotator, comment) = (judgment.annotator.clone(), judgment.comment.clone());
        Some(Skip { number: task.item + 1, annotator, reason: judgment.skipped.clone()?, comment })
    };
    let mut skips: Vec<Skip> = desk.judgments().filter_map(of).collect();
    skips.sort_by(|left, right| (left.number, &left.annotator).cmp(&(right.number, &right.annotator)));
    skips
}

/// The median time of judgments that were not skipped.
fn median_seconds<'a>(judgments: impl Iterator<Item = &'a Judgment>) -> Option<f64> {
    let mut seconds: Vec<f64> = judgments.filter(|own| own.skipped.is_none()).map(|own| own.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let (low, high) = (seconds.get(seconds.len().checked_sub(1)? / 2)?, seconds.get(seconds.len() / 2)?);
    Some((low + high) / 2.0)
}

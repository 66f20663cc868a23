//! Who is given which item: every item goes to a number of people, to each at most once, in an order of
//! their own. An item that was given out is reserved for half an hour.
//!
//! Everything follows from the seed, the judgments and the reservations, so that a restarted service
//! continues with the same items and orders.

use std::collections::HashMap;

use align_core::random::{self, Permutation, Purpose};
use rand::seq::SliceRandom;

use crate::item::Item;
use crate::judgment::Ask;

/// How long an item is reserved for the annotator who was given it, in seconds.
pub const RESERVED_SECONDS: u64 = 30 * 60;
/// An item is given a second time only after at least this many others.
const REPEAT_GAP: usize = 10;

/// How items are given out.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// What is asked.
    pub ask: Ask,
    /// The number of people who judge each item. Items with `gold` go to everyone.
    pub per_item: usize,
    /// The share of an annotator's items that he is given a second time.
    pub repeat_rate: f64,
    /// The seed of all orders.
    pub seed: u64,
}

/// An item as it is given to an annotator: its index, and 0, or 1 when it is given a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Task {
    /// The index of the item.
    pub item: usize,
    /// 0, or 1 for the second time.
    pub repeat: u32,
}

impl Task {
    /// A number for it.
    pub fn number(self) -> u64 {
        self.item as u64 * 2 + u64::from(self.repeat)
    }

    /// The task of a number.
    pub fn of_number(number: u64) -> Self {
        Self { item: (number / 2) as usize, repeat: (number % 2) as u32 }
    }
}

/// What an annotator is given next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// An item.
    Task(Task),
    /// Nothing now: this many items are reserved for others, and may become free.
    Later(usize),
    /// Nothing more.
    Done,
}

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The number of tasks that the annotator has finished.
    pub mine: usize,
    /// The number of judgments of all annotators, at most `per_item` of each item.
    pub all: usize,
    /// The number of judgments that are wanted.
    pub wanted: usize,
}

/// A reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reserved {
    task: Task,
    /// Seconds since 1970.
    until: u64,
}

#[derive(Debug, Default)]
struct ItemState {
    is_gold: bool,
    /// Whether there is something to ask: not for identical responses that can only tie.
    is_asked: bool,
    num_judged: usize,
    num_skipped: usize,
}

#[derive(Debug, Default)]
struct Annotator {
    /// In the order in which they were first finished.
    finished: Vec<Task>,
    /// Whether each finished task was skipped.
    is_skipped: HashMap<Task, bool>,
    reserved: Option<Reserved>,
}

/// The state of all items and annotators.
#[derive(Debug)]
pub struct Assignment {
    rules: Rules,
    items: Vec<ItemState>,
    annotators: HashMap<String, Annotator>,
}

/// How a task was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// With a judgment.
    Judged,
    /// With a reason for none.
    Skipped,
}

impl Finish {
    /// By the reason for which an item was skipped.
    pub fn of(skipped: Option<&String>) -> Self {
        if skipped.is_some() { Self::Skipped } else { Self::Judged }
    }
}

impl Assignment {
    /// Items without judgments.
    pub fn new(rules: Rules, items: &[Item]) -> Self {
        let state = |item: &Item| ItemState {
            is_gold: item.gold.is_some(),
            is_asked: rules.ask == Ask::Score || item.distinct().len() > 1,
            ..ItemState::default()
        };
        Self { items: items.iter().map(state).collect(), rules, annotators: HashMap::new() }
    }

    /// The number of items that are not shown, because all their responses are identical and tie.
    pub fn num_not_asked(&self) -> usize {
        self.items.iter().filter(|item| !item.is_asked).count()
    }

    /// Takes note of a finished task, for the first time or again.
    pub fn finish(&mut self, name: &str, task: Task, finish: Finish) {
        let is_skipped = finish == Finish::Skipped;
        let annotator = self.annotators.entry(name.to_owned()).or_default();
        if annotator.reserved.is_some_and(|reserved| reserved.task == task) {
            annotator.reserved = None;
        }
        let before = annotator.is_skipped.insert(task, is_skipped);
        if before.is_none() {
            annotator.finished.push(task);
        }
        if task.repeat > 0 {
            return;
        }
        let item = &mut self.items[task.item];
        match before {
            Some(true) => item.num_skipped -= 1,
            Some(false) => item.num_judged -= 1,
            None => {}
        }
        *(if is_skipped { &mut item.num_skipped } else { &mut item.num_judged }) += 1;
    }

    /// Reserves a task until a time in seconds since 1970.
    pub fn reserve(&mut self, name: &str, task: Task, until: u64) {
        if task.item < self.items.len() {
            self.annotators.entry(name.to_owned()).or_default().reserved = Some(Reserved { task, until });
        }
    }

    /// The reservations that hold at a time: annotator, task and end.
    pub fn reservations(&self, now: u64) -> Vec<(&str, Task, u64)> {
        let mut all = Vec::new();
        for (name, annotator) in &self.annotators {
            let held = annotator.reserved.filter(|reserved| reserved.until > now);
            all.extend(held.map(|held| (name.as_str(), held.task, held.until)));
        }
        all.sort_by_key(|(name, ..)| *name);
        all
    }

    /// What an annotator does next. The caller reserves it.
    pub fn next(&self, name: &str, now: u64) -> Next {
        let nothing = Annotator::default();
        let annotator = self.annotators.get(name).unwrap_or(&nothing);
        let others = self.reserved_by_others(name, now);
        if let Some(reserved) = annotator.reserved
            && (reserved.task.repeat > 0 || reserved.until > now || self.has_room(reserved.task.item, &others))
        {
            return Next::Task(reserved.task);
        }
        if let Some(task) = self.due_repeat(name, annotator) {
            return Next::Task(task);
        }
        let count = self.items.len() as u64;
        let order = Permutation::new(count, self.rules.seed, Purpose::ItemOrder, hash(name));
        let mut num_reserved = 0;
        for item in (0..count).map(|index| order.get(index) as usize) {
            let task = Task { item, repeat: 0 };
            if annotator.is_skipped.contains_key(&task) || !self.has_room(item, &HashMap::new()) {
                continue;
            }
            if self.has_room(item, &others) {
                return Next::Task(task);
            }
            num_reserved += 1;
        }
        if num_reserved > 0 { Next::Later(num_reserved) } else { Next::Done }
    }

    /// Whether an annotator may finish a task: he has it, had it, or it still has room.
    pub fn accepts(&self, name: &str, task: Task, now: u64) -> bool {
        let annotator = self.annotators.get(name);
        let is_finished = annotator.is_some_and(|annotator| annotator.is_skipped.contains_key(&task));
        let reserved = annotator.and_then(|annotator| annotator.reserved).filter(|reserved| reserved.task == task);
        let holds = reserved.is_some_and(|reserved| reserved.until > now || task.repeat > 0);
        let has_room = || task.repeat == 0 && self.has_room(task.item, &self.reserved_by_others(name, now));
        task.item < self.items.len() && (is_finished || holds || has_room())
    }

    /// The tasks that an annotator has finished, in order.
    pub fn finished(&self, name: &str) -> &[Task] {
        self.annotators.get(name).map_or(&[], |annotator| &annotator.finished)
    }

    /// How far an annotator and all of them are.
    pub fn progress(&self, name: &str) -> Progress {
        let asked = || self.items.iter().filter(|item| item.is_asked && !item.is_gold);
        Progress {
            mine: self.finished(name).len(),
            all: asked().map(|item| item.num_judged.min(self.rules.per_item)).sum(),
            wanted: asked().count() * self.rules.per_item,
        }
    }

    /// For each number of judgments from 0 on, the number of items that have it.
    pub fn items_by_judgments(&self) -> Vec<usize> {
        let mut counts = vec![0; self.rules.per_item + 1];
        for item in self.items.iter().filter(|item| item.is_asked && !item.is_gold) {
            counts[item.num_judged.min(self.rules.per_item)] += 1;
        }
        counts
    }

    /// The name of an annotator that differs from `name` in upper and lower case only.
    pub fn similar_name(&self, name: &str) -> Option<&str> {
        let lower = name.to_lowercase();
        let mut names = self.annotators.keys().filter(|other| *other != name && other.to_lowercase() == lower);
        if self.annotators.contains_key(name) { None } else { names.next().map(String::as_str) }
    }

    fn reserved_by_others(&self, name: &str, now: u64) -> HashMap<usize, usize> {
        let mut counts = HashMap::new();
        for (other, task, _) in self.reservations(now) {
            if other != name && task.repeat == 0 {
                *counts.entry(task.item).or_default() += 1;
            }
        }
        counts
    }

    /// Whether an item wants another judgment, beside those that reservations may bring. One that `per_item`
    /// people have skipped does not.
    fn has_room(&self, item: usize, reserved: &HashMap<usize, usize>) -> bool {
        let (state, most) = (&self.items[item], self.rules.per_item);
        let wanted = state.num_judged + reserved.get(&item).unwrap_or(&0) < most && state.num_skipped < most;
        state.is_asked && (state.is_gold || wanted)
    }

    /// The item that an annotator is to be given again now, if any. After every finished item a draw decides
    /// whether a repeated one is due; it is one of those that were finished long enough before.
    fn due_repeat(&self, name: &str, annotator: &Annotator) -> Option<Task> {
        let (seed, annotator_hash) = (self.rules.seed, hash(name));
        let first: Vec<Task> = annotator.finished.iter().copied().filter(|task| task.repeat == 0).collect();
        let num_repeats = annotator.finished.len() - first.len();
        let is_due =
            |count: u64| random::uniform(seed, Purpose::Repeats, annotator_hash, 0, count) < self.rules.repeat_rate;
        if (REPEAT_GAP as u64..first.len() as u64).filter(|&count| is_due(count)).count() <= num_repeats {
            return None;
        }
        let is_candidate = |task: &&Task| {
            let again = Task { item: task.item, repeat: 1 };
            !annotator.is_skipped[*task] && !annotator.is_skipped.contains_key(&again)
        };
        let candidates: Vec<&Task> =
            first[..first.len().saturating_sub(REPEAT_GAP)].iter().filter(is_candidate).collect();
        let draw = random::uniform(seed, Purpose::Repeats, annotator_hash, 1, num_repeats as u64);
        let task = candidates.get((draw * candidates.len() as f64) as usize)?;
        Some(Task { item: task.item, repeat: 1 })
    }
}

/// The order in which an annotator sees an item's responses: indices of those that are shown.
pub fn order_of_responses(item: &Item, name: &str, repeat: u32, seed: u64) -> Vec<usize> {
    let mut order = item.distinct();
    let row = hash(&format!("{repeat} {name}"));
    order.shuffle(&mut random::stream(seed, Purpose::ResponseOrder, hash(&item.id), row));
    order
}

/// The first 64 bits of a text's BLAKE3 hash.
fn hash(text: &str) -> u64 {
    let bytes = blake3::hash(text.as_bytes());
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("eight bytes"))
}

//! A labelling folder in which a program judges: an annotator like any other, called `judge:NAME`.
//!
//! [`question`](mod@question) is what a chat model is asked, [`opinion`] what a program says and the judgment
//! that follows.

pub mod opinion;
pub mod question;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use align_core::clock;
use align_core::error::{Error, Result};
use align_core::folder_lock::{FolderLock, lock_folder};
use align_core::random::{self, Purpose};

pub use crate::compare::pairs;
use crate::desk::read_settings;
use crate::item::{Item, read_items};
use crate::items::keep_items;
use crate::journal::Journal;
use crate::judges::{self, JudgeRecord};
use crate::judgment::{Ask, ITEMS, Judgment, PROGRAM_PREFIX};
use opinion::{Form, Opinion};

/// The highest score where the folder's settings name none.
const SCALE: u32 = 7;
/// The longest name of a judge, in characters.
const MAX_NAME: usize = 100;

/// Who judges, and how much.
#[derive(Debug, Clone, PartialEq)]
pub struct Judging {
    /// The annotator, from [`annotator`].
    pub annotator: String,
    /// What it is.
    pub record: JudgeRecord,
    /// Judges this many items, drawn by the seed; without it all.
    pub limit: Option<usize>,
    /// The seed of the draw.
    pub seed: u64,
}

/// The annotator of a judge's name.
///
/// # Errors
/// What is wrong with the name.
pub fn annotator(name: &str) -> std::result::Result<String, String> {
    let is_odd = |char: char| char.is_control() || char.is_whitespace() || ('\u{202a}'..='\u{202e}').contains(&char);
    let name = name.strip_prefix(PROGRAM_PREFIX).unwrap_or(name);
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(is_odd) {
        return Err(format!("is {name:?}, expected 1 to {MAX_NAME} characters without spaces and control characters"));
    }
    Ok(format!("{PROGRAM_PREFIX}{name}"))
}

/// A labelling folder, locked, in which a program judges.
#[derive(Debug)]
pub struct JudgedFolder {
    items: Vec<Item>,
    form: Form,
    seed: u64,
    /// Indices of items that are still to be judged.
    waiting: Vec<usize>,
    /// The judgments of this judge, of this run and of earlier ones.
    own: HashMap<String, Judgment>,
    num_identical: usize,
    journal: Journal,
    _lock: FolderLock,
}

/// The items of a folder that has some, for [`JudgedFolder::open`].
///
/// # Errors
/// As [`read_items`].
pub fn items_of(folder: &Path) -> Result<Vec<Item>> {
    read_items(&folder.join(ITEMS))
}

impl JudgedFolder {
    /// Opens a new folder, or one with judgments of people or programs.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the folder is in use, has other items or damaged lines, when its judge of this
    /// name is another one, and when a pair is asked of an item without two responses; failures of the disk.
    pub fn open(folder: &Path, judging: Judging, items: Vec<Item>) -> Result<Self> {
        let lock = lock_folder(folder, "--out")?;
        let (ask, scale) = read_settings(folder)?.map_or((Ask::Rank, SCALE), |settings| (settings.ask, settings.scale));
        if ask == Ask::Pair
            && let Some(item) = items.iter().find(|item| item.responses.len() != 2)
        {
            let count = item.responses.len();
            let what = format!("asks for pairs, but the item {} has {count} responses, expected 2", item.id);
            return Err(Error::invalid(folder.display(), what));
        }
        let items = keep_items(folder, items)?;
        judges::keep(folder, &judging.annotator, judging.record)?;
        let (journal, read) = Journal::open(folder, &items)?;
        let is_own = |judgment: &Judgment| judgment.annotator == judging.annotator && judgment.repeat == 0;
        let own: HashMap<String, Judgment> =
            read.judgments.into_iter().filter(is_own).map(|judgment| (judgment.item.clone(), judgment)).collect();
        let differ: Vec<usize> = (0..items.len()).filter(|&index| items[index].distinct().len() > 1).collect();
        let num_identical = items.len() - differ.len();
        let mut waiting = drawn(&items, differ, judging.limit, judging.seed);
        waiting.retain(|&index| !own.contains_key(&items[index].id));
        let form = Form { annotator: judging.annotator, ask, scale };
        Ok(Self { items, form, seed: judging.seed, waiting, own, num_identical, journal, _lock: lock })
    }

    /// The items, in the order of their file.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Indices of the items that are still to be judged.
    pub fn waiting(&self) -> &[usize] {
        &self.waiting
    }

    /// The judgments of this judge, in the order of the items.
    pub fn own(&self) -> impl Iterator<Item = (&Item, &Judgment)> {
        self.items.iter().filter_map(|item| Some((item, self.own.get(&item.id)?)))
    }

    /// The number of items that are not judged because all their responses are identical.
    pub fn num_identical(&self) -> usize {
        self.num_identical
    }

    /// Appends what the program says of an item. When this returns, it is on the disk.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn append(&mut self, item: usize, opinion: Opinion, seconds: f64) -> Result<()> {
        let item = &self.items[item];
        // Milliseconds are enough.
        let seconds = (seconds * 1000.0).round() / 1000.0;
        let judgment = opinion.into_judgment(item, &self.form);
        let judgment = Judgment { seconds, time: clock::now(), seed: self.seed, ..judgment };
        self.journal.append(&judgment)?;
        self.own.insert(item.id.clone(), judgment);
        Ok(())
    }
}

/// The first items of an order that depends on the seed and each item's id alone: with a higher limit the
/// same ones, and more. They stay in the order of their file.
fn drawn(items: &[Item], mut indices: Vec<usize>, limit: Option<usize>, seed: u64) -> Vec<usize> {
    let Some(limit) = limit else { return indices };
    let key = |index: &usize| {
        let hash = blake3::hash(items[*index].id.as_bytes());
        let id = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
        random::key(seed, Purpose::ItemOrder, id, 0)
    };
    indices.sort_by_cached_key(key);
    let mut chosen: HashSet<usize> = indices.into_iter().take(limit).collect();
    (0..items.len()).filter(|index| chosen.remove(index)).collect()
}

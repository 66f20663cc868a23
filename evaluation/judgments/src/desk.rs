//! A labelling folder that is being worked on: gives items to annotators and takes their judgments.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use align_core::atomic_files::write_atomic;
use align_core::clock::utc;
use align_core::error::{Error, Problems, Result};
use align_core::folder_lock::{FolderLock, lock_folder};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::assignment::{Assignment, Finish, Next, Progress, RESERVED_SECONDS, Rules, Task, order_of_responses};
use crate::item::{Item, Turn};
use crate::items::keep_items;
use crate::journal::{Journal, Reservation, Reservations};
use crate::judgment::{Ask, Judgment};

/// The file of settings in a labelling folder.
pub const SETTINGS: &str = "label.json";

/// What is asked, and how items are given out.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How items are given out.
    pub rules: Rules,
    /// The highest score; the lowest is 1.
    pub scale: u32,
}

/// The settings that must not change while judgments are made.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptSettings {
    pub(crate) ask: Ask,
    pub(crate) scale: u32,
    seed: u64,
}

/// What an annotator sees of an item. It names no model, no id and no category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sheet {
    /// [`Task::number`].
    pub task: u64,
    /// The prompt.
    pub prompt: Vec<Turn>,
    /// The responses in the order in which they are shown.
    pub responses: Vec<String>,
}

/// Why a judgment is not taken.
#[derive(Debug)]
pub enum Refused {
    /// It is not an answer to this item.
    Invalid(String),
    /// The item was given to others in the meantime.
    Gone,
    /// It could not be written.
    Failed(Error),
}

/// A labelling folder, locked.
#[derive(Debug)]
pub struct Desk {
    folder: PathBuf,
    settings: Settings,
    items: Vec<Item>,
    assignment: Assignment,
    /// The latest judgment of each annotator and task.
    latest: HashMap<(String, Task), Judgment>,
    journal: Journal,
    reservations: Reservations,
    _lock: FolderLock,
}

impl Desk {
    /// Opens a new folder, or one that was worked on before with the same settings and items.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the folder is in use, or has other settings, other items or damaged lines, and
    /// when a pair is asked of an item without two responses; failures of the disk.
    pub fn open(folder: &Path, settings: Settings, items: Vec<Item>, now: u64) -> Result<Self> {
        let mut problems = Problems::new();
        if settings.rules.ask == Ask::Pair
            && let Some(item) = items.iter().find(|item| item.responses.len() != 2)
        {
            let what = format!("is pair, but the item {} has {} responses, expected 2", item.id, item.responses.len());
            problems.push("--ask", what);
        }
        problems.into_result()?;
        let lock = lock_folder(folder, "--out")?;
        keep_settings(folder, &settings)?;
        let items = keep_items(folder, items)?;
        let mut assignment = Assignment::new(settings.rules.clone(), &items);
        let index: HashMap<&str, usize> = items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect();
        let (journal, read) = Journal::open(folder, &items)?;
        let (reservations, reserved) = Reservations::open(folder, now)?;
        for reservation in reserved {
            if let Some(&item) = index.get(reservation.item.as_str()) {
                let task = Task { item, repeat: reservation.repeat };
                assignment.reserve(&reservation.annotator, task, reservation.until);
            }
        }
        let mut latest = HashMap::new();
        for judgment in read.judgments.into_iter().filter(|judgment| !judgment.is_of_program()) {
            let task = Task { item: index[judgment.item.as_str()], repeat: judgment.repeat.min(1) };
            assignment.finish(&judgment.annotator, task, Finish::of(judgment.skipped.as_ref()));
            latest.insert((judgment.annotator.clone(), task), judgment);
        }
        let folder = folder.to_owned();
        Ok(Self { folder, settings, items, assignment, latest, journal, reservations, _lock: lock })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The items, in the order of their file.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Who has what.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The latest judgment of each annotator and task, in no order.
    pub fn judgments(&self) -> impl Iterator<Item = (Task, &Judgment)> {
        self.latest.iter().map(|((_, task), judgment)| (*task, judgment))
    }

    /// What an annotator does next; an item is reserved.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn next(&mut self, name: &str, now: u64) -> Result<Next> {
        let next = self.assignment.next(name, now);
        if let Next::Task(task) = next {
            let until = now + RESERVED_SECONDS;
            let item = self.items[task.item].id.clone();
            let reservation = Reservation { item, annotator: name.to_owned(), repeat: task.repeat, until };
            self.reservations.append(&reservation)?;
            self.assignment.reserve(name, task, until);
        }
        Ok(next)
    }

    /// What an annotator sees of a task's item.
    pub fn sheet(&self, name: &str, task: Task) -> Sheet {
        let item = &self.items[task.item];
        let order = self.order(name, task);
        Sheet {
            task: task.number(),
            prompt: item.prompt.turns().expect("items are checked when they are read"),
            responses: order.iter().map(|&index| item.responses[index].clone()).collect(),
        }
    }

    /// The order of a task's responses: that of an earlier judgment of the task, if there is one.
    fn order(&self, name: &str, task: Task) -> Vec<usize> {
        let item = &self.items[task.item];
        let earlier = self.latest.get(&(name.to_owned(), task)).map(|judgment| judgment.order.clone());
        let earlier = earlier.filter(|order| order.len() == item.distinct().len());
        earlier.unwrap_or_else(|| order_of_responses(item, name, task.repeat, self.settings.rules.seed))
    }

    /// The task that an annotator finished as number `number`, from 0, and the answer that he gave.
    pub fn finished(&self, name: &str, number: usize) -> Option<(Sheet, Answer)> {
        let task = *self.assignment.finished(name).get(number)?;
        let judgment = &self.latest[&(name.to_owned(), task)];
        Some((self.sheet(name, task), Answer::of(judgment, &self.order(name, task))))
    }

    /// Takes an annotator's answer. When this returns, it is on the disk.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn submit(
        &mut self,
        name: &str,
        task: Task,
        answer: Answer,
        now: u64,
    ) -> std::result::Result<Progress, Refused> {
        let Some(item) = self.items.get(task.item) else {
            return Err(Refused::Invalid("`task` is none of this folder, expected the one of the item".to_owned()));
        };
        let order = self.order(name, task);
        let rules = &self.settings.rules;
        answer.check(rules.ask, order.len(), self.settings.scale).map_err(Refused::Invalid)?;
        if !self.assignment.accepts(name, task, now) {
            return Err(Refused::Gone);
        }
        let finish = Finish::of(answer.skipped.as_ref());
        let judgment = Judgment {
            repeat: task.repeat,
            time: utc(now),
            seed: rules.seed,
            ..answer.into_judgment(item, name, rules.ask, order)
        };
        self.journal.append(&judgment).map_err(Refused::Failed)?;
        self.assignment.finish(name, task, finish);
        self.latest.insert((name.to_owned(), task), judgment);
        Ok(self.assignment.progress(name))
    }
}

/// The settings of a folder; `None` if there are none.
pub(crate) fn read_settings(folder: &Path) -> Result<Option<KeptSettings>> {
    let path = folder.join(SETTINGS);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => serde_json::from_slice(&text.map_err(Error::io(&path))?).map(Some).map_err(|error| {
            Error::invalid(path.display(), format!("is damaged ({error}), expected `ask`, `scale`, `seed`"))
        }),
    }
}

/// Writes the settings of a new folder, and compares those of an old one.
fn keep_settings(folder: &Path, settings: &Settings) -> Result<()> {
    let path = folder.join(SETTINGS);
    let now = KeptSettings { ask: settings.rules.ask, scale: settings.scale, seed: settings.rules.seed };
    let Some(then) = read_settings(folder)? else {
        let text = serde_json::to_string(&now).expect("plain data") + "\n";
        return write_atomic(&path, text.as_bytes());
    };
    if then == now {
        return Ok(());
    }
    let shown = |settings: &KeptSettings| serde_json::to_string(settings).expect("plain data");
    let what = format!(
        "the folder was labelled with {}, not {}; expected the same --ask, --scale and --seed, or another --out",
        shown(&then),
        shown(&now)
    );
    Err(Error::invalid(path.display(), what))
}

#[cfg(test)]
mod tests;

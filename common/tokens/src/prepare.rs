//! Files to token lists: each row is tokenized once, in all threads, and not again as long as the cache has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cache::{Cache, Entry};
use super::store::{Store, Words, Writer};
use align_core::atomic_files::write_whole;
use align_core::error::{Error, Problem, Result, cause};
use align_core::progress::Progress;
use align_data::{BadRows, Parsed, Place, Stream, TypedRow, Unread, format_by_name};

const ABOUT: &str = "about.json";
/// Kinds of bad rows that are told apart.
const MAX_KINDS: usize = 32;

/// How files are read.
pub struct Reading<'a> {
    /// What becomes of rows that cannot be used.
    pub bad_rows: BadRows,
    /// Where token lists are kept.
    pub cache: Cache,
    /// Who is told how far it is.
    pub progress: &'a mut dyn Progress,
}

/// What was counted on the way from rows to token lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that became token lists.
    pub rows: u64,
    /// Their turns; of a document, one.
    pub turns: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Those that carry loss.
    pub loss_tokens: u64,
    /// Rows left out for their length.
    pub dropped: u64,
    /// Rows cut to the limit.
    pub truncated: u64,
    /// Rows whose text spells a special token, which it does not become.
    pub special_text: u64,
    /// Rows with a turn whose text begins with a line break: programs that tokenize a template's whole text get other ids there.
    #[serde(default)]
    pub begins_with_newline: u64,
    /// Keys that nothing reads.
    #[serde(default)]
    pub unread: Unread,
    /// Bad rows left out, by what is wrong with them.
    pub bad: BTreeMap<String, u64>,
}

impl Counts {
    /// Adds those of other rows.
    pub fn add(&mut self, other: &Counts) {
        self.rows += other.rows;
        self.turns += other.turns;
        self.tokens += other.tokens;
        self.loss_tokens += other.loss_tokens;
        self.dropped += other.dropped;
        self.truncated += other.truncated;
        self.special_text += other.special_text;
        self.begins_with_newline += other.begins_with_newline;
        self.unread.add(&other.unread);
        for (what, count) in &other.bad {
            *self.bad.entry(what.clone()).or_default() += count;
        }
    }
}

/// What becomes of a row.
pub(super) struct Listed {
    pub(super) words: Words,
    pub(super) turns: u64,
    pub(super) tokens: u64,
    pub(super) loss_tokens: u64,
    pub(super) has_special_text: bool,
    pub(super) begins_with_newline: bool,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Truncated,
    Dropped,
}

/// How a row becomes a token list.
pub(super) trait Recipe: Sync {
    /// What its rows are.
    type Row: TypedRow;

    /// All that decides what becomes of a row, beside the row.
    fn describe(&self) -> Value;

    /// What becomes of a row; `Err` says why it cannot be rendered.
    fn list(&self, row: Self::Row) -> Parsed<Listed>;
}

/// A file's token lists.
pub(super) struct Prepared {
    pub(super) file: Arc<Path>,
    pub(super) store: Store,
    pub(super) about: About,
}

/// What is known of a file beside its lists.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) counts: Counts,
    /// Bad rows: index, line, and what is wrong.
    skipped: Vec<(u64, u64, String)>,
}

impl Prepared {
    /// The bad rows that were left out, by name.
    pub(super) fn skipped(&self) -> impl Iterator<Item = Problem> + '_ {
        let named = |(index, line, what): &(u64, u64, String)| {
            let place = Place { file: Arc::clone(&self.file), index: *index, line: *line };
            Problem::of_row(place, what)
        };
        self.about.skipped.iter().map(named)
    }
}

/// The token lists of a file.
pub(super) fn prepare<R: Recipe>(file: &Path, recipe: &R, reading: &mut Reading<'_>) -> Result<Prepared> {
    let (store, about) = match reading.cache.folder(file) {
        None => in_memory(file, recipe, reading)?,
        Some(folder) => match in_folder(folder.clone(), file, recipe, reading) {
            // Whoever named the folder wants to know that it cannot be used.
            Err(Error::Io { path, source }) if path.starts_with(&folder) => {
                let what = format!("cannot be used as data.cache: {source}");
                if reading.cache != Cache::Auto {
                    return Err(Error::invalid(folder.display(), what));
                }
                reading.progress.note(&format!("{}: {what}; tokens are kept in memory", folder.display()));
                in_memory(file, recipe, reading)?
            }
            prepared => prepared?,
        },
    };
    Ok(Prepared { file: file.into(), store, about })
}

fn in_memory<R: Recipe>(file: &Path, recipe: &R, reading: &mut Reading<'_>) -> Result<(Store, About)> {
    let mut writer = Writer::in_memory();
    let about = read(file, recipe, reading, |words, place| {
        writer.push(words, place).expect("memory takes everything");
        Ok(())
    })?;
    Ok((writer.into_store(), about))
}

fn in_folder<R: Recipe>(folder: PathBuf, file: &Path, recipe: &R, reading: &mut Reading<'_>) -> Result<(Store, About)> {
    let recipe_text = json!([recipe.describe(), reading.bad_rows, format_by_name(file)]);
    let entry = Entry::of(folder, file, &recipe_text, reading.progress)?;
    let path = match entry.find() {
        Some(path) => path,
        None => entry.create(|folder| {
            let mut writer = Writer::in_folder(folder).map_err(Error::io(folder))?;
            let about =
                read(file, recipe, reading, |words, place| writer.push(words, place).map_err(Error::io(folder)))?;
            writer.flush().map_err(Error::io(folder))?;
            let about = serde_json::to_vec(&about).expect("plain data");
            write_whole(&folder.join(ABOUT), &about)
        })?,
    };
    let about = std::fs::read(path.join(ABOUT)).map_err(Error::io(&path))?;
    let about = serde_json::from_slice(&about).map_err(|error| Error::invalid(path.display(), error))?;
    Ok((Store::open(&path)?, about))
}

/// Reads a file; `push` gets the lists in the order of its rows.
fn read<R: Recipe>(
    file: &Path,
    recipe: &R,
    reading: &mut Reading<'_>,
    mut push: impl FnMut(&Words, &Place) -> Result<()>,
) -> Result<About> {
    let mut about = About::default();
    let files = [file.to_owned()];
    let stream = Stream { files: &files, kind: Some(R::Row::KIND), bad_rows: reading.bad_rows };
    let what = format!("tokenizing {}", file.display());
    let list = |row: &align_data::RawRow| {
        let (row, unread) = row.read::<R::Row>()?;
        Ok((recipe.list(row)?, unread))
    };
    stream.each(&what, reading.progress, list, |row, listed| {
        let counts = &mut about.counts;
        match listed {
            Err(what) => {
                let kind = Some(cause(&what));
                let kind = kind.filter(|kind| counts.bad.len() < MAX_KINDS || counts.bad.contains_key(kind));
                *counts.bad.entry(kind.unwrap_or_else(|| "other reasons".to_owned())).or_default() += 1;
                about.skipped.push((row.place.index, row.place.line, what));
            }
            Ok((listed, unread)) => {
                counts.unread.count(&unread);
                counts.begins_with_newline += u64::from(listed.begins_with_newline);
                counts.special_text += u64::from(listed.has_special_text);
                counts.truncated += u64::from(listed.fate == Fate::Truncated);
                if listed.fate == Fate::Dropped {
                    counts.dropped += 1;
                    return Ok(());
                }
                counts.rows += 1;
                counts.turns += listed.turns;
                counts.tokens += listed.tokens;
                counts.loss_tokens += listed.loss_tokens;
                push(&listed.words, &row.place)?;
            }
        }
        Ok(())
    })?;
    Ok(about)
}

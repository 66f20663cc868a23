//! Tokenizes files, in all threads, unless the cache has the result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cache::{Cache, Entry};
use super::store::{PackedTokens, Store, Writer};
use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Problem, Result, cause};
use align_core::progress::Progress;
use align_data::{BadRows, Parsed, RowLocation, Stream, TypedRow, Unread, format_by_name};

const ABOUT: &str = "about.json";
/// The maximum number of distinct causes of bad rows that are counted separately.
const MAX_KINDS: usize = 32;

/// How files are read.
pub struct Reading<'a> {
    /// What happens to bad rows.
    pub bad_rows: BadRows,
    /// Where tokens are cached.
    pub cache: Cache,
    /// Receives the progress.
    pub progress: &'a mut dyn Progress,
}

/// Statistics of tokenized rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that were kept.
    pub rows: u64,
    /// Their turns; one per document.
    pub turns: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Their tokens that carry loss.
    pub loss_tokens: u64,
    /// Rows dropped for their length.
    pub dropped: u64,
    /// Rows cut to the limit.
    pub truncated: u64,
    /// Rows whose text spells a control token. (It is not encoded as one.)
    pub special_text: u64,
    /// Rows with a turn whose text begins with a line break. Programs that tokenize a template's whole text
    /// get different ids for them.
    #[serde(default)]
    pub begins_with_newline: u64,
    /// Keys that were not read.
    #[serde(default)]
    pub unread: Unread,
    /// Bad rows that were skipped, by cause.
    pub bad: BTreeMap<String, u64>,
}

impl Counts {
    /// Adds the counts of other rows.
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

/// A tokenized row with its statistics.
pub(super) struct TokenizedRow {
    pub(super) packed: PackedTokens,
    pub(super) turns: u64,
    pub(super) tokens: u64,
    pub(super) loss_tokens: u64,
    pub(super) has_special_text: bool,
    pub(super) begins_with_newline: bool,
    pub(super) outcome: RowOutcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOutcome {
    Kept,
    Truncated,
    Dropped,
}

/// How the rows of a kind are tokenized.
pub(super) trait TokenizeSpec: Sync {
    /// The type of the rows.
    type Row: TypedRow;

    /// All settings that affect the result: part of the cache key.
    fn cache_key(&self) -> Value;

    /// Tokenizes a row; `Err` is the mistake in it.
    fn tokenize(&self, row: Self::Row) -> Parsed<TokenizedRow>;
}

/// A tokenized file.
pub(super) struct TokenizedFile {
    pub(super) file: Arc<Path>,
    pub(super) store: Store,
    pub(super) about: About,
}

/// What is stored with a file's tokens.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) counts: Counts,
    /// Skipped bad rows: index, line and message.
    skipped: Vec<(u64, u64, String)>,
}

impl TokenizedFile {
    /// The bad rows that were skipped.
    pub(super) fn skipped(&self) -> impl Iterator<Item = Problem> + '_ {
        let named = |(index, line, what): &(u64, u64, String)| {
            let location = RowLocation { file: Arc::clone(&self.file), index: *index, line: *line };
            Problem::of_row(location, what)
        };
        self.about.skipped.iter().map(named)
    }
}

/// Tokenizes a file, or finds it in the cache.
pub(super) fn tokenize<R: TokenizeSpec>(file: &Path, spec: &R, reading: &mut Reading<'_>) -> Result<TokenizedFile> {
    let (store, about) = match reading.cache.folder(file) {
        None => in_memory(file, spec, reading)?,
        Some(folder) => match in_folder(folder.clone(), file, spec, reading) {
            // A folder that the user chose must be usable; the automatic one may fail.
            Err(Error::Io { path, source }) if path.starts_with(&folder) => {
                let what = format!("cannot be used as data.cache: {source}");
                if reading.cache != Cache::Auto {
                    return Err(Error::invalid(folder.display(), what));
                }
                reading.progress.note(&format!("{}: {what}; tokens are kept in memory", folder.display()));
                in_memory(file, spec, reading)?
            }
            tokenized => tokenized?,
        },
    };
    Ok(TokenizedFile { file: file.into(), store, about })
}

fn in_memory<R: TokenizeSpec>(file: &Path, spec: &R, reading: &mut Reading<'_>) -> Result<(Store, About)> {
    let mut writer = Writer::in_memory();
    let about = read(file, spec, reading, |packed, location| {
        writer.push(packed, location).expect("writing to memory cannot fail");
        Ok(())
    })?;
    Ok((writer.into_store(), about))
}

fn in_folder<R: TokenizeSpec>(
    folder: PathBuf,
    file: &Path,
    spec: &R,
    reading: &mut Reading<'_>,
) -> Result<(Store, About)> {
    let key = json!([spec.cache_key(), reading.bad_rows, format_by_name(file)]);
    let entry = Entry::of(folder, file, &key, reading.progress)?;
    let path = match entry.find() {
        Some(path) => path,
        None => entry.create(|folder| {
            let mut writer = Writer::in_folder(folder).map_err(Error::io(folder))?;
            let about =
                read(file, spec, reading, |packed, location| writer.push(packed, location).map_err(Error::io(folder)))?;
            writer.flush().map_err(Error::io(folder))?;
            let about = serde_json::to_vec(&about).expect("plain data");
            write_atomic(&folder.join(ABOUT), &about)
        })?,
    };
    let about = std::fs::read(path.join(ABOUT)).map_err(Error::io(&path))?;
    let about = serde_json::from_slice(&about).map_err(|error| Error::invalid(path.display(), error))?;
    Ok((Store::open(&path)?, about))
}

/// Reads and tokenizes a file; `push` is called with the sequences in the order of the rows.
fn read<R: TokenizeSpec>(
    file: &Path,
    spec: &R,
    reading: &mut Reading<'_>,
    mut push: impl FnMut(&PackedTokens, &RowLocation) -> Result<()>,
) -> Result<About> {
    let mut about = About::default();
    let files = [file.to_owned()];
    let stream = Stream { files: &files, kind: Some(R::Row::KIND), bad_rows: reading.bad_rows };
    let what = format!("tokenizing {}", file.display());
    let tokenize = |row: &align_data::RawRow| {
        let (row, unread) = row.read::<R::Row>()?;
        Ok((spec.tokenize(row)?, unread))
    };
    stream.each(&what, reading.progress, tokenize, |row, tokenized| {
        let counts = &mut about.counts;
        match tokenized {
            Err(what) => {
                let kind = Some(cause(&what));
                let kind = kind.filter(|kind| counts.bad.len() < MAX_KINDS || counts.bad.contains_key(kind));
                *counts.bad.entry(kind.unwrap_or_else(|| "other reasons".to_owned())).or_default() += 1;
                about.skipped.push((row.location.index, row.location.line, what));
            }
            Ok((tokenized, unread)) => {
                counts.unread.count(&unread);
                counts.begins_with_newline += u64::from(tokenized.begins_with_newline);
                counts.special_text += u64::from(tokenized.has_special_text);
                counts.truncated += u64::from(tokenized.outcome == RowOutcome::Truncated);
                if tokenized.outcome == RowOutcome::Dropped {
                    counts.dropped += 1;
                    return Ok(());
                }
                counts.rows += 1;
                counts.turns += tokenized.turns;
                counts.tokens += tokenized.tokens;
                counts.loss_tokens += tokenized.loss_tokens;
                push(&tokenized.packed, &row.location)?;
            }
        }
        Ok(())
    })?;
    Ok(about)
}

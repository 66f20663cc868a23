//! Reads the rows of a config: dialogues for sft, merged documents for pretraining.

use std::collections::HashSet;
use std::path::PathBuf;

use align_core::config::Files;
use align_core::error::{Problem, Problems, Result};
use align_core::progress::Progress;
use align_data::{Batches, files_of};
use align_model::{Header, ModelConfig};
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Tokenizer;
use align_tokens::{Cache, Counts, LmData, LmRow, LmRows, Reading, chat_rows, text_rows};
use align_train::stage::{Mixture, check_trained_length, misfits, set_names};
use serde_json::{Value, json};

use crate::config::{PretrainConfig, Sections, SftConfig};

/// A held-out file.
pub struct EvalSet {
    /// The file's stem, or the folder's name.
    pub name: String,
    /// Its rows.
    pub rows: LmRows,
}

/// The rows of a run.
pub struct Rows {
    /// Training rows of all sources.
    pub train: LmRows,
    /// The rows of each step.
    pub batches: Batches,
    /// Counts over the training data.
    pub counts: Counts,
    /// Held-out files.
    pub eval: Vec<EvalSet>,
    /// Counts over the held-out files.
    pub eval_counts: Counts,
    /// Bad rows of all files that are skipped, by file and line.
    pub skipped: Vec<Problem>,
    /// The config key of the training files.
    key: &'static str,
    /// Run metadata of the batches.
    batch_metadata: Vec<(&'static str, Value)>,
    /// Rows (for merged documents: documents) that equal an earlier one.
    duplicates: u64,
    /// For each held-out file, the number of rows that are also trained on, and of all rows.
    overlaps: Vec<(u64, u64)>,
}

impl Rows {
    fn new(train: LmData, sources: &Mixture, batches: Batches, eval: Vec<(String, LmData)>) -> Self {
        let (mut skipped, mut eval_counts, mut sets) = (train.skipped, Counts::default(), Vec::new());
        for (name, data) in eval {
            eval_counts.add(&data.counts);
            skipped.extend(data.skipped);
            sets.push(EvalSet { name, rows: data.rows });
        }
        let (mut seen, mut duplicates) = (HashSet::new(), 0);
        train.rows.hashes().for_each(|hash| duplicates += u64::from(!seen.insert(hash)));
        let overlap = |set: &EvalSet| {
            set.rows.hashes().fold((0, 0), |(trained, all), hash| (trained + u64::from(seen.contains(&hash)), all + 1))
        };
        Self {
            overlaps: sets.iter().map(overlap).collect(),
            key: sources.key(),
            batch_metadata: sources.metadata(&batches),
            train: train.rows,
            batches,
            counts: train.counts,
            eval: sets,
            eval_counts,
            skipped,
            duplicates,
        }
    }

    /// The rows of a step, in order.
    pub fn batch(&self, step: u64) -> impl Iterator<Item = LmRow> + '_ {
        self.batches.rows(step).map(|row| self.train.row(row))
    }

    /// The rows of a step by file and line; for merged documents, by row number.
    pub fn names(&self, step: u64) -> impl Iterator<Item = String> + '_ {
        let name = |row| self.train.location(row).map_or_else(|| format!("row {row}"), |location| location.to_string());
        self.batches.rows(step).map(name)
    }

    /// Refuses rows that a first-generation model must not be trained on.
    pub fn check_length(&self, header: &Header, problems: &mut Problems) {
        let longest = self.train.longest_piece();
        check_trained_length(header, longest, "data.max_tokens", "lets in a training row", problems);
    }

    /// Run metadata of the data, reported before the first step and written to run.json.
    pub fn metadata(&self) -> Vec<(&'static str, Value)> {
        let (train, eval) = (&self.counts, &self.eval_counts);
        let mut bad = train.clone();
        bad.add(eval);
        let mut metadata = vec![("rows", json!(self.train.len()))];
        metadata.extend(self.batch_metadata.iter().cloned());
        let (turns, twice) = match self.train.are_merged() {
            true => ("documents", "duplicate documents"),
            false => ("turns", "duplicate rows"),
        };
        metadata.extend([
            (turns, json!(train.turns)),
            ("tokens", json!(train.tokens)),
            ("loss tokens", json!(train.loss_tokens)),
            ("rows dropped for length", json!(train.dropped)),
            ("rows truncated", json!(train.truncated)),
            ("rows with special-token text", json!(train.special_text)),
            (twice, json!(self.duplicates)),
            ("held-out rows dropped", json!(eval.dropped)),
            ("held-out rows truncated", json!(eval.truncated)),
            ("held-out rows trained on", json!(self.overlaps.iter().map(|(trained, _)| trained).sum::<u64>())),
            ("bad rows skipped", json!(self.skipped.len())),
        ]);
        if bad.begins_with_newline > 0 {
            metadata.push(("rows with a turn that begins with a line break", json!(bad.begins_with_newline)));
        }
        if !bad.unread.is_empty() {
            metadata.push(("keys that are not read", json!(bad.unread)));
        }
        if !bad.bad.is_empty() {
            metadata.push(("bad rows by reason", json!(bad.bad)));
        }
        metadata
    }

    /// Warnings about settings that do not fit the data.
    pub fn warnings(&self, sections: &Sections, max_tokens: usize, config: &ModelConfig) -> Vec<String> {
        let train = &self.counts;
        // The number of documents includes the dropped ones; the number of rows does not.
        let (rows, all) = match self.train.are_merged() {
            true => ("documents", train.rows),
            false => ("rows", train.rows + train.dropped),
        };
        let sets = self.eval.iter().zip(&self.overlaps);
        let mut found = misfits::schedule(sections.optimizer.lr, &sections.schedule, self.batches.steps());
        found.extend(misfits::dropped("data.max_tokens", max_tokens, rows, train.dropped, all));
        found.extend(misfits::truncated("data.max_tokens", max_tokens, rows, train.truncated, train.rows));
        found.extend(misfits::duplicates(self.key, rows, self.duplicates, train.rows));
        found.extend(
            sets.filter_map(|(set, (trained, all))| misfits::known("data.eval", &set.name, rows, *trained, *all)),
        );
        if sections.train.steps.is_some() {
            found.extend(misfits::repeated("train.batch_size", sections.train.batch_size, "rows", self.train.len()));
        }
        let longer_than = |limit| self.train.longer_than(limit);
        found.extend(misfits::beyond_positions(config, "data.max_tokens", "rows are", longer_than));
        found
    }
}

/// Reads the data of `align sft`; mistakes land in `problems`.
///
/// # Errors
/// Errors that are not the user's mistake.
pub fn sft_rows(
    config: &SftConfig,
    format: &ChatFormat,
    problems: &mut Problems,
    progress: &mut dyn Progress,
) -> Result<Option<Rows>> {
    let data = &config.data;
    let mut reading = Reading { bad_rows: data.bad_rows, cache: Cache::from(data.cache.as_str()), progress };
    let mut read = |files: &[PathBuf]| {
        chat_rows(files, format, data.loss_on, Some((data.max_tokens, data.overlong)), &mut reading)
    };
    let sources = Mixture::new(&data.train, &data.mix);
    let train = problems.absorb(read(&sources.files))?;
    let eval = eval_sets(&data.eval, problems, read)?;
    Ok(train.map(|train| {
        let order = sources.order(&train.file_rows, data.shuffle.then_some(config.train.seed));
        Rows::new(train, &sources, config.train.batches(order), eval)
    }))
}

/// Reads the data of `align pretrain`; mistakes land in `problems`.
///
/// # Errors
/// Errors that are not the user's mistake.
pub fn pretrain_rows(
    config: &PretrainConfig,
    tokenizer: &Tokenizer,
    problems: &mut Problems,
    progress: &mut dyn Progress,
) -> Result<Option<Rows>> {
    let data = &config.data;
    let mut reading = Reading { bad_rows: data.bad_rows, cache: Cache::from(data.cache.as_str()), progress };
    let mut read = |files: &[PathBuf], seed: Option<u64>| {
        text_rows(files, tokenizer, data.max_tokens, data.overlong, seed, &mut reading)
    };
    let seed = data.shuffle.then_some(config.train.seed);
    let sources = Mixture::new(&data.train, &data.mix);
    // Documents are merged within a source, so that a mix can draw rows by source.
    let groups: Vec<Vec<PathBuf>> = if data.mix.is_empty() {
        vec![sources.files.clone()]
    } else {
        data.mix.iter().map(|source| source.path.to_vec()).collect()
    };
    let mut train = LmData::default();
    let mut complete = true;
    for group in &groups {
        match problems.absorb(read(group, seed))? {
            Some(rows) => {
                train.rows.append(rows.rows);
                train.counts.add(&rows.counts);
                train.skipped.extend(rows.skipped);
                // A group's rows are counted at its first file.
                train.file_rows.extend(rows.file_rows);
                train.file_rows.extend(std::iter::repeat_n(0, group.len() - 1));
            }
            None => complete = false,
        }
    }
    let eval = eval_sets(&data.eval, problems, |files| read(files, None))?;
    Ok(complete.then(|| {
        let order = sources.order(&train.file_rows, data.shuffle.then_some(config.train.seed));
        Rows::new(train, &sources, config.train.batches(order), eval)
    }))
}

fn eval_sets(
    given: &Files,
    problems: &mut Problems,
    mut read: impl FnMut(&[PathBuf]) -> Result<LmData>,
) -> Result<Vec<(String, LmData)>> {
    let mut sets = Vec::new();
    for (name, set) in set_names(given).into_iter().zip(given.iter()) {
        if let Some(data) = problems.absorb(read(&files_of(set)))? {
            sets.push((name, data));
        }
    }
    Ok(sets)
}

//! From config to rows: dialogues for sft, merged documents for pretraining.

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

/// Everything a run reads.
pub struct Rows {
    /// Training rows of all sources.
    pub train: LmRows,
    /// Which of them each step takes.
    pub batches: Batches,
    /// What was counted in the training data.
    pub counts: Counts,
    /// Held-out files.
    pub eval: Vec<EvalSet>,
    /// What was counted in them.
    pub eval_counts: Counts,
    /// Bad rows of all files that were left out, by name.
    pub skipped: Vec<Problem>,
    /// Under which key the config names the training files.
    key: &'static str,
    /// What is said of the batches.
    uses: Vec<(&'static str, Value)>,
    /// Rows (documents, where those are merged) that equal an earlier one.
    duplicates: u64,
    /// Of each held-out file, how many are also trained on, and how many there are.
    known: Vec<(u64, u64)>,
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
        let known = |set: &EvalSet| {
            set.rows.hashes().fold((0, 0), |(known, all), hash| (known + u64::from(seen.contains(&hash)), all + 1))
        };
        Self {
            known: sets.iter().map(known).collect(),
            key: sources.key(),
            uses: sources.facts(&batches),
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

    /// Where the rows of a step stood, by file and line; of merged documents, the row's number.
    pub fn names(&self, step: u64) -> impl Iterator<Item = String> + '_ {
        let name = |row| self.train.location(row).map_or_else(|| format!("row {row}"), |location| location.to_string());
        self.batches.rows(step).map(name)
    }

    /// Refuses rows that a first-generation model must not be trained on.
    pub fn check_length(&self, header: &Header, problems: &mut Problems) {
        let longest = self.train.longest_piece();
        check_trained_length(header, longest, "data.max_tokens", "lets in a training row", problems);
    }

    /// What became of the data: shown before the first step, and in run.json.
    pub fn facts(&self) -> Vec<(&'static str, Value)> {
        let (train, eval) = (&self.counts, &self.eval_counts);
        let mut bad = train.clone();
        bad.add(eval);
        let mut facts = vec![("rows", json!(self.train.len()))];
        facts.extend(self.uses.iter().cloned());
        let (turns, twice) = match self.train.are_merged() {
            true => ("documents", "duplicate documents"),
            false => ("turns", "duplicate rows"),
        };
        facts.extend([
            (turns, json!(train.turns)),
            ("tokens", json!(train.tokens)),
            ("loss tokens", json!(train.loss_tokens)),
            ("rows dropped for length", json!(train.dropped)),
            ("rows truncated", json!(train.truncated)),
            ("rows with special-token text", json!(train.special_text)),
            (twice, json!(self.duplicates)),
            ("held-out rows dropped", json!(eval.dropped)),
            ("held-out rows truncated", json!(eval.truncated)),
            ("held-out rows trained on", json!(self.known.iter().map(|(known, _)| known).sum::<u64>())),
            ("bad rows skipped", json!(self.skipped.len())),
        ]);
        if bad.begins_with_newline > 0 {
            facts.push(("rows with a turn that begins with a line break", json!(bad.begins_with_newline)));
        }
        if !bad.unread.is_empty() {
            facts.push(("keys that are not read", json!(bad.unread)));
        }
        if !bad.bad.is_empty() {
            facts.push(("bad rows by reason", json!(bad.bad)));
        }
        facts
    }

    /// What of the data does not fit a run with these settings.
    pub fn misfits(&self, sections: &Sections, max_tokens: usize, config: &ModelConfig) -> Vec<String> {
        let train = &self.counts;
        // Of documents those that are left out are counted among all.
        let (rows, all) = match self.train.are_merged() {
            true => ("documents", train.rows),
            false => ("rows", train.rows + train.dropped),
        };
        let sets = self.eval.iter().zip(&self.known);
        let mut found = misfits::schedule(sections.optimizer.lr, &sections.schedule, self.batches.steps());
        found.extend(misfits::dropped("data.max_tokens", max_tokens, rows, train.dropped, all));
        found.extend(misfits::truncated("data.max_tokens", max_tokens, rows, train.truncated, train.rows));
        found.extend(misfits::duplicates(self.key, rows, self.duplicates, train.rows));
        found.extend(sets.filter_map(|(set, (known, all))| misfits::known("data.eval", &set.name, rows, *known, *all)));
        if sections.train.steps.is_some() {
            found.extend(misfits::repeated("train.batch_size", sections.train.batch_size, "rows", self.train.len()));
        }
        let longer_than = |limit| self.train.longer_than(limit);
        found.extend(misfits::beyond_positions(config, "data.max_tokens", "rows are", longer_than));
        found
    }
}

/// Reads what `align sft` needs; mistakes land in `problems`.
///
/// # Errors
/// What is not the user's mistake.
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

/// Reads what `align pretrain` needs; mistakes land in `problems`.
///
/// # Errors
/// What is not the user's mistake.
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
    // Documents are merged within a source, so that a mix can draw rows of one or the other.
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

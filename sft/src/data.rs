//! From config to rows: dialogues for sft, merged documents for pretraining.

use std::collections::HashSet;
use std::path::PathBuf;

use align_common::chatml::ChatFormat;
use align_common::config::Files;
use align_common::data::{Order, files_of};
use align_common::error::{Problem, Problems, Result};
use align_common::lm::{Cache, Counts, LmData, LmRow, LmRows, Reading, chat_rows, text_rows};
use align_common::model::Header;
use align_common::progress::Progress;
use align_common::stage::{Mixture, check_trained_length, set_names};
use align_common::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::config::{PretrainConfig, SftConfig};

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
    /// Which of them stands at which place of the run.
    pub order: Order,
    /// What was counted in the training data.
    pub counts: Counts,
    /// Held-out files.
    pub eval: Vec<EvalSet>,
    /// What was counted in them.
    pub eval_counts: Counts,
    /// Bad rows of all files that were left out, by name.
    pub skipped: Vec<Problem>,
}

impl Rows {
    fn new(train: LmData, order: Order, eval: Vec<(String, LmData)>) -> Self {
        let (mut skipped, mut eval_counts, mut sets) = (train.skipped, Counts::default(), Vec::new());
        for (name, data) in eval {
            eval_counts.add(&data.counts);
            skipped.extend(data.skipped);
            sets.push(EvalSet { name, rows: data.rows });
        }
        Self { train: train.rows, order, counts: train.counts, eval: sets, eval_counts, skipped }
    }

    /// The rows of a step, in order.
    pub fn batch(&self, step: u64, size: u64) -> impl Iterator<Item = LmRow> + '_ {
        self.places(step, size).map(|row| self.train.row(row))
    }

    /// Where the rows of a step stood, by file and line; of merged documents, the row's number.
    pub fn names(&self, step: u64, size: u64) -> impl Iterator<Item = String> + '_ {
        let name = |row| self.train.place(row).map_or_else(|| format!("row {row}"), |place| place.to_string());
        self.places(step, size).map(name)
    }

    fn places(&self, step: u64, size: u64) -> impl Iterator<Item = usize> + '_ {
        (step * size..(step + 1) * size).map(|global| self.order.row(global))
    }

    /// Refuses rows that a first-generation model must not be trained on.
    pub fn check_length(&self, header: &Header, problems: &mut Problems) {
        let longest = self.train.longest_piece();
        check_trained_length(header, longest, "data.max_tokens", "lets in a training row", problems);
    }

    /// What became of the data: shown before the first step, and in run.json.
    pub fn facts(&self) -> Vec<(&'static str, Value)> {
        let (mut seen, mut duplicates) = (HashSet::new(), 0u64);
        self.train.hashes().for_each(|hash| duplicates += u64::from(!seen.insert(hash)));
        let known = self.eval.iter().flat_map(|set| set.rows.hashes()).filter(|hash| seen.contains(hash)).count();
        let (train, eval) = (&self.counts, &self.eval_counts);
        let mut bad = train.clone();
        bad.add(eval);
        let mut facts = vec![
            ("rows", json!(self.train.len())),
            ("turns", json!(train.turns)),
            ("tokens", json!(train.tokens)),
            ("loss tokens", json!(train.loss_tokens)),
            ("rows dropped for length", json!(train.dropped)),
            ("rows truncated", json!(train.truncated)),
            ("rows with special-token text", json!(train.special_text)),
            ("duplicate rows", json!(duplicates)),
            ("held-out rows dropped", json!(eval.dropped)),
            ("held-out rows truncated", json!(eval.truncated)),
            ("held-out rows trained on", json!(known)),
            ("bad rows skipped", json!(self.skipped.len())),
        ];
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
        let order = sources.order(&train.file_rows, config.train.seed, data.shuffle);
        Rows::new(train, order, eval)
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
        let order = sources.order(&train.file_rows, config.train.seed, data.shuffle);
        Rows::new(train, order, eval)
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

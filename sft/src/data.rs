//! From config to rows: dialogues for sft, merged documents for pretraining.

use std::path::PathBuf;

use align_common::chatml::ChatFormat;
use align_common::config::Files;
use align_common::data::Order;
use align_common::error::{Problem, Problems, Result};
use align_common::lm::{LmData, LmRow, chat_rows, text_rows};
use align_common::model::Header;
use align_common::stage::{Mixture, check_trained_length, set_names};
use align_common::tokenizer::Tokenizer;

use crate::config::{PretrainConfig, SftConfig};

/// A held-out file.
pub struct EvalSet {
    /// The file's stem.
    pub name: String,
    /// Its rows.
    pub rows: Vec<LmRow>,
}

/// Everything a run reads.
pub struct Rows {
    /// Training rows of all sources.
    pub train: LmData,
    /// Which of them stands at which place of the run.
    pub order: Order,
    /// Held-out files.
    pub eval: Vec<EvalSet>,
    /// Rows of held-out files that were left out for their length.
    pub eval_dropped: usize,
    /// Rows of held-out files that were cut.
    pub eval_truncated: usize,
    /// Bad rows of all files that were left out, by name.
    pub skipped: Vec<Problem>,
}

impl Rows {
    fn new(mut train: LmData, order: Order, eval: Vec<(String, LmData)>) -> Self {
        let mut skipped = std::mem::take(&mut train.skipped);
        let (mut eval_dropped, mut eval_truncated, mut sets) = (0, 0, Vec::new());
        for (name, data) in eval {
            eval_dropped += data.dropped;
            eval_truncated += data.truncated;
            skipped.extend(data.skipped);
            sets.push(EvalSet { name, rows: data.rows });
        }
        Self { train, order, eval: sets, eval_dropped, eval_truncated, skipped }
    }

    /// The rows of a step, in order.
    pub fn batch(&self, step: u64, size: u64) -> impl Iterator<Item = &LmRow> {
        (step * size..(step + 1) * size).map(|global| &self.train.rows[self.order.row(global)])
    }

    /// Refuses rows that a first-generation model must not be trained on.
    pub fn check_length(&self, header: &Header, problems: &mut Problems) {
        let longest =
            self.train.rows.iter().flat_map(|row| &row.pieces).map(|piece| piece.tokens.len()).max().unwrap_or(0);
        check_trained_length(header, longest, "data.max_tokens", "lets in a training row", problems);
    }
}

/// Reads what `align sft` needs; mistakes land in `problems`.
///
/// # Errors
/// What is not the user's mistake.
pub fn sft_rows(config: &SftConfig, format: &ChatFormat, problems: &mut Problems) -> Result<Option<Rows>> {
    let data = &config.data;
    let read = |files: &[PathBuf]| {
        chat_rows(files, format, data.loss_on, Some((data.max_tokens, data.overlong)), data.bad_rows)
    };
    let sources = Mixture::new(&data.train, &data.mix);
    let train = problems.absorb(read(&sources.files))?;
    let eval = eval_sets(&data.eval, problems, |file| read(std::slice::from_ref(file)))?;
    Ok(train.map(|train| {
        let order = sources.order(&train.file_rows, config.train.seed, data.shuffle);
        Rows::new(train, order, eval)
    }))
}

/// Reads what `align pretrain` needs; mistakes land in `problems`.
///
/// # Errors
/// What is not the user's mistake.
pub fn pretrain_rows(config: &PretrainConfig, tokenizer: &Tokenizer, problems: &mut Problems) -> Result<Option<Rows>> {
    let data = &config.data;
    let read = |files: &[PathBuf], seed: Option<u64>| {
        text_rows(files, tokenizer, data.max_tokens, data.overlong, seed, data.bad_rows)
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
                train.rows.extend(rows.rows);
                train.dropped += rows.dropped;
                train.truncated += rows.truncated;
                train.skipped.extend(rows.skipped);
                // A group's rows are counted at its first file.
                train.file_rows.extend(rows.file_rows);
                train.file_rows.extend(std::iter::repeat_n(0, group.len() - 1));
            }
            None => complete = false,
        }
    }
    let eval = eval_sets(&data.eval, problems, |file| read(std::slice::from_ref(file), None))?;
    Ok(complete.then(|| {
        let order = sources.order(&train.file_rows, config.train.seed, data.shuffle);
        Rows::new(train, order, eval)
    }))
}

fn eval_sets(
    files: &Files,
    problems: &mut Problems,
    read: impl Fn(&PathBuf) -> Result<LmData>,
) -> Result<Vec<(String, LmData)>> {
    let mut sets = Vec::new();
    for (name, file) in set_names(files).into_iter().zip(files.iter()) {
        if let Some(data) = problems.absorb(read(file))? {
            sets.push((name, data));
        }
    }
    Ok(sets)
}

//! Comparisons in tokens. The shared prefix of a comparison's dialogues is stored and computed once.

use std::path::PathBuf;

use align_core::error::{Problem, Problems, Result};
use align_data::{self as data, BadRows, Comparison, RowLocation, Unread};
use align_kernels::batch::FlatBatch;
use align_text::chatml::{ChatFormat, Dialogue, Encoded};
use tch::{Device, Tensor};

use crate::loss::Pairs;
use crate::stats::best;

/// A comparison in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The tokens that all dialogues begin with.
    pub prefix: Vec<i64>,
    /// The remaining tokens of each dialogue, up to the end token at which it is scored. The first dialogue
    /// of a pair is the chosen one.
    pub tails: Vec<Vec<i64>>,
    /// The best dialogue: the first with the highest score, or the first one without scores.
    pub best: usize,
    /// The index of each dialogue's token at which its last answer begins.
    pub answer_starts: Vec<usize>,
    /// The scores of the data, if any; without scores, the dialogues are ordered best first.
    pub scores: Option<Vec<f64>>,
    /// Number of turns of all dialogues.
    pub turns: u64,
    /// Whether a text spells a special token; it is tokenized as ordinary text.
    pub has_special_text: bool,
    /// Whether a turn's text begins with a line break; other programs tokenize it differently.
    pub begins_with_newline: bool,
    /// The location in the data.
    pub location: RowLocation,
}

impl Row {
    /// Renders a comparison and finds its shared prefix.
    ///
    /// # Errors
    /// As [`ChatFormat::dialogue`].
    pub fn new(
        comparison: &Comparison,
        format: &ChatFormat,
        location: RowLocation,
    ) -> std::result::Result<Self, String> {
        let encoded = comparison.dialogues.iter().map(|dialogue| format.scored(dialogue));
        let encoded: Vec<_> = encoded.collect::<std::result::Result<_, String>>()?;
        let (prefix, tails) = share_prefix(&encoded);
        let best = comparison.scores.as_deref().map_or(0, best);
        let answer_starts = encoded.iter().map(|encoded| encoded.answer).collect();
        let texts = || comparison.dialogues.iter().flat_map(Dialogue::texts);
        Ok(Self {
            prefix,
            tails,
            best,
            answer_starts,
            scores: comparison.scores.clone(),
            turns: comparison.dialogues.iter().map(|dialogue| dialogue.messages.len() as u64).sum(),
            has_special_text: texts().any(|text| format.tokenizer().spells_special(text)),
            begins_with_newline: encoded.iter().any(|encoded| encoded.begins_with_newline),
            location,
        })
    }

    /// All dialogues.
    pub fn branches(&self) -> Branches<'_> {
        Branches { prefix: &self.prefix, tails: &self.tails }
    }

    /// Number of tokens to compute.
    pub fn len(&self) -> usize {
        self.branches().len()
    }

    /// Tokens of all dialogues; the prefix counts once per dialogue.
    pub fn len_unshared(&self) -> usize {
        self.len() + self.prefix.len() * (self.tails.len() - 1)
    }

    /// Always false: a comparison has end tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of the longest dialogue, in tokens.
    pub fn longest(&self) -> usize {
        self.branches().longest()
    }

    /// Number of tokens of a dialogue's last answer, with the end token.
    pub fn num_answer_tokens(&self, dialogue: usize) -> usize {
        self.prefix.len() + self.tails[dialogue].len() - self.answer_starts[dialogue]
    }

    /// All tokens of a dialogue.
    pub fn dialogue(&self, dialogue: usize) -> Vec<i64> {
        [self.prefix.as_slice(), &self.tails[dialogue]].concat()
    }

    /// The first dialogue up to its last answer.
    pub fn prompt(&self) -> Vec<i64> {
        let mut prompt = self.dialogue(0);
        prompt.truncate(self.answer_starts[0]);
        prompt
    }

    /// The same answers after another prompt.
    pub fn with_prompt(&self, prompt: Vec<i64>) -> Self {
        let answer = |dialogue: usize| self.dialogue(dialogue)[self.answer_starts[dialogue]..].to_vec();
        Self {
            tails: (0..self.tails.len()).map(answer).collect(),
            answer_starts: vec![prompt.len(); self.tails.len()],
            prefix: prompt,
            best: self.best,
            scores: self.scores.clone(),
            turns: self.turns,
            has_special_text: self.has_special_text,
            begins_with_newline: self.begins_with_newline,
            location: self.location.clone(),
        }
    }

    /// The pairs (better, worse), as indices of dialogues.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        match &self.scores {
            Some(scores) => crate::loss::scored_pairs(scores),
            None => crate::loss::ranked_pairs(self.tails.len()),
        }
    }
}

/// Dialogues with a shared prefix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Branches<'a> {
    /// The tokens that all dialogues begin with; may be empty.
    pub prefix: &'a [i64],
    /// The remaining tokens of each dialogue, up to its end token.
    pub tails: &'a [Vec<i64>],
}

impl Branches<'_> {
    /// Number of tokens to compute.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.tails.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of the longest dialogue, in tokens.
    pub fn longest(&self) -> usize {
        self.prefix.len() + self.tails.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Appends the dialogues to `flat`, the prefix once, and the index of every end token to `ends`.
    fn push_to(&self, flat: &mut FlatBatch, ends: &mut Vec<i64>) {
        let prefix = (!self.prefix.is_empty()).then(|| flat.push(self.prefix, None));
        for tail in self.tails {
            flat.push(tail, prefix);
            ends.push(flat.len() as i64 - 1);
        }
    }

    /// As [`Self::push_to`], with the prefix repeated in each dialogue.
    fn push_unshared_to(&self, flat: &mut FlatBatch, ends: &mut Vec<i64>) {
        for tail in self.tails {
            flat.push(&[self.prefix, tail].concat(), None);
            ends.push(flat.len() as i64 - 1);
        }
    }
}

/// The longest common prefix of dialogues, and the remaining tokens of each: at least its end token. The
/// prefix of a single dialogue is empty.
pub(crate) fn share_prefix(dialogues: &[Encoded]) -> (Vec<i64>, Vec<Vec<i64>>) {
    let (first, rest) = dialogues.split_first().expect("there are dialogues");
    let shared = |other: &Encoded| first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
    let shortest = dialogues.iter().map(|dialogue| dialogue.tokens.len()).min().expect("there are dialogues");
    let cut = rest.iter().map(shared).min().unwrap_or(0).min(shortest - 1);
    (first.tokens[..cut].to_vec(), dialogues.iter().map(|dialogue| dialogue.tokens[cut..].to_vec()).collect())
}

/// Comparisons of some files, and counts of the rows that were left out.
#[derive(Debug, Default)]
pub struct Comparisons {
    /// In file order.
    pub rows: Vec<Row>,
    /// Number of rows from each file.
    pub file_rows: Vec<usize>,
    /// Comparisons left out because of their length.
    pub dropped: usize,
    /// Comparisons left out because all scores are equal.
    pub tied: usize,
    /// Bad rows that were skipped, with location and reason.
    pub skipped: Vec<Problem>,
    /// Keys that are not read.
    pub unread: Unread,
}

/// Reads comparison files. Comparisons with a dialogue of more than `max_tokens` and comparisons without a
/// better answer are left out and counted.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] for bad rows (unless skipped), and for a file without a remaining
/// comparison.
pub fn read(
    files: &[PathBuf],
    format: &ChatFormat,
    max_tokens: Option<usize>,
    bad_rows: BadRows,
) -> Result<Comparisons> {
    let (mut result, mut problems) = (Comparisons::default(), Problems::new());
    let row = |location: &RowLocation, comparison: Comparison| Row::new(&comparison, format, location.clone());
    for file in files {
        let read = data::read_rows(std::slice::from_ref(file), bad_rows, &row);
        let Some(read) = problems.absorb(read)? else { continue };
        result.skipped.extend(read.skipped);
        result.unread.add(&read.unread);
        let (mut dropped, mut tied, before) = (0, 0, result.rows.len());
        for (_, row) in read.records {
            if max_tokens.is_some_and(|max_tokens| row.longest() > max_tokens) {
                dropped += 1;
            } else if row.pairs().is_empty() {
                tied += 1;
            } else {
                result.rows.push(row);
            }
        }
        result.dropped += dropped;
        result.tied += tied;
        let kept = result.rows.len() - before;
        if kept == 0 {
            let what = format!(
                "no comparison is left ({dropped} longer than data.max_tokens, {tied} without a better answer), expected at least one"
            );
            problems.push(file.display(), what);
        }
        result.file_rows.push(kept);
    }
    problems.into_result()?;
    Ok(result)
}

/// A flat batch of dialogues, and the (S) indices of their end tokens. If a dialogue has more than
/// `longest_shared` tokens, its branches are computed without a shared prefix.
pub fn lay_out<'a>(
    branches: impl Iterator<Item = Branches<'a>>,
    longest_shared: usize,
    device: Device,
) -> (FlatBatch, Tensor) {
    let (mut flat, mut ends) = (FlatBatch::new(), Vec::new());
    for branches in branches {
        if branches.longest() <= longest_shared {
            branches.push_to(&mut flat, &mut ends);
        } else {
            branches.push_unshared_to(&mut flat, &mut ends);
        }
    }
    (flat, Tensor::from_slice(&ends).to_device(device))
}

/// Comparisons as a flat batch.
pub struct RmBatch {
    /// Each prefix once, then its tails.
    pub flat: FlatBatch,
    /// (S) the index of every dialogue's end token.
    pub ends: Tensor,
}

/// Concatenates comparisons into a flat batch.
pub fn flatten(rows: &[&Row], device: Device) -> RmBatch {
    let (mut flat, mut ends) = (FlatBatch::new(), Vec::new());
    rows.iter().for_each(|row| row.branches().push_to(&mut flat, &mut ends));
    RmBatch { flat, ends: Tensor::from_slice(&ends).to_device(device) }
}

/// What `loss.margin` subtracts from chosen − rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Margin {
    /// Nothing.
    None,
    /// The difference of the data's scores, if any.
    OfScores,
}

/// The pairs of these comparisons, as indices of their (S) scalars.
pub fn pairs(rows: &[&Row], margin: Margin) -> Pairs {
    let (mut pairs, mut start) = (Pairs::new(), 0);
    for row in rows {
        let dialogues = start..start + row.tails.len();
        start = dialogues.end;
        match (&row.scores, margin) {
            (Some(scores), Margin::OfScores) => pairs.push_scored_with_margin(dialogues, scores),
            (Some(scores), Margin::None) => pairs.push_scored(dialogues, scores),
            (None, _) => pairs.push_ranked(dialogues),
        }
    }
    pairs
}

//! Comparisons, as the reward model reads them: what the dialogues of a comparison share is stored and computed once.

use std::path::PathBuf;

use align_core::error::{Problem, Problems, Result};
use align_data::{self as data, BadRows, Comparison, RowLocation, Unread};
use align_kernels::batch::FlatBatch;
use align_text::chatml::{ChatFormat, Dialogue, Encoded};
use tch::{Device, Tensor};

use crate::loss::Pairs;
use crate::stats::best;

/// One comparison in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What all dialogues begin with.
    pub prefix: Vec<i64>,
    /// How each dialogue goes on; each ends at its end token, where it is scored. The first of a pair is the chosen one.
    pub tails: Vec<Vec<i64>>,
    /// The best dialogue: the first, or the first of those with the highest score.
    pub best: usize,
    /// Where each dialogue's last answer begins, counted from the dialogue's start.
    pub answer_starts: Vec<usize>,
    /// People's scores, where the data has them; without, the dialogues are ordered best first.
    pub scores: Option<Vec<f64>>,
    /// Turns of all its dialogues.
    pub turns: u64,
    /// Whether one of its texts spells a special token, which it does not become.
    pub has_special_text: bool,
    /// Whether a turn's text begins with a line break, which other programs tokenize in another way.
    pub begins_with_newline: bool,
    /// Where the comparison stood.
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

    /// All its dialogues.
    pub fn branches(&self) -> Branches<'_> {
        Branches { prefix: &self.prefix, tails: &self.tails }
    }

    /// Tokens that are computed for this comparison.
    pub fn len(&self) -> usize {
        self.branches().len()
    }

    /// Tokens of all dialogues, each counted whole.
    pub fn len_unshared(&self) -> usize {
        self.len() + self.prefix.len() * (self.tails.len() - 1)
    }

    /// Never: a comparison has at least its end tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The longest dialogue, in tokens.
    pub fn longest(&self) -> usize {
        self.branches().longest()
    }

    /// Tokens of a dialogue's last answer, its end included.
    pub fn num_answer_tokens(&self, dialogue: usize) -> usize {
        self.prefix.len() + self.tails[dialogue].len() - self.answer_starts[dialogue]
    }

    /// A dialogue, whole.
    pub fn dialogue(&self, dialogue: usize) -> Vec<i64> {
        [self.prefix.as_slice(), &self.tails[dialogue]].concat()
    }

    /// The first dialogue up to its last answer.
    pub fn prompt(&self) -> Vec<i64> {
        let mut prompt = self.dialogue(0);
        prompt.truncate(self.answer_starts[0]);
        prompt
    }

    /// The same answers behind another prompt.
    pub fn behind(&self, prompt: Vec<i64>) -> Self {
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

    /// The pairs (better, worse) of this comparison, as indices of its dialogues.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        match &self.scores {
            Some(scores) => crate::loss::scored_pairs(scores),
            None => crate::loss::ranked_pairs(self.tails.len()),
        }
    }
}

/// Dialogues that begin alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Branches<'a> {
    /// What they begin with; may be empty.
    pub prefix: &'a [i64],
    /// How each goes on, to its end token.
    pub tails: &'a [Vec<i64>],
}

impl Branches<'_> {
    /// Tokens that are computed for them.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.tails.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of the longest dialogue.
    pub fn longest(&self) -> usize {
        self.prefix.len() + self.tails.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Lays them out behind what `flat` holds, the prefix once; adds the place of every end token to `ends`.
    fn push_to(&self, flat: &mut FlatBatch, ends: &mut Vec<i64>) {
        let prefix = (!self.prefix.is_empty()).then(|| flat.push(self.prefix, None));
        for tail in self.tails {
            flat.push(tail, prefix);
            ends.push(flat.len() as i64 - 1);
        }
    }

    /// As [`Self::push_to`], each dialogue whole.
    fn push_unshared_to(&self, flat: &mut FlatBatch, ends: &mut Vec<i64>) {
        for tail in self.tails {
            flat.push(&[self.prefix, tail].concat(), None);
            ends.push(flat.len() as i64 - 1);
        }
    }
}

/// What dialogues share at token level, and how each goes on. At least its end token stays outside the prefix; a single dialogue
/// shares nothing.
pub(crate) fn share_prefix(dialogues: &[Encoded]) -> (Vec<i64>, Vec<Vec<i64>>) {
    let (first, rest) = dialogues.split_first().expect("there are dialogues");
    let shared = |other: &Encoded| first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
    let shortest = dialogues.iter().map(|dialogue| dialogue.tokens.len()).min().expect("there are dialogues");
    let cut = rest.iter().map(shared).min().unwrap_or(0).min(shortest - 1);
    (first.tokens[..cut].to_vec(), dialogues.iter().map(|dialogue| dialogue.tokens[cut..].to_vec()).collect())
}

/// Comparisons and what was counted on the way to them.
#[derive(Debug, Default)]
pub struct Comparisons {
    /// In file order.
    pub rows: Vec<Row>,
    /// How many each file gave.
    pub file_rows: Vec<usize>,
    /// Comparisons left out for their length.
    pub dropped: usize,
    /// Comparisons without a pair: all scores equal.
    pub tied: usize,
    /// Bad rows that were skipped, by name.
    pub skipped: Vec<Problem>,
    /// Keys that nothing read.
    pub unread: Unread,
}

/// Reads comparison files. Longer ones than `max_tokens` are left out and counted, as are those in which nothing is better
/// than anything.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] for bad rows (unless skipped), and for a file of which no comparison is left.
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

/// Dialogues laid out flat, and the (S) places of their end tokens. Those with a dialogue of more than `longest_shared` tokens
/// share no prefix.
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

/// Comparisons laid out flat.
pub struct RmBatch {
    /// The flat batch: each prefix once, its tails after it.
    pub flat: FlatBatch,
    /// (S) index of every dialogue's end token.
    pub ends: Tensor,
}

/// Lays comparisons out.
pub fn flatten(rows: &[&Row], device: Device) -> RmBatch {
    let (mut flat, mut ends) = (FlatBatch::new(), Vec::new());
    rows.iter().for_each(|row| row.branches().push_to(&mut flat, &mut ends));
    RmBatch { flat, ends: Tensor::from_slice(&ends).to_device(device) }
}

/// By how much the scores of a pair have to differ: `loss.margin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Margin {
    /// By nothing in particular.
    None,
    /// By as much as the data's scores do, where it has any.
    OfScores,
}

/// The pairs among the (S) scalars of comparisons that are laid out in this order.
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

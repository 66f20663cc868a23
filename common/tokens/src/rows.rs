//! Reads files into rows: dialogues in ChatML for sft, documents packed to a fixed length for pretraining.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::dataset::{LmRows, Merged};
use super::store::PackedTokens;
use super::tokenize::{Counts, Reading, RowOutcome, TokenizeSpec, TokenizedFile, TokenizedRow, tokenize};
use align_core::config::Overlong;
use align_core::error::{Error, Problem, Problems, Result};
use align_core::random::{Permutation, Purpose};
use align_data::{self as data, BadRows, Kind, Parsed, Record, RowLocation};
use align_text::chatml::{ChatFormat, Dialogue, LossOn};
use align_text::tokenizer::Tokenizer;

/// Rows with their statistics.
#[derive(Debug, Default)]
pub struct LmData {
    /// The rows, in file order.
    pub rows: LmRows,
    /// The number of rows of each file.
    pub file_rows: Vec<usize>,
    /// The statistics.
    pub counts: Counts,
    /// Bad rows that `data.bad_rows = "skip"` skipped.
    pub skipped: Vec<Problem>,
}

impl LmData {
    fn add(&mut self, tokenized: &TokenizedFile) {
        self.counts.add(&tokenized.about.counts);
        self.skipped.extend(tokenized.skipped());
    }
}

/// Dialogues, in the ChatML of a checkpoint.
struct Chat<'a> {
    format: &'a ChatFormat,
    loss_on: LossOn,
    limit: Option<(usize, Overlong)>,
}

impl TokenizeSpec for Chat<'_> {
    const KIND: Kind = Kind::Chat;

    fn cache_key(&self) -> Value {
        json!(["chat", self.format.cache_key(), self.loss_on, self.limit])
    }

    fn tokenize(&self, record: Record) -> Parsed<TokenizedRow> {
        let Record::Chat(dialogue) = record else { unreachable!("a chat file gives chat records") };
        let tokenizer = self.format.tokenizer();
        let has_special_text = dialogue.texts().any(|text| tokenizer.spells_special(text));
        let encoded = self.format.dialogue(&dialogue, self.loss_on)?;
        let (mut tokens, mut mask) = (encoded.tokens, encoded.loss_mask);
        let mut outcome = RowOutcome::Kept;
        if let Some((max_tokens, overlong)) = self.limit.filter(|(max_tokens, _)| tokens.len() > *max_tokens) {
            tokens.truncate(max_tokens);
            mask.truncate(max_tokens);
            let is_left = overlong == Overlong::Truncate && mask[1..].contains(&true);
            outcome = if is_left { RowOutcome::Truncated } else { RowOutcome::Dropped };
        }
        Ok(TokenizedRow {
            turns: dialogue.messages.len() as u64,
            tokens: tokens.len() as u64,
            loss_tokens: mask.iter().skip(1).filter(|counts| **counts).count() as u64,
            packed: PackedTokens::new(&tokens, mask),
            has_special_text,
            begins_with_newline: encoded.begins_with_newline,
            outcome,
        })
    }
}

/// Documents, without an end token.
struct Text<'a> {
    tokenizer: &'a Tokenizer,
}

impl TokenizeSpec for Text<'_> {
    const KIND: Kind = Kind::Text;

    fn cache_key(&self) -> Value {
        json!(["text", self.tokenizer.fingerprint()])
    }

    fn tokenize(&self, record: Record) -> Parsed<TokenizedRow> {
        let Record::Text(text) = record else { unreachable!("a text file gives text records") };
        let tokens = self.tokenizer.encode_whole(&text)?;
        Ok(TokenizedRow {
            turns: 1,
            tokens: tokens.len() as u64,
            loss_tokens: tokens.len() as u64,
            has_special_text: self.tokenizer.spells_special(&text),
            begins_with_newline: false,
            packed: PackedTokens::new(&tokens, std::iter::repeat(true)),
            outcome: RowOutcome::Kept,
        })
    }
}

/// Comparisons or prompts, tokenized only to count: all dialogues of a row as one sequence.
struct CountOnly<'a, const COMPARISONS: bool> {
    format: &'a ChatFormat,
}

impl<const COMPARISONS: bool> TokenizeSpec for CountOnly<'_, COMPARISONS> {
    const KIND: Kind = if COMPARISONS { Kind::Comparison } else { Kind::Prompt };

    fn cache_key(&self) -> Value {
        json!([Self::KIND.name(), self.format.cache_key()])
    }

    fn tokenize(&self, record: Record) -> Parsed<TokenizedRow> {
        let dialogues = match record {
            Record::Comparison(comparison) => comparison.dialogues,
            Record::Prompt(dialogue) => vec![dialogue],
            _ => unreachable!("a file gives the records that were asked for"),
        };
        let mut tokens = Vec::new();
        let mut begins_with_newline = false;
        for dialogue in &dialogues {
            if COMPARISONS {
                let encoded = self.format.scored(dialogue)?;
                begins_with_newline |= encoded.begins_with_newline;
                tokens.extend(encoded.tokens);
            } else {
                tokens.extend(self.format.prompt(dialogue)?);
            }
        }
        let mut texts = dialogues.iter().flat_map(Dialogue::texts);
        Ok(TokenizedRow {
            turns: dialogues.iter().map(|dialogue| dialogue.messages.len() as u64).sum(),
            tokens: tokens.len() as u64,
            loss_tokens: 0,
            packed: PackedTokens::new(&tokens, std::iter::repeat(false)),
            has_special_text: texts.any(|text| self.format.tokenizer().spells_special(text)),
            begins_with_newline,
            outcome: RowOutcome::Kept,
        })
    }
}

/// Reads comparisons or prompts for their statistics. Each becomes one row with the tokens of all its
/// dialogues.
///
/// # Errors
/// As [`chat_rows`].
pub fn count_rows(
    files: &[PathBuf],
    comparisons: bool,
    format: &ChatFormat,
    reading: &mut Reading<'_>,
) -> Result<LmData> {
    if comparisons {
        each_file(files, &CountOnly::<true> { format }, reading, LmRows::dialogues)
    } else {
        each_file(files, &CountOnly::<false> { format }, reading, LmRows::dialogues)
    }
}

/// Reads dialogues and encodes them in ChatML.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped), and for a file without a usable row.
pub fn chat_rows(
    files: &[PathBuf],
    format: &ChatFormat,
    loss_on: LossOn,
    limit: Option<(usize, Overlong)>,
    reading: &mut Reading<'_>,
) -> Result<LmData> {
    let (mut result, mut problems) = (LmData::default(), Problems::new());
    let spec = Chat { format, loss_on, limit };
    for file in files {
        let Some(tokenized) = problems.absorb(tokenize(file, &spec, reading))? else { continue };
        let counts = &tokenized.about.counts;
        problems.absorb(refuse_empty(file, counts, limit.map(|(_, overlong)| overlong)))?;
        result.add(&tokenized);
        let rows = LmRows::dialogues(tokenized);
        result.file_rows.push(rows.len());
        result.rows.append(rows);
    }
    problems.into_result()?;
    Ok(result)
}

/// Reads documents and tokenizes each, without an end token.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped).
pub fn documents(files: &[PathBuf], tokenizer: &Tokenizer, bad_rows: BadRows) -> Result<(Vec<Vec<i64>>, Vec<Problem>)> {
    let tokens = |_: &RowLocation, record| match record {
        Record::Text(text) => tokenizer.encode_whole(&text),
        _ => unreachable!("a text file gives text records"),
    };
    let read = data::read_as(files, Kind::Text, bad_rows, &tokens)?;
    Ok((read.records.into_iter().map(|(_, tokens)| tokens).collect(), read.skipped))
}

/// Reads documents, shuffles them if there is a seed, and packs them into rows of `max_tokens`. With an
/// [`Overlong`], longer documents are dropped or cut first; without, they continue in the next row.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped), and when no row is left.
pub fn text_rows(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    max_tokens: usize,
    overlong: Option<Overlong>,
    shuffle_seed: Option<u64>,
    reading: &mut Reading<'_>,
) -> Result<LmData> {
    let (mut result, mut problems) = (LmData::default(), Problems::new());
    let mut sources = Vec::new();
    for file in files {
        let Some(tokenized) = problems.absorb(tokenize(file, &Text { tokenizer }, reading))? else { continue };
        result.add(&tokenized);
        sources.push(tokenized);
    }
    problems.into_result()?;

    let mut sequences: Vec<(u32, u32)> = Vec::new();
    let max_document = overlong.map_or(usize::MAX - 1, |_| max_tokens - 1); // one token less, for the end token
    for (source, tokenized) in sources.iter().enumerate() {
        let is_long = |sequence: &usize| tokenized.store.length(*sequence) > max_document;
        let long = (0..tokenized.store.len()).filter(is_long).count() as u64;
        let drops = overlong == Some(Overlong::Drop);
        *(if drops { &mut result.counts.dropped } else { &mut result.counts.truncated }) += long;
        let kept = (0..tokenized.store.len()).filter(|sequence| !drops || !is_long(sequence));
        sequences.extend(kept.map(|sequence| (source as u32, sequence as u32)));
    }
    if let Some(seed) = shuffle_seed {
        let permutation = Permutation::new(sequences.len() as u64, seed, Purpose::Order, u64::MAX);
        sequences = (0..sequences.len()).map(|index| sequences[permutation.get(index as u64) as usize]).collect();
    }
    let merged = Merged::new(sources, sequences, max_document, tokenizer.special().endoftext, max_tokens);
    (result.counts.tokens, result.counts.loss_tokens) = (merged.num_tokens(), merged.num_targets());
    result.rows = LmRows::merged(merged);
    result.file_rows = vec![result.rows.len()];
    if let Some(file) = files.first() {
        let counts = Counts { rows: result.rows.len() as u64, ..result.counts.clone() };
        refuse_empty(file, &counts, overlong)?;
    }
    Ok(result)
}

/// Whether a file has documents rather than dialogues.
pub fn is_text(file: &Path) -> bool {
    matches!(data::kind_of_rows(file), Ok(Kind::Text))
}

/// Reads documents, one per row, in pieces of at most `max_tokens`.
///
/// # Errors
/// [`Error::Invalid`] for bad rows.
pub fn document_rows(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    max_tokens: usize,
    reading: &mut Reading<'_>,
) -> Result<LmData> {
    let rows = |tokenized| LmRows::documents(tokenized, tokenizer.special().endoftext, max_tokens);
    each_file(files, &Text { tokenizer }, reading, rows)
}

/// The rows of all files, concatenated.
fn each_file<R: TokenizeSpec>(
    files: &[PathBuf],
    spec: &R,
    reading: &mut Reading<'_>,
    rows: impl Fn(TokenizedFile) -> LmRows,
) -> Result<LmData> {
    let (mut result, mut problems) = (LmData::default(), Problems::new());
    for file in files {
        let Some(tokenized) = problems.absorb(tokenize(file, spec, reading))? else { continue };
        result.add(&tokenized);
        let rows = rows(tokenized);
        result.file_rows.push(rows.len());
        result.rows.append(rows);
    }
    problems.into_result()?;
    Ok(result)
}

fn refuse_empty(file: &Path, counts: &Counts, overlong: Option<Overlong>) -> Result<()> {
    if counts.rows > 0 {
        return Ok(());
    }
    let dropped = counts.dropped;
    let why = match overlong {
        _ if dropped == 0 => "no usable row, expected at least one".to_owned(),
        Some(Overlong::Truncate) => format!(
            "no row is left ({dropped} have no token with loss within data.max_tokens), expected at least one; raise data.max_tokens"
        ),
        _ => format!(
            "no row is left ({dropped} are longer than data.max_tokens), expected at least one; raise data.max_tokens or set data.overlong = \"truncate\""
        ),
    };
    Err(Error::invalid(file.display(), why))
}

//! Reads files into rows: dialogues in ChatML for sft, documents packed to a fixed length for pretraining.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::dataset::{LmRows, Merged};
use super::store::PackedTokens;
use super::tokenize::{Counts, Reading, RowOutcome, TokenizeSpec, TokenizedFile, TokenizedRow, tokenize};
use align_core::config::Overlong;
use align_core::error::{Error, Problem, Problems, Result};
use align_core::random::{Permutation, Purpose};
use align_data::{self as data, BadRows, Chat, Comparison, Kind, Parsed, Prompt, Text, TypedRow};
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
struct ChatSpec<'a> {
    format: &'a ChatFormat,
    loss_on: LossOn,
    limit: Option<(usize, Overlong)>,
}

impl TokenizeSpec for ChatSpec<'_> {
    type Row = Chat;

    fn cache_key(&self) -> Value {
        json!(["chat", self.format.cache_key(), self.loss_on, self.limit])
    }

    fn tokenize(&self, Chat(dialogue): Chat) -> Parsed<TokenizedRow> {
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
struct TextSpec<'a> {
    tokenizer: &'a Tokenizer,
}

impl TokenizeSpec for TextSpec<'_> {
    type Row = Text;

    fn cache_key(&self) -> Value {
        json!(["text", self.tokenizer.fingerprint()])
    }

    fn tokenize(&self, Text(text): Text) -> Parsed<TokenizedRow> {
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

/// Comparisons, tokenized for statistics: all dialogues of a row as one sequence.
struct ComparisonSpec<'a> {
    format: &'a ChatFormat,
}

impl TokenizeSpec for ComparisonSpec<'_> {
    type Row = Comparison;

    fn cache_key(&self) -> Value {
        json!([Comparison::KIND.name(), self.format.cache_key()])
    }

    fn tokenize(&self, comparison: Comparison) -> Parsed<TokenizedRow> {
        let (mut tokens, mut begins_with_newline) = (Vec::new(), false);
        for dialogue in &comparison.dialogues {
            let encoded = self.format.scored(dialogue)?;
            begins_with_newline |= encoded.begins_with_newline;
            tokens.extend(encoded.tokens);
        }
        Ok(TokenizedRow { begins_with_newline, ..without_loss(&comparison.dialogues, &tokens, self.format) })
    }
}

/// Prompts, tokenized for statistics.
struct PromptSpec<'a> {
    format: &'a ChatFormat,
}

impl TokenizeSpec for PromptSpec<'_> {
    type Row = Prompt;

    fn cache_key(&self) -> Value {
        json!([Prompt::KIND.name(), self.format.cache_key()])
    }

    fn tokenize(&self, Prompt(dialogue): Prompt) -> Parsed<TokenizedRow> {
        let tokens = self.format.prompt(&dialogue)?;
        Ok(without_loss(&[dialogue], &tokens, self.format))
    }
}

/// Dialogues as one sequence of tokens without loss.
fn without_loss(dialogues: &[Dialogue], tokens: &[i64], format: &ChatFormat) -> TokenizedRow {
    let mut texts = dialogues.iter().flat_map(Dialogue::texts);
    TokenizedRow {
        turns: dialogues.iter().map(|dialogue| dialogue.messages.len() as u64).sum(),
        tokens: tokens.len() as u64,
        loss_tokens: 0,
        packed: PackedTokens::new(tokens, std::iter::repeat(false)),
        has_special_text: texts.any(|text| format.tokenizer().spells_special(text)),
        begins_with_newline: false,
        outcome: RowOutcome::Kept,
    }
}

/// Reads comparisons for their statistics. Each becomes one row with the tokens of all its dialogues.
///
/// # Errors
/// As [`chat_rows`].
pub fn comparison_rows(files: &[PathBuf], format: &ChatFormat, reading: &mut Reading<'_>) -> Result<LmData> {
    each_file(files, &ComparisonSpec { format }, reading, LmRows::dialogues)
}

/// Reads prompts for their statistics.
///
/// # Errors
/// As [`chat_rows`].
pub fn prompt_rows(files: &[PathBuf], format: &ChatFormat, reading: &mut Reading<'_>) -> Result<LmData> {
    each_file(files, &PromptSpec { format }, reading, LmRows::dialogues)
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
    let spec = ChatSpec { format, loss_on, limit };
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
    let read = data::read_rows(files, bad_rows, &|_, Text(text)| tokenizer.encode_whole(&text))?;
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
        let Some(tokenized) = problems.absorb(tokenize(file, &TextSpec { tokenizer }, reading))? else { continue };
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
    each_file(files, &TextSpec { tokenizer }, reading, rows)
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

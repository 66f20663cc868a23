//! Files to rows: dialogues in ChatML for sft, documents merged for pretraining.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::prepare::{Counts, Fate, Listed, Prepared, Reading, Recipe, prepare};
use super::store::Words;
use super::view::{LmRows, Merged};
use align_core::config::Overlong;
use align_core::error::{Error, Problem, Problems, Result};
use align_core::random::{Permutation, Purpose};
use align_data::{self as data, BadRows, Kind, Parsed, Place, Record};
use align_text::chatml::{ChatFormat, Dialogue, LossOn};
use align_text::tokenizer::Tokenizer;

/// Rows and what was counted on the way to them.
#[derive(Debug, Default)]
pub struct LmData {
    /// The rows, in file order.
    pub rows: LmRows,
    /// How many rows each file gave.
    pub file_rows: Vec<usize>,
    /// What was counted.
    pub counts: Counts,
    /// Bad rows that `data.bad_rows = "skip"` left out, by name.
    pub skipped: Vec<Problem>,
}

impl LmData {
    fn add(&mut self, prepared: &Prepared) {
        self.counts.add(&prepared.about.counts);
        self.skipped.extend(prepared.skipped());
    }
}

/// Dialogues, in a checkpoint's ChatML.
struct Chat<'a> {
    format: &'a ChatFormat,
    loss_on: LossOn,
    limit: Option<(usize, Overlong)>,
}

impl Recipe for Chat<'_> {
    const KIND: Kind = Kind::Chat;

    fn describe(&self) -> Value {
        json!(["chat", self.format.recipe(), self.loss_on, self.limit])
    }

    fn list(&self, record: Record) -> Parsed<Listed> {
        let Record::Chat(dialogue) = record else { unreachable!("a chat file gives chat records") };
        let tokenizer = self.format.tokenizer();
        let has_special_text = dialogue.texts().any(|text| tokenizer.spells_special(text));
        let encoded = self.format.dialogue(&dialogue, self.loss_on)?;
        let (mut tokens, mut mask) = (encoded.tokens, encoded.loss_mask);
        let mut fate = Fate::Kept;
        if let Some((max_tokens, overlong)) = self.limit.filter(|(max_tokens, _)| tokens.len() > *max_tokens) {
            tokens.truncate(max_tokens);
            mask.truncate(max_tokens);
            let is_left = overlong == Overlong::Truncate && mask[1..].contains(&true);
            fate = if is_left { Fate::Truncated } else { Fate::Dropped };
        }
        Ok(Listed {
            turns: dialogue.messages.len() as u64,
            tokens: tokens.len() as u64,
            loss_tokens: mask.iter().skip(1).filter(|counts| **counts).count() as u64,
            words: Words::new(&tokens, mask),
            has_special_text,
            begins_with_newline: encoded.begins_with_newline,
            fate,
        })
    }
}

/// Documents, without an end token.
struct Text<'a> {
    tokenizer: &'a Tokenizer,
}

impl Recipe for Text<'_> {
    const KIND: Kind = Kind::Text;

    fn describe(&self) -> Value {
        json!(["text", self.tokenizer.fingerprint()])
    }

    fn list(&self, record: Record) -> Parsed<Listed> {
        let Record::Text(text) = record else { unreachable!("a text file gives text records") };
        let tokens = self.tokenizer.encode_whole(&text)?;
        Ok(Listed {
            turns: 1,
            tokens: tokens.len() as u64,
            loss_tokens: tokens.len() as u64,
            has_special_text: self.tokenizer.spells_special(&text),
            begins_with_newline: false,
            words: Words::new(&tokens, std::iter::repeat(true)),
            fate: Fate::Kept,
        })
    }
}

/// Comparisons or prompts, which other stages read: all their dialogues in a list, for what is counted.
struct Seen<'a, const COMPARISONS: bool> {
    format: &'a ChatFormat,
}

impl<const COMPARISONS: bool> Recipe for Seen<'_, COMPARISONS> {
    const KIND: Kind = if COMPARISONS { Kind::Comparison } else { Kind::Prompt };

    fn describe(&self) -> Value {
        json!([Self::KIND.name(), self.format.recipe()])
    }

    fn list(&self, record: Record) -> Parsed<Listed> {
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
        Ok(Listed {
            turns: dialogues.iter().map(|dialogue| dialogue.messages.len() as u64).sum(),
            tokens: tokens.len() as u64,
            loss_tokens: 0,
            words: Words::new(&tokens, std::iter::repeat(false)),
            has_special_text: texts.any(|text| self.format.tokenizer().spells_special(text)),
            begins_with_newline,
            fate: Fate::Kept,
        })
    }
}

/// Reads comparisons or prompts, only to say what is in them: each is a row with the tokens of all its dialogues.
///
/// # Errors
/// As [`chat_rows`].
pub fn seen_rows(
    files: &[PathBuf],
    comparisons: bool,
    format: &ChatFormat,
    reading: &mut Reading<'_>,
) -> Result<LmData> {
    if comparisons {
        each_file(files, &Seen::<true> { format }, reading, LmRows::dialogues)
    } else {
        each_file(files, &Seen::<false> { format }, reading, LmRows::dialogues)
    }
}

/// Reads dialogues and renders them in ChatML.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped), and for a file of which no row is left.
pub fn chat_rows(
    files: &[PathBuf],
    format: &ChatFormat,
    loss_on: LossOn,
    limit: Option<(usize, Overlong)>,
    reading: &mut Reading<'_>,
) -> Result<LmData> {
    let (mut result, mut problems) = (LmData::default(), Problems::new());
    let recipe = Chat { format, loss_on, limit };
    for file in files {
        let Some(prepared) = problems.absorb(prepare(file, &recipe, reading))? else { continue };
        let counts = &prepared.about.counts;
        problems.absorb(refuse_empty(file, counts, limit.map(|(_, overlong)| overlong)))?;
        result.add(&prepared);
        let rows = LmRows::dialogues(prepared);
        result.file_rows.push(rows.len());
        result.rows.append(rows);
    }
    problems.into_result()?;
    Ok(result)
}

/// Reads documents as token lists, one a record, without an end token.
///
/// # Errors
/// [`Error::Invalid`] for bad rows (unless skipped).
pub fn documents(files: &[PathBuf], tokenizer: &Tokenizer, bad_rows: BadRows) -> Result<(Vec<Vec<i64>>, Vec<Problem>)> {
    let tokens = |_: &Place, record| match record {
        Record::Text(text) => tokenizer.encode_whole(&text),
        _ => unreachable!("a text file gives text records"),
    };
    let read = data::read_as(files, Kind::Text, bad_rows, &tokens)?;
    Ok((read.records.into_iter().map(|(_, tokens)| tokens).collect(), read.skipped))
}

/// Reads documents, shuffles them when asked and merges them to rows of `max_tokens`. With an [`Overlong`], longer documents
/// are dropped or cut first; without, they go on in the next row.
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
        let Some(prepared) = problems.absorb(prepare(file, &Text { tokenizer }, reading))? else { continue };
        result.add(&prepared);
        sources.push(prepared);
    }
    problems.into_result()?;

    let mut lists: Vec<(u32, u32)> = Vec::new();
    let room = overlong.map_or(usize::MAX - 1, |_| max_tokens - 1); // the end token takes a place
    for (source, prepared) in sources.iter().enumerate() {
        let is_long = |list: &usize| prepared.store.length(*list) > room;
        let long = (0..prepared.store.len()).filter(is_long).count() as u64;
        let drops = overlong == Some(Overlong::Drop);
        *(if drops { &mut result.counts.dropped } else { &mut result.counts.truncated }) += long;
        let kept = (0..prepared.store.len()).filter(|list| !drops || !is_long(list));
        lists.extend(kept.map(|list| (source as u32, list as u32)));
    }
    if let Some(seed) = shuffle_seed {
        let permutation = Permutation::new(lists.len() as u64, seed, Purpose::Order, u64::MAX);
        lists = (0..lists.len()).map(|index| lists[permutation.get(index as u64) as usize]).collect();
    }
    let merged = Merged::new(sources, lists, room, tokenizer.special().endoftext, max_tokens);
    (result.counts.tokens, result.counts.loss_tokens) = (merged.num_tokens(), merged.num_targets());
    result.rows = LmRows::merged(merged);
    result.file_rows = vec![result.rows.len()];
    if let Some(file) = files.first() {
        let counts = Counts { rows: result.rows.len() as u64, ..result.counts.clone() };
        refuse_empty(file, &counts, overlong)?;
    }
    Ok(result)
}

/// Whether a file holds documents rather than dialogues.
pub fn is_text(file: &Path) -> bool {
    matches!(data::kind_of_rows(file), Ok(Kind::Text))
}

/// Reads documents, one row each, in pieces of at most `max_tokens`.
///
/// # Errors
/// [`Error::Invalid`] for bad rows.
pub fn document_rows(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    max_tokens: usize,
    reading: &mut Reading<'_>,
) -> Result<LmData> {
    let rows = |prepared| LmRows::documents(prepared, tokenizer.special().endoftext, max_tokens);
    each_file(files, &Text { tokenizer }, reading, rows)
}

/// The rows of every file, behind one another.
fn each_file<R: Recipe>(
    files: &[PathBuf],
    recipe: &R,
    reading: &mut Reading<'_>,
    rows: impl Fn(Prepared) -> LmRows,
) -> Result<LmData> {
    let (mut result, mut problems) = (LmData::default(), Problems::new());
    for file in files {
        let Some(prepared) = problems.absorb(prepare(file, recipe, reading))? else { continue };
        result.add(&prepared);
        let rows = rows(prepared);
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
            "no row is left (in {dropped} nothing with loss stands within data.max_tokens), expected at least one; raise data.max_tokens"
        ),
        _ => format!(
            "no row is left ({dropped} are longer than data.max_tokens), expected at least one; raise data.max_tokens or set data.overlong = \"truncate\""
        ),
    };
    Err(Error::invalid(file.display(), why))
}

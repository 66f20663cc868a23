//! Files to rows: dialogues in ChatML for sft, documents merged for pretraining.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::prepare::{Counts, Fate, Listed, Prepared, Reading, Recipe, prepare};
use super::store::Words;
use super::view::{LmRows, Merged};
use align_core::config::Overlong;
use align_core::error::{Error, Problem, Problems, Result};
use align_core::random::{Permutation, Purpose};
use align_data::{self as data, BadRows, Chat, Comparison, Kind, Parsed, Prompt, Text, TypedRow};
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
struct ChatRecipe<'a> {
    format: &'a ChatFormat,
    loss_on: LossOn,
    limit: Option<(usize, Overlong)>,
}

impl Recipe for ChatRecipe<'_> {
    type Row = Chat;

    fn describe(&self) -> Value {
        json!(["chat", self.format.recipe(), self.loss_on, self.limit])
    }

    fn list(&self, Chat(dialogue): Chat) -> Parsed<Listed> {
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
struct TextRecipe<'a> {
    tokenizer: &'a Tokenizer,
}

impl Recipe for TextRecipe<'_> {
    type Row = Text;

    fn describe(&self) -> Value {
        json!(["text", self.tokenizer.fingerprint()])
    }

    fn list(&self, Text(text): Text) -> Parsed<Listed> {
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

/// Comparisons, which reward models read: all their dialogues in a list, for what is counted.
struct ComparisonRecipe<'a> {
    format: &'a ChatFormat,
}

impl Recipe for ComparisonRecipe<'_> {
    type Row = Comparison;

    fn describe(&self) -> Value {
        json!([Comparison::KIND.name(), self.format.recipe()])
    }

    fn list(&self, comparison: Comparison) -> Parsed<Listed> {
        let (mut tokens, mut begins_with_newline) = (Vec::new(), false);
        for dialogue in &comparison.dialogues {
            let encoded = self.format.scored(dialogue)?;
            begins_with_newline |= encoded.begins_with_newline;
            tokens.extend(encoded.tokens);
        }
        Ok(Listed { begins_with_newline, ..without_loss(&comparison.dialogues, &tokens, self.format) })
    }
}

/// Prompts, which PPO reads, for what is counted.
struct PromptRecipe<'a> {
    format: &'a ChatFormat,
}

impl Recipe for PromptRecipe<'_> {
    type Row = Prompt;

    fn describe(&self) -> Value {
        json!([Prompt::KIND.name(), self.format.recipe()])
    }

    fn list(&self, Prompt(dialogue): Prompt) -> Parsed<Listed> {
        let tokens = self.format.prompt(&dialogue)?;
        Ok(without_loss(&[dialogue], &tokens, self.format))
    }
}

/// Dialogues as one list of tokens, none of which carries loss.
fn without_loss(dialogues: &[Dialogue], tokens: &[i64], format: &ChatFormat) -> Listed {
    let mut texts = dialogues.iter().flat_map(Dialogue::texts);
    Listed {
        turns: dialogues.iter().map(|dialogue| dialogue.messages.len() as u64).sum(),
        tokens: tokens.len() as u64,
        loss_tokens: 0,
        words: Words::new(tokens, std::iter::repeat(false)),
        has_special_text: texts.any(|text| format.tokenizer().spells_special(text)),
        begins_with_newline: false,
        fate: Fate::Kept,
    }
}

/// Reads comparisons, only to say what is in them: each is a row with the tokens of all its dialogues.
///
/// # Errors
/// As [`chat_rows`].
pub fn comparison_rows(files: &[PathBuf], format: &ChatFormat, reading: &mut Reading<'_>) -> Result<LmData> {
    each_file(files, &ComparisonRecipe { format }, reading, LmRows::dialogues)
}

/// Reads prompts, only to say what is in them.
///
/// # Errors
/// As [`chat_rows`].
pub fn prompt_rows(files: &[PathBuf], format: &ChatFormat, reading: &mut Reading<'_>) -> Result<LmData> {
    each_file(files, &PromptRecipe { format }, reading, LmRows::dialogues)
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
    let recipe = ChatRecipe { format, loss_on, limit };
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
    let read = data::read_rows(files, bad_rows, &|_, Text(text)| tokenizer.encode_whole(&text))?;
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
        let Some(prepared) = problems.absorb(prepare(file, &TextRecipe { tokenizer }, reading))? else { continue };
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
    each_file(files, &TextRecipe { tokenizer }, reading, rows)
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

//! `align eval lm`, and the notes that both kinds of evaluation share.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use align_core::error::{Error, Problems};
use align_core::progress::Progress;
use align_data::{BadRows, Unread};
use align_model::{CausalLm, ModelConfig, require_finite};
use align_text::chatml::{LossOn, SYSTEM};
use align_tokens::{Cache, LmData, LmRow, Reading, chat_rows};
use align_train::lm;
use align_train::stage::{check_causal_lm, check_format, evaluation_options, misfits};
use anyhow::Result;
use comfy_table::Table;
use serde_json::{Value, json};

use super::inputs::{self, report_ignored};
use super::lines::{Lines, refuse_same_file};
use crate::cli::{EvalData, EvalLmArgs};
use crate::output::{align_right, print_line, table};
use crate::terminal::Terminal;

/// Tokens computed at once.
pub(super) const MICROBATCH_TOKENS: usize = 8192;
/// Documents are evaluated in pieces of this many tokens, the report's context length, or of the model's
/// context length if that is shorter.
const TEXT_TOKENS: usize = 2048;

/// Reports the keys of rows that were not read, if any.
pub(super) fn report_unread(unread: &Unread) {
    if !unread.is_empty() {
        Terminal::new().note(&format!("keys that are not read: {}", unread.line()));
    }
}

/// Loss, perplexity and token accuracy on chat or text files.
pub(crate) fn lm(args: EvalLmArgs) -> Result<ExitCode> {
    let mut terminal = Terminal::new();
    let sets = read_sets(&args, &mut terminal)?;
    let mut unread = Unread::default();
    sets.iter().for_each(|(_, data)| unread.add(&data.counts.unread));
    report_unread(&unread);
    let mut per_row = args.data.per_row.as_deref().map(Lines::create).transpose()?;
    let mut model = CausalLm::load(&args.model, &evaluation_options(args.data.dtype.into()))?;
    require_finite(&args.model, model.parameters())?;
    model.extrapolate();
    let mut results = Vec::new();
    for (file, data) in &sets {
        warn_of_long(model.config(), file, "rows are", &mut terminal, |limit| data.rows.longer_than(limit));
        let stats = evaluate(&model, &args.model, file, data, &mut per_row, &mut terminal)?;
        results.push(json!({
            "file": file, "rows": data.rows.len(), "tokens": stats.tokens, "loss": stats.loss(),
            "perplexity": stats.perplexity(), "token_accuracy": stats.token_accuracy(),
        }));
    }
    per_row.map_or(Ok(()), Lines::finish)?;
    if args.data.json {
        print_line(&json!({ "sets": results }).to_string());
    } else {
        print_line(&lm_table(&results).to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks the model and the arguments, and reads the rows of all sets, each with the path that was given.
fn read_sets(args: &EvalLmArgs, terminal: &mut Terminal) -> Result<Vec<(PathBuf, LmData)>> {
    let mut problems = Problems::new();
    let source = check_causal_lm(&args.model, &mut problems)?;
    let mut format = None;
    let mut reading = Reading { bad_rows: BadRows::Error, cache: Cache::Auto, progress: terminal };
    let mut sets: Vec<(PathBuf, LmData)> = Vec::new();
    let given = inputs::sets(&args.data.data);
    if let Some(source) = &source {
        for set in &given {
            let rows = if set.files.first().is_some_and(|file| align_tokens::is_text(file)) {
                let longest = source.header.config.max_position_embeddings as usize;
                problems.absorb(align_tokens::document_rows(
                    &set.files,
                    &source.tokenizer,
                    longest.min(TEXT_TOKENS),
                    &mut reading,
                ))?
            } else {
                if format.is_none() {
                    format = check_format(
                        &args.model,
                        Some(source),
                        args.system.as_deref().unwrap_or(SYSTEM),
                        &mut problems,
                    )?;
                }
                let Some(format) = &format else { break };
                problems.absorb(chat_rows(&set.files, format, LossOn::Assistant, None, &mut reading))?
            };
            sets.extend(rows.map(|rows| (set.path.clone(), rows)));
        }
    }
    args.data.check(&inputs::files(&given), &mut problems);
    problems.into_result()?;
    report_ignored(&given);
    Ok(sets)
}

/// Evaluates one set, and writes a line per row if there is a file for them.
fn evaluate(
    model: &CausalLm,
    dir: &Path,
    file: &Path,
    data: &LmData,
    per_row: &mut Option<Lines>,
    terminal: &mut Terminal,
) -> Result<lm::LmStats> {
    terminal.begin(&file.display().to_string(), data.rows.len() as u64);
    let mut failed = None;
    let stats = lm::evaluate(model, data.rows.iter(), MICROBATCH_TOKENS, &mut |index, row, logprobs| {
        terminal.advance(1, "");
        if logprobs.iter().any(|logprob| !logprob.is_finite()) {
            let row = data.rows.location(index).map_or_else(|| format!("row {index}"), |location| location.to_string());
            failed.get_or_insert_with(|| not_a_number(row, "a log-probability", dir));
        }
        if let (Some(per_row), Some(location)) = (per_row.as_mut(), data.rows.location(index))
            && let Err(error) = per_row.write(&lm_line(&location.file, location.index, row, logprobs))
        {
            failed.get_or_insert(error);
        }
    });
    terminal.end();
    failed.map_or(Ok(stats), Err)
}

/// The results of all sets, for people.
fn lm_table(results: &[Value]) -> Table {
    let mut table = table(&["file", "rows", "loss tokens", "loss", "perplexity", "token accuracy"]);
    for set in results {
        let number = |key: &str| set[key].as_f64().unwrap_or(f64::NAN);
        table.add_row([
            set["file"].as_str().unwrap_or_default().to_owned(),
            set["rows"].to_string(),
            set["tokens"].to_string(),
            format!("{:.4}", number("loss")),
            format!("{:.3}", number("perplexity")),
            format!("{:.2} %", 100.0 * number("token_accuracy")),
        ]);
    }
    align_right(table, 1)
}

/// Warns once if rows of a file exceed the model's maximum position.
pub(super) fn warn_of_long(
    config: &ModelConfig,
    file: &Path,
    what: &str,
    terminal: &mut Terminal,
    longer_than: impl FnOnce(usize) -> (u64, usize),
) {
    if let Some(warning) = misfits::beyond_positions(config, &file.display().to_string(), what, longer_than) {
        terminal.note(&format!("warning: {warning}"));
    }
}

/// The error for a non-finite result although all weights are finite.
pub(super) fn not_a_number(row: impl std::fmt::Display, what: &str, dir: &Path) -> anyhow::Error {
    Error::Failed(format!("{row}: {what} is not finite, expected a finite number; {} is damaged", dir.display())).into()
}

/// A row's line: the log-probability of every target, null elsewhere.
fn lm_line(file: &Path, index: u64, row: &LmRow, logprobs: &[f32]) -> Value {
    let mut rest = logprobs.iter();
    let (mut ids, mut mask, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for piece in &row.pieces {
        for (token, counts) in piece.tokens.iter().zip(&piece.loss_mask) {
            ids.push(*token);
            mask.push(u8::from(*counts));
            all.push(counts.then(|| rest.next().expect("a log-probability per target")));
        }
    }
    json!({ "file": file, "index": index, "input_ids": ids, "loss_mask": mask, "logprobs": all })
}

impl EvalData {
    pub(super) fn check(&self, files: &[PathBuf], problems: &mut Problems) {
        if let Some(path) = &self.per_row {
            files.iter().for_each(|file| refuse_same_file(path, file, "--data", problems));
        }
    }
}

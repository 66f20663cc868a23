//! `align inspect data`: shows rows as tokens, and statistics of a file.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use align_core::config::Overlong;
use align_core::error::{Problems, summarize};
use align_data::{BadRows, Kind, Parsed, RawRows, Record, RowLocation, find, kind_of_rows};
use align_text::chatml::{ChatFormat, Dialogue, Encoded, LossOn, Role};
use align_tokens::{Cache, LmData, Reading, chat_rows, comparison_rows, document_rows, prompt_rows};
use align_train::stage::{check_format, check_source};
use anstyle::{AnsiColor, Style};
use anyhow::Result;
use serde_json::{Map, Value, json};

use super::super::inputs::{self, report_ignored};
use super::print_facts;
use crate::cli::InspectDataArgs;
use crate::output::print_line;
use crate::terminal::Terminal;

/// A row, as one or several sequences of tokens.
struct Shown {
    location: RowLocation,
    lists: Vec<(String, Vec<Token>)>,
}

struct Token {
    id: i64,
    text: String,
    role: Option<Role>,
    has_loss: bool,
    is_scored: bool,
}

/// Shows a file.
pub(crate) fn run(args: InspectDataArgs) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let source = check_source(&args.model, &mut problems)?;
    let format = check_format(&args.model, source.as_ref(), &args.system, &mut problems)?;
    let given = find(&args.file);
    let files = inputs::files(&given);
    let kind = problems.absorb(kind_of_rows(files.first().unwrap_or(&args.file)))?;
    let (format, kind) = problems.into_checked(format.zip(kind))?;
    let loss_on = if args.loss_on == "assistant" { LossOn::Assistant } else { LossOn::QwenFinetune };
    let data = read(&args, &files, kind, &format, loss_on)?;
    let rows = rows(&args, &files, kind, &format, loss_on)?;
    report_ignored(&given);
    let counts = counts(kind, &data);
    if args.json {
        let rows: Vec<Value> = rows.iter().map(as_json).collect();
        print_line(&json!({ "file": args.file, "kind": kind.name(), "counts": counts, "rows": rows }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    rows.iter().try_for_each(print)?;
    print_line(&format!("{}: {} rows", args.file.display(), kind.name()));
    print_facts(counts.iter().map(|(name, value)| (name.as_str(), value)));
    let (lines, rest) = summarize(&data.skipped);
    lines.iter().for_each(|line| print_line(&format!("bad: {}", sanitized(line))));
    if rest > 0 {
        print_line(&format!("bad: rows for {rest} more reasons"));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(args: &InspectDataArgs, files: &[PathBuf], kind: Kind, format: &ChatFormat, loss_on: LossOn) -> Result<LmData> {
    let mut terminal = Terminal::new();
    let mut reading = Reading { bad_rows: BadRows::Skip, cache: Cache::Auto, progress: &mut terminal };
    let limit = Some((args.max_tokens, Overlong::Drop));
    let data = match kind {
        Kind::Text => document_rows(files, format.tokenizer(), args.max_tokens, &mut reading),
        Kind::Comparison => comparison_rows(files, format, &mut reading),
        Kind::Prompt => prompt_rows(files, format, &mut reading),
        Kind::Chat | Kind::Response => chat_rows(files, format, loss_on, limit, &mut reading),
    };
    Ok(data?)
}

/// The statistics of the file, under the names that a run uses.
fn counts(kind: Kind, data: &LmData) -> Map<String, Value> {
    let counts = &data.counts;
    let (mut seen, mut duplicates) = (HashSet::new(), 0u64);
    data.rows.hashes().for_each(|hash| duplicates += u64::from(!seen.insert(hash)));
    let mut all =
        vec![("rows", json!(data.rows.len())), ("turns", json!(counts.turns)), ("tokens", json!(counts.tokens))];
    if kind == Kind::Chat {
        all.push(("loss tokens", json!(counts.loss_tokens)));
        all.push(("rows dropped for length", json!(counts.dropped)));
    }
    all.push(("rows with special-token text", json!(counts.special_text)));
    all.push(("rows that begin with a line break", json!(counts.begins_with_newline)));
    all.push(("duplicate rows", json!(duplicates)));
    if !counts.unread.is_empty() {
        all.push(("keys that are not read", json!(counts.unread)));
    }
    all.push(("bad rows", json!(data.skipped.len())));
    if !counts.bad.is_empty() {
        all.push(("bad rows by reason", json!(counts.bad)));
    }
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The requested rows; bad ones are skipped.
fn rows(
    args: &InspectDataArgs,
    files: &[PathBuf],
    kind: Kind,
    format: &ChatFormat,
    loss_on: LossOn,
) -> Result<Vec<Shown>> {
    let (mut shown, mut index) = (Vec::new(), 0);
    for file in files {
        for row in RawRows::open(file, Some(kind))? {
            let row = row?;
            if shown.len() == args.rows {
                return Ok(shown);
            }
            index += 1;
            if index <= args.from {
                continue;
            }
            // Bad rows are counted and listed below.
            if let Ok(lists) = row.record(kind).and_then(|read| lists(read.record, format, loss_on)) {
                shown.push(Shown { location: row.location, lists });
            }
        }
    }
    Ok(shown)
}

/// The sequences that are computed for a row, by name.
fn lists(record: Record, format: &ChatFormat, loss_on: LossOn) -> Parsed<Vec<(String, Vec<Token>)>> {
    let tokenizer = format.tokenizer();
    let scored = |(index, dialogue): (usize, &Dialogue)| {
        let encoded = format.scored(dialogue)?;
        let mut tokens = tokens(format, &encoded);
        tokens.iter_mut().for_each(|token| token.has_loss = false);
        tokens.last_mut().expect("a dialogue has an end").is_scored = true;
        Ok((format!("dialogue {index}"), tokens))
    };
    Ok(match &record {
        Record::Chat(dialogue) => vec![(String::new(), tokens(format, &format.dialogue(dialogue, loss_on)?))],
        Record::Comparison(comparison) => {
            let lists = comparison.dialogues.iter().enumerate().map(scored);
            let mut lists: Vec<_> = lists.collect::<Parsed<_>>()?;
            match &comparison.scores {
                None => (lists[0].0, lists[1].0) = ("chosen".to_owned(), "rejected".to_owned()),
                Some(scores) => lists
                    .iter_mut()
                    .zip(scores)
                    .for_each(|((name, _), score)| name.push_str(&format!(", score {score}"))),
            }
            lists
        }
        Record::Prompt(dialogue) => {
            let ids = format.prompt(dialogue)?;
            vec![(String::new(), tokens(format, &without_loss(ids)))]
        }
        Record::Text(text) => {
            let mut ids = tokenizer.encode_whole(text)?;
            ids.push(tokenizer.special().endoftext);
            let mut encoded = without_loss(ids);
            encoded.loss_mask.iter_mut().skip(1).for_each(|counts| *counts = true);
            vec![(String::new(), tokens(format, &encoded))]
        }
        Record::Response(_) | Record::Responses(_) => Vec::new(), // not requested
    })
}

fn without_loss(tokens: Vec<i64>) -> Encoded {
    Encoded { loss_mask: vec![false; tokens.len()], tokens, end: 0, answer: 0, begins_with_newline: false }
}

/// The tokens of a dialogue. The text after each `<|im_start|>` is the role.
fn tokens(format: &ChatFormat, encoded: &Encoded) -> Vec<Token> {
    let (tokenizer, start) = (format.tokenizer(), format.tokenizer().special().im_start);
    let mut speaker = None;
    let token = |(at, (id, has_loss)): (usize, (&i64, &bool))| {
        if *id == start {
            // A role name is one or a few tokens.
            let line = tokenizer.decode(&encoded.tokens[at + 1..encoded.tokens.len().min(at + 8)]);
            speaker = line.split('\n').next().and_then(Role::of);
        }
        Token { id: *id, text: tokenizer.token(*id), role: speaker, has_loss: *has_loss, is_scored: false }
    };
    encoded.tokens.iter().zip(&encoded.loss_mask).enumerate().map(token).collect()
}

fn as_json(row: &Shown) -> Value {
    let token = |(position, token): (usize, &Token)| {
        json!({
            "position": position, "id": token.id, "text": token.text, "role": token.role,
            "loss": token.has_loss, "scored": token.is_scored,
        })
    };
    let lists = row.lists.iter().map(
        |(name, tokens)| json!({ "name": name, "tokens": tokens.iter().enumerate().map(token).collect::<Vec<_>>() }),
    );
    json!({ "index": row.location.index, "line": row.location.line, "dialogues": lists.collect::<Vec<_>>() })
}

/// Prints a row, one line per token. Colours are removed if stdout is not a terminal.
fn print(row: &Shown) -> Result<()> {
    let mut out = anstream::stdout().lock();
    let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
    for (name, tokens) in &row.lists {
        let with_loss = tokens.iter().filter(|token| token.has_loss).count();
        let name = if name.is_empty() { String::new() } else { format!(" · {name}") };
        let count = tokens.len();
        writeln!(
            out,
            "{bold}row {} · {}{name} · {count} tokens, {with_loss} with loss{bold:#}",
            row.location.index, row.location
        )?;
        writeln!(out, "{dim}{:>8} {:>8} {:<10} {:<5} text{dim:#}", "position", "token", "role", "loss")?;
        for (position, token) in tokens.iter().enumerate() {
            let colour = Style::new().fg_color(Some(colour(token.role).into()));
            let role = token.role.map_or("text", Role::name);
            let (mark, style) = match (token.is_scored, token.has_loss) {
                (true, _) => ("score", colour.bold()),
                (_, true) => ("loss", colour.bold()),
                _ => ("·", colour.dimmed()),
            };
            let text = plain(&token.text);
            writeln!(
                out,
                "{position:>8} {:>8} {colour}{role:<10}{colour:#} {style}{mark:<5} {text}{style:#}",
                token.id
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn colour(role: Option<Role>) -> AnsiColor {
    match role {
        Some(Role::System) => AnsiColor::Magenta,
        Some(Role::User) => AnsiColor::Cyan,
        Some(Role::Tool) => AnsiColor::Yellow,
        Some(Role::Assistant) | None => AnsiColor::Green,
    }
}

/// A token's text on one line, with visible white space.
fn plain(text: &str) -> String {
    let shown = |char: char| match char {
        '\n' => '⏎',
        '\t' => '⇥',
        ' ' => '·',
        char => char,
    };
    sanitized(&text.chars().map(shown).collect::<String>())
}

/// Untrusted text without characters that control a terminal: control characters, and those that change the
/// writing direction.
fn sanitized(text: &str) -> String {
    let steers = |char: char| char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|char| !steers(*char)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_control_a_terminal_are_removed() {
        assert_eq!(plain("a b\n\x1b[31mred\u{202e}\x07\u{9b}x"), "a·b⏎[31mredx");
    }
}

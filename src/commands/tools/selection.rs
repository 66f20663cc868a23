//! `align eval tools`: the report's Table 6.

use std::process::ExitCode;

use align_core::error::Problems;
use align_core::progress::Progress;
use align_evaluation::write::{Question, Written, write};
use align_model::CausalLm;
use align_statistics::proportions::{FEWEST_FOR_SPREAD, normal_interval, wilson};
use align_text::chatml::{Dialogue, Message, Role};
use align_tools::selection::{
    NegativeCounts, PositiveCounts, Row, RowKind, is_false_positive, read, score, token_texts,
};
use anyhow::Result;
use serde_json::{Value, json};

use super::super::lines::{Lines, refuse_same_file};
use super::{Checked, GREEDY, check_positive};
use crate::cli::EvalToolsArgs;
use crate::output::{align_right, print_line, table};
use crate::terminal::Terminal;

/// Tool selection, tool input and false positives.
pub(in crate::commands) fn selection(args: EvalToolsArgs) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let common = &args.common;
    check_positive(&[("--limit", common.limit), ("--max-tokens", Some(common.max_tokens))], &mut problems);
    let checked = Checked::new(&args.model, &common.system, &mut problems)?;
    let mut rows = |files: &[std::path::PathBuf], kind| -> Result<Vec<Row>> {
        let mut rows = problems.absorb(read(files, kind))?.unwrap_or_default();
        rows.truncate(common.limit.unwrap_or(usize::MAX));
        Ok(rows)
    };
    let positive = rows(&args.positive, RowKind::Positive)?;
    let negative = if args.negative.is_empty() { Vec::new() } else { rows(&args.negative, RowKind::Negative)? };
    if let Some(out) = &common.per_row {
        let files = args.positive.iter().chain(&args.negative);
        files.for_each(|file| refuse_same_file(out, file, "--positive or --negative", &mut problems));
    }
    let mut prompts = Vec::new();
    if let Some(checked) = &checked {
        for row in positive.iter().chain(&negative) {
            let messages = vec![Message::new(Role::User, &row.prompt)];
            match checked.format.prompt(&Dialogue { messages, ..Dialogue::default() }) {
                Ok(prompt) => prompts.push(prompt),
                Err(what) => problems.push(&row.location, what),
            }
        }
    }
    let checked = problems.into_checked(checked)?;
    let mut per_row = common.per_row.as_deref().map(Lines::create).transpose()?;
    let model = checked.load(&args.model)?;
    let responses = respond(&checked, &model, prompts, common.max_tokens)?;
    let (of_positive, of_negative) = responses.split_at(positive.len());
    let tokens = |text: &str| token_texts(&checked.source.tokenizer, text);
    let (mut selected, mut refused) = (PositiveCounts::default(), NegativeCounts::default());
    let mut lines = Vec::new();
    for (row, written) in positive.iter().zip(of_positive) {
        let scored = score(&row.response, &written.text, &tokens);
        selected.add(&scored);
        lines.push(json!({
            "row": row.location, "kind": "positive", "response": written.text, "expected": row.response,
            "calls": scored.calls, "selected": scored.is_selected, "input_rouge_l": scored.input_rouge_l,
            "ended": written.ended,
        }));
    }
    for (row, written) in negative.iter().zip(of_negative) {
        refused.add(&written.text);
        lines.push(json!({
            "row": row.location, "kind": "negative", "response": written.text,
            "calls": is_false_positive(&written.text), "ended": written.ended,
        }));
    }
    if let Some(mut out) = per_row.take() {
        lines.iter().try_for_each(|line| out.write(line))?;
        out.finish()?;
    }
    print(&args, &results(&selected, &refused));
    Ok(ExitCode::SUCCESS)
}

/// Greedy answers, without a stop text: as in the published evaluation, a model may invent observations.
fn respond(checked: &Checked, model: &CausalLm, prompts: Vec<Vec<i64>>, max_tokens: usize) -> Result<Vec<Written>> {
    let question = |(key, prompt)| Question { prompt, stops: &[], max_tokens, key: key as u64 };
    let questions: Vec<Question<'_>> = prompts.into_iter().enumerate().map(question).collect();
    let mut terminal = Terminal::new();
    terminal.begin("rows", questions.len() as u64);
    let mut responses: Vec<Option<Written>> = questions.iter().map(|_| None).collect();
    let mut on_done = |at: usize, _: usize, written| {
        terminal.advance(1, "");
        responses[at] = Some(written);
        Ok(())
    };
    let format = Some(&checked.format);
    write(model, &checked.source.tokenizer, format, &questions, &GREEDY, &mut on_done)?;
    terminal.end();
    Ok(responses.into_iter().map(|response| response.expect("every prompt is answered")).collect())
}

fn results(positive: &PositiveCounts, negative: &NegativeCounts) -> Value {
    let rows = positive.rows.max(1) as f64;
    let rouge_l = positive.rouge_l().unwrap_or(0.0);
    let variance = (positive.rouge_l_square_sum / rows - rouge_l * rouge_l).max(0.0) / (rows - 1.0).max(1.0);
    let stderr = if positive.rows < FEWEST_FOR_SPREAD as u64 { f64::INFINITY } else { variance.sqrt() };
    let share = |count: u64, rows: u64| {
        let share = count as f64 / rows.max(1) as f64;
        (rows > 0).then(|| json!({ "value": share, "ci95": wilson(share, rows) }))
    };
    json!({
        "tool_selection": share(positive.selected, positive.rows),
        "tool_input": { "value": rouge_l, "ci95": normal_interval(rouge_l, stderr, [0.0, 1.0]) },
        "false_positives": share(negative.false_positives, negative.rows),
        "positive": positive, "negative": negative,
    })
}

/// The columns of Table 6, a line each.
fn print(args: &EvalToolsArgs, results: &Value) {
    if args.common.json {
        let mut results = results.clone();
        results["model"] = json!(args.model);
        print_line(&results.to_string());
        return;
    }
    let cell = |key: &str, scale: f64, digits: usize| {
        let of = &results[key];
        let number = |value: &Value| format!("{:.digits$}", scale * value.as_f64().unwrap_or(f64::NAN));
        match of["value"].is_null() {
            true => "–".to_owned(),
            false => format!("{} [{}, {}]", number(&of["value"]), number(&of["ci95"][0]), number(&of["ci95"][1])),
        }
    };
    let mut table = table(&["", "value", "rows"]);
    for (heading, value, rows) in [
        ("tool selection, %", cell("tool_selection", 100.0, 1), &results["positive"]["rows"]),
        ("tool input, Rouge-L", cell("tool_input", 1.0, 3), &results["positive"]["rows"]),
        ("false positives, %", cell("false_positives", 100.0, 1), &results["negative"]["rows"]),
    ] {
        table.add_row([heading, &value, &rows.to_string()]);
    }
    print_line(&align_right(table, 1).to_string());
}

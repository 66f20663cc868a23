//! `align eval code`: the report's Tables 7 and 8.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use align_core::error::{Error, Problems};
use align_core::progress::Progress;
use align_evaluation::assistant::Assistant;
use align_sandbox::Sandbox;
use align_statistics::proportions::wilson;
use align_tools::agent::{self, Limits, Turn};
use align_tools::code_rows::{CodeKind, CodeRow, read};
use align_tools::code_scores::{
    CodeScores, PACKAGES, RowOutcome, figures, is_correct, is_final_answer_correct, program,
};
use align_tools::interpreter::{CodeInterpreter, Interpreter};
use align_tools::sandboxed::{SESSION_IMPORTS, SandboxedPython, failure};
use align_tools::toolbox::Toolbox;
use anyhow::Result;
use serde_json::{Value, json};

use super::super::execute::Executor;
use super::super::lines::{Lines, refuse_same_file};
use super::{Checked, GREEDY, check_positive};
use crate::cli::EvalCodeArgs;
use crate::output::{align_right, print_line, table};
use crate::terminal::Terminal;

/// A session's limit for a call, and those of the programs that say whether code runs.
const CALL_SECONDS: u64 = 30;

/// Where code runs.
struct Python {
    session: Sandbox,
    /// By a program's limit in seconds.
    programs: Vec<(f64, Sandbox)>,
    execution: String,
}

/// How often a model's code runs, and how often it is right.
pub(in crate::commands) fn code(args: EvalCodeArgs) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let common = &args.common;
    check_positive(&[("--limit", common.limit), ("--max-tokens", Some(common.max_tokens))], &mut problems);
    let checked = Checked::new(&args.model, &common.system, &mut problems)?;
    let beside = args.data.first().and_then(|file| file.parent()).unwrap_or(Path::new(".")).to_owned();
    let rows = problems.absorb(read(&args.data, args.files.as_ref().unwrap_or(&beside)))?;
    let python = problems.absorb(Python::new(&args))?;
    if let Some(out) = &common.per_row {
        args.data.iter().for_each(|file| refuse_same_file(out, file, "--data", &mut problems));
    }
    let ((checked, mut rows), python) = problems.into_checked(checked.zip(rows).zip(python))?;
    rows.truncate(common.limit.unwrap_or(usize::MAX));
    let mut per_row = common.per_row.as_deref().map(Lines::create).transpose()?;
    let model = checked.load(&args.model)?;
    let mut assistant = Assistant::new(&model, &checked.format, checked.context_length(), GREEDY);
    let (mut scores, mut stricter) = (CodeScores::default(), 0u64);
    let mut terminal = Terminal::new();
    terminal.begin("rows", rows.len() as u64);
    for (number, row) in rows.iter().enumerate() {
        let folder = args.figures.join(format!("row-{number:05}"));
        let turn = answer(row, &mut assistant, &python, &folder, common.max_tokens)?;
        let (outcome, error) = judge(row, &turn, &python, &folder)?;
        let is_final = row.answer.as_deref().map(|answer| is_final_answer_correct(&turn, answer));
        stricter += u64::from(is_final == Some(true));
        scores.add(&outcome);
        if let Some(out) = &mut per_row {
            out.write(&json!({
                "row": row.location, "kind": row.kind, "turn": turn, "executable": outcome.is_executable,
                "error": error, "correct": outcome.is_correct, "final_answer_correct": is_final,
                "figures": figures(&turn),
            }))?;
        }
        terminal.advance(1, "");
    }
    terminal.end();
    per_row.map_or(Ok(()), Lines::finish)?;
    print(&args, &scores, stricter, &python.execution);
    Ok(ExitCode::SUCCESS)
}

impl Python {
    /// The sandbox, and the packages that the published program imports.
    fn new(args: &EvalCodeArgs) -> align_core::error::Result<Self> {
        let session = Executor::with_limit(&args.execution, Duration::from_secs(CALL_SECONDS))?;
        let missing: Vec<&str> =
            PACKAGES.into_iter().filter(|package| !session.sandbox().python().has(package)).collect();
        if !missing.is_empty() {
            let what = format!(
                "lacks {}, which the programs of this evaluation import; expected an interpreter that has them (--python)",
                missing.join(", ")
            );
            return Err(Error::invalid(session.sandbox().python().executable().display(), what));
        }
        let program = |seconds: f64| {
            let executor = Executor::with_limit(&args.execution, Duration::from_secs_f64(seconds))?;
            Ok((seconds, executor.sandbox().clone()))
        };
        let programs = [10.0, 60.0].into_iter().map(program).collect::<align_core::error::Result<_>>()?;
        Ok(Self { execution: session.describe(), session: session.sandbox().clone(), programs })
    }
}

/// The model's turn, in a session of its own.
fn answer(
    row: &CodeRow,
    assistant: &mut Assistant<'_>,
    python: &Python,
    folder: &Path,
    max_tokens: usize,
) -> Result<Turn> {
    let mut interpreter = SandboxedPython::new(python.session.clone(), folder, SESSION_IMPORTS);
    interpreter.restart_with(&row.files)?;
    if let Some(code) = row.first_code() {
        interpreter.run(&code, Duration::from_secs(CALL_SECONDS))?;
    }
    let mut tools = Toolbox::of_any_name(Box::new(CodeInterpreter::new(interpreter)));
    let limits = Limits { max_tokens, ..row.limits() };
    Ok(agent::run(assistant, &mut tools, &limits, &row.messages(), &row.prefix, &mut |_| ())?)
}

/// What is known about a row, and why its code does not run.
fn judge(row: &CodeRow, turn: &Turn, python: &Python, folder: &Path) -> Result<(RowOutcome, Option<String>)> {
    let program = program(row, turn);
    let failed = match &program {
        None => Some("no code".to_owned()),
        Some(program) => {
            let fitting = python.programs.iter().find(|(seconds, _)| *seconds >= program.seconds);
            let (_, sandbox) = fitting.or(python.programs.last()).expect("there are two");
            failure(sandbox, program, &folder.join("check"))?
        }
    };
    let is_correct = match row.kind {
        CodeKind::Math => row.answer.as_deref().map(|answer| is_correct(&turn.text, answer)),
        // Without a picture there is nothing to look at.
        CodeKind::Visualization if figures(turn).is_empty() => Some(false),
        CodeKind::Visualization | CodeKind::General => None,
    };
    let outcome = RowOutcome {
        kind: row.kind,
        brings_action: row.brings_action(),
        has_code: program.is_some(),
        is_executable: failed.is_none(),
        is_correct,
    };
    Ok((outcome, failed))
}

fn share(count: u64, rows: u64) -> Value {
    let share = count as f64 / rows.max(1) as f64;
    if rows == 0 { Value::Null } else { json!({ "value": share, "ci95": wilson(share, rows) }) }
}

fn print(args: &EvalCodeArgs, scores: &CodeScores, stricter: u64, execution: &str) {
    if args.common.json {
        let executable = |counts: &align_tools::code_scores::Executable| json!({ "counts": counts, "rate": share(counts.executable, counts.rows) });
        let kinds: serde_json::Map<String, Value> =
            scores.executable.iter().map(|(kind, counts)| (kind.name().to_owned(), executable(counts))).collect();
        let accuracy = |counts: &align_tools::code_scores::Accuracy| json!({ "counts": counts, "accuracy": share(counts.correct, counts.rows - counts.unknown) });
        let results = json!({
            "model": args.model, "execution": execution, "executable": kinds,
            "executable_all": executable(&scores.executable_all), "math": accuracy(&scores.math),
            "math_final_answers": share(stricter, scores.math.rows - scores.math.unknown),
            "visualization_hard": accuracy(&scores.visualization_hard),
            "visualization_easy": accuracy(&scores.visualization_easy),
        });
        print_line(&results.to_string());
        return;
    }
    let shown = |count: u64, rows: u64| {
        let [low, high] = wilson(count as f64 / rows.max(1) as f64, rows).map(|share| 100.0 * share);
        match rows {
            0 => "–".to_owned(),
            _ => format!("{:.1} [{low:.1}, {high:.1}]", 100.0 * count as f64 / rows as f64),
        }
    };
    let mut table = table(&["%", "executable", "right", "rows"]);
    for (kind, counts) in &scores.executable {
        let right = match kind {
            CodeKind::Math => shown(scores.math.correct, scores.math.rows - scores.math.unknown),
            CodeKind::Visualization | CodeKind::General => "–".to_owned(),
        };
        table.add_row([
            kind.to_string(),
            shown(counts.executable, counts.rows),
            right,
            format!("{}, {} without code", counts.rows, counts.missing_code),
        ]);
    }
    let all = &scores.executable_all;
    table.add_row(["all".to_owned(), shown(all.executable, all.rows), String::new(), all.rows.to_string()]);
    print_line(&align_right(table, 1).to_string());
    let looked_at = scores.visualization_hard.unknown + scores.visualization_easy.unknown;
    if looked_at > 0 {
        let folder = args.figures.display();
        print_line(&format!("{looked_at} rows drew figures, which a person has to judge: {folder}"));
    }
    print_line(execution);
}

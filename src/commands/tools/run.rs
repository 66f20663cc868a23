//! `align tools run`: a dialogue in the terminal with a model that calls tools.

use std::process::ExitCode;

use align_core::error::Problems;
use align_evaluation::assistant::Assistant;
use align_evaluation::write::Drawing;
use align_tools::agent::{self, Event, Limits};
use align_tools::interpreter::CodeInterpreter;
use align_tools::react::{Wording, messages};
use align_tools::sandboxed::{SESSION_IMPORTS, SandboxedPython};
use align_tools::tool_file;
use align_tools::toolbox::{Tool, Toolbox};
use anyhow::Result;

use super::super::execute::Executor;
use super::super::html::printable;
use super::super::questions::{Entry, Questions};
use super::{Checked, check_positive};
use crate::cli::ToolsRunArgs;
use crate::output::{print_line, say};

/// Reads questions and answers each, with calls of tools, until the input ends.
pub(in crate::commands) fn run(args: ToolsRunArgs) -> Result<ExitCode> {
    let mut problems = Problems::new();
    args.sampling.check(&mut problems);
    check_positive(&[("--max-calls", Some(args.max_calls))], &mut problems);
    let mut tools: Vec<Box<dyn Tool>> = Vec::new();
    if !args.no_python
        && let Some(executor) = problems.absorb(Executor::new(&args.execution))?
    {
        say(&executor.describe());
        let python = SandboxedPython::new(executor.sandbox().clone(), &args.figures, SESSION_IMPORTS);
        tools.push(Box::new(CodeInterpreter::new(python)));
    }
    let commands = args.tools.as_deref().map(tool_file::read).transpose();
    for command in problems.absorb(commands)?.flatten().into_iter().flatten() {
        let name = &command.description().name;
        if tools.iter().any(|tool| tool.description().name == *name) {
            problems.push(
                format!("tool `{name}`"),
                "is the name of the Python interpreter, expected another, or --no-python",
            );
        } else {
            tools.push(Box::new(command));
        }
    }
    let checked = Checked::new(&args.model, &args.sampling.system, &mut problems)?;
    let checked = problems.into_checked(checked)?;
    let model = checked.load(&args.model)?;
    let sampling = &args.sampling;
    let drawing =
        Drawing { samples: 1, temperature: sampling.temperature, top_p: sampling.top_p, seed: sampling.seed, rows: 1 };
    let mut assistant = Assistant::new(&model, &checked.format, checked.context_length(), drawing);
    let limits = Limits { max_calls: args.max_calls, max_tokens: sampling.max_tokens, ..Limits::default() };
    talk(&args, &mut assistant, &mut Toolbox::new(tools), &limits)
}

fn talk(args: &ToolsRunArgs, assistant: &mut Assistant<'_>, tools: &mut Toolbox, limits: &Limits) -> Result<ExitCode> {
    let names: Vec<String> = tools.descriptions().into_iter().map(|tool| tool.name).collect();
    let mut history: Vec<(String, String)> = Vec::new();
    for entry in Questions::start(&format!("{} · tools: {}", args.model.display(), names.join(", "))) {
        let Entry::Question(line) = entry? else {
            history.clear();
            tools.reset()?;
            continue;
        };
        let prompt = messages(&tools.descriptions(), Wording::Guide, &history, &line);
        let turn = agent::run(assistant, tools, limits, &prompt, "", &mut show)?;
        if !turn.finish.is_whole() {
            say(&format!("({})", turn.finish));
        }
        history.push((line, turn.text));
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what happens, without control characters.
fn show(event: Event<'_>) {
    match event {
        Event::Wrote(text) => print_line(&printable(text.trim())),
        Event::Calling { written, .. } => print_line(&printable(written.trim())),
        Event::Observed(observation) => {
            print_line(&format!("Observation: {}", printable(observation.text.trim())));
            observation.figures.iter().for_each(|figure| say(&format!("figure: {}", figure.display())));
        }
    }
}

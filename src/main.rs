//! The `align` binary: parses the arguments, runs the command, prints errors, and chooses the exit code.

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod commands;
mod http;
mod label;
mod output;
mod quickstart;
mod serve;
mod supervise;
mod terminal;

use std::process::ExitCode;

use align_core::error::{Error, lines};
use clap::Parser;
use clap::error::ErrorKind;
use serde_json::{Map, Value, json};

use output::{READER_IS_GONE, reader_is_gone, say};

/// Version, commit and libtorch, as `--version` prints them.
fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("ALIGN_COMMIT"), ", libtorch ", env!("ALIGN_LIBTORCH"), ")")
}

/// This program's entries in run.json.
fn program() -> Map<String, Value> {
    let facts = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("commit", env!("ALIGN_COMMIT")),
        ("libtorch", env!("ALIGN_LIBTORCH")),
    ];
    facts.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

fn main() -> ExitCode {
    align_core::process_memory::tune_malloc();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => error.exit(),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        Err(error) => {
            say(&format!(
                "align: arguments: {}; `align --help` lists commands and options",
                one_line(&error.to_string())
            ));
            return ExitCode::from(2);
        }
    };
    // Nothing should panic. A panic (libtorch out of memory, or a bug) is reported on one line, with exit
    // code 1 like any failure.
    std::panic::set_hook(Box::new(|panic| {
        if !align_data::panic_is_expected() {
            say(&format!("align: failed unexpectedly: {}", one_line_of(panic)));
        }
    }));
    if let Err(what) = align_kernels::check_backend() {
        say(&format!("align: ALIGN_BACKEND: {what}"));
        return ExitCode::from(2);
    }
    let Ok(result) = std::panic::catch_unwind(|| commands::run(cli.command)) else { return ExitCode::FAILURE };
    match result {
        Ok(code) => code,
        Err(error) if reader_is_gone(&error) => ExitCode::from(READER_IS_GONE),
        Err(error) => {
            match error.downcast_ref::<Error>() {
                Some(Error::Invalid(problems)) => {
                    lines(problems).iter().for_each(|line| say(&format!("align: {line}")))
                }
                Some(error) => say(&format!("align: {error}")), // its message includes the cause
                None => say(&format!("align: {error:#}")),
            }
            ExitCode::from(error.downcast_ref::<Error>().map_or(1, Error::exit_code))
        }
    }
}

/// The message and location of a panic, on one line. The stack trace in libtorch's errors is left out.
fn one_line_of(panic: &std::panic::PanicHookInfo<'_>) -> String {
    const LONGEST: usize = 400;
    let payload = panic.payload();
    let said = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let said = said.unwrap_or("no message");
    let first = said.split('\n').next().unwrap_or_default();
    let first: String = first.split("\\n").next().unwrap_or_default().chars().take(LONGEST).collect();
    let location = panic.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
    format!("{first}{location}; checkpoints saved before are intact, and --resume continues from them")
}

/// clap's message on one line, without its usage block.
fn one_line(message: &str) -> String {
    let said =
        message.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let said: Vec<&str> = said.map(str::trim).filter(|line| !line.is_empty()).collect();
    said.join(" ").trim_start_matches("error: ").to_owned()
}

//! The `align` binary: parse, run, print what went wrong, choose the exit code.

mod cli;
mod commands;
mod quickstart;
mod supervise;
mod terminal;

use std::process::ExitCode;

use align_common::error::Error;
use clap::Parser;
use clap::error::ErrorKind;

/// Version, commit and libtorch, as `--version` prints them.
fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("ALIGN_COMMIT"), ", libtorch ", env!("ALIGN_LIBTORCH"), ")")
}

#[expect(clippy::print_stderr, reason = "the one place that reports failure")]
fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => error.exit(),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        Err(error) => {
            eprintln!("align: arguments: {}; `align --help` shows what there is", one_line(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            match error.downcast_ref::<Error>() {
                Some(Error::Invalid(problems)) => problems.iter().for_each(|problem| eprintln!("align: {problem}")),
                Some(error) => eprintln!("align: {error}"), // tells its cause itself
                None => eprintln!("align: {error:#}"),
            }
            ExitCode::from(error.downcast_ref::<Error>().map_or(1, Error::exit_code))
        }
    }
}

/// What clap says, without its usage block, on one line.
fn one_line(message: &str) -> String {
    let said =
        message.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let said: Vec<&str> = said.map(str::trim).filter(|line| !line.is_empty()).collect();
    said.join(" ").trim_start_matches("error: ").to_owned()
}

//! `align pretrain|sft|rm|ppo`: runs a training stage.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use align_core::config::{self, RunSection};
use align_core::error::Error;
use align_data::files_of;
use align_run::run::Outcome;
use align_train::stage::{self, Job};
use anyhow::Result;

use crate::cli::StageArgs;
use crate::output::{print_if_read, say};
use crate::program;
use crate::supervise::Supervisor;
use crate::terminal::Terminal;

/// Reads the config and runs a stage on it.
pub(crate) fn run<S: stage::Stage>(args: StageArgs) -> Result<ExitCode> {
    let config: S::Config = config::load(&args.config, &args.sets, args.out.as_deref())?;
    let supervisor = Supervisor::start()?;
    let mut terminal = Terminal::new();
    let job = Job {
        resume: args.resume,
        dry_run: args.dry_run,
        interrupt: supervisor.interrupt.clone(),
        progress: &mut terminal,
        program: program(),
    };
    let outcome = stage::run::<S>(&config, job)?;
    Ok(report(outcome, S::run_section(&config), &supervisor))
}

/// Prints the folder of the result, or why there is none yet.
fn report(outcome: Outcome, run: &RunSection, supervisor: &Supervisor) -> ExitCode {
    let out = run.out.display();
    match outcome {
        Outcome::DryRun => say("dry run: config, data and checkpoint are fine; nothing was trained"),
        Outcome::Finished { .. } => print_if_read(&format!("{out}/model")),
        Outcome::AlreadyFinished { step } => {
            say(&format!("{out} is finished: {step} steps are done"));
            print_if_read(&format!("{out}/model"));
        }
        Outcome::Interrupted { step } => {
            say(&format!("stopped after step {step}; a checkpoint is written, continue with --resume"));
            return ExitCode::from(supervisor.exit_code());
        }
    }
    ExitCode::SUCCESS
}

/// The stage that a config is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Pretrain,
    Sft,
    Rm,
    Ppo,
}

/// The stage that a config is for: ppo has `[models]`, rm has `stage`; pretraining reads text, sft reads
/// dialogues.
pub(super) fn stage_of(config: &Path) -> Result<Stage> {
    let text = std::fs::read_to_string(config)
        .map_err(|error| Error::invalid(config.display(), format!("cannot be read: {error}")))?;
    let keys = text.parse::<toml::Table>().unwrap_or_default();
    if keys.contains_key("models") {
        return Ok(Stage::Ppo);
    }
    if keys.contains_key("stage") {
        return Ok(Stage::Rm);
    }
    let data = |key: &str| keys.get("data").and_then(|data| data.get(key));
    let first = |value: Option<&toml::Value>| match value {
        Some(toml::Value::Array(values)) => values.first().cloned(),
        other => other.cloned(),
    };
    let source = first(data("mix")).and_then(|source| first(source.get("path")));
    let given = first(data("train")).or(source).and_then(|file| file.as_str().map(PathBuf::from));
    let file = given.and_then(|path| files_of(&path).into_iter().next());
    Ok(if file.is_some_and(|file| align_tokens::is_text(&file)) { Stage::Pretrain } else { Stage::Sft })
}

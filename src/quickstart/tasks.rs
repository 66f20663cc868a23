//! The quickstart's small Table 5: tasks about its world, which `align eval tasks` puts to its models.
//!
//! They are tasks of one's own, as docs/tasks.md describes them, with rows made of the held-out questions.

use std::path::Path;

use align_core::atomic_files::write_atomic;
use align_core::error::Error;
use anyhow::Result;

use super::command::CommandLine;
use super::{COMPARED, RunCommand};
use crate::output::print_line;

/// Name and definition of each task.
const TASKS: [(&str, &str); 3] = [
    ("facts", include_str!("../../configs/quickstart/tasks/facts.toml")),
    ("answers", include_str!("../../configs/quickstart/tasks/answers.toml")),
    ("manners", include_str!("../../configs/quickstart/tasks/manners.toml")),
];

/// Writes the tasks, measures the models with them, and prints the table with the command that made it.
pub(super) fn show(out: &Path, prompts: &[String], seed: u64, run: RunCommand<'_>) -> Result<()> {
    let folder = out.join("tasks");
    write(&folder, prompts, seed)?;
    print_line("\nAs the report's Table 5: right answers to held-out questions, 95 % intervals");
    // The tiny models were trained without a system text.
    let mut command = CommandLine::new("eval tasks --chat").flag("--system", "").path("--data", &folder);
    for model in COMPARED {
        command = command.path("--model", &out.join(model).join("model"));
    }
    for (name, _) in TASKS {
        command = command.path("--task", &folder.join(format!("{name}.toml")));
    }
    command.clone().path("--out", &folder.join("results")).word("--resume").run(run)?;
    print_line(
        "facts: the true statement among all of its kind, by log-probability\n\
         answers: a generated answer, out of which a pattern takes a sum or a colour\n\
         manners: the courteous answer among four that are true, by log-probability",
    );
    print_line(&command.to_string());
    Ok(())
}

fn write(folder: &Path, prompts: &[String], seed: u64) -> Result<()> {
    align_datasets::write_task_rows(folder, prompts, seed).map_err(Error::io(folder))?;
    for (name, definition) in TASKS {
        write_atomic(&folder.join(format!("{name}.toml")), definition.as_bytes())?;
    }
    Ok(())
}

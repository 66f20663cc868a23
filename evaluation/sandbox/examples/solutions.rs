//! Runs the reference solutions of HumanEval (`HumanEval.jsonl`, unpacked) or MBPP (`mbpp.jsonl`, the test part: task_id 11 to
//! 510) in the sandbox, and prints how many pass and how long they take.
//!
//!     cargo run -p align-sandbox --example solutions -- FILE [PYTHON]
#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use align_core::error::{Error, Result};
use align_sandbox::{Isolation, Limits, Python, Sandbox, Verdict};
use serde_json::Value;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let file = arguments
        .next()
        .ok_or_else(|| Error::invalid("solutions", "no file, expected HumanEval.jsonl or mbpp.jsonl"))?;
    let python = Python::find(arguments.next().as_deref())?;
    let sandbox = Sandbox::new(python, Limits::default(), Isolation::Full)?;
    sandbox.self_test()?;

    let rows = programs(&file)?;
    let programs: Vec<&String> = rows.iter().map(|(_, program)| program).collect();
    let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let start = Instant::now();
    let outcomes = sandbox.run_all(&programs, Duration::from_secs(10), workers, |_, _| {})?;
    let elapsed = start.elapsed().as_secs_f64();

    for ((name, _), outcome) in rows.iter().zip(&outcomes).filter(|(_, outcome)| outcome.verdict != Verdict::Passed) {
        println!("{name}: {:?} after {:.2} s", outcome.verdict, outcome.seconds);
    }
    let passed = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Passed).count();
    let mut millis: Vec<f64> = outcomes.iter().map(|outcome| outcome.seconds * 1e3).collect();
    millis.sort_by(f64::total_cmp);
    let (median, longest) = (millis.get(millis.len() / 2).unwrap_or(&0.0), millis.last().unwrap_or(&0.0));
    println!(
        "{passed} of {} pass; median {median:.0} ms, longest {longest:.0} ms; {elapsed:.1} s on {workers} workers",
        outcomes.len()
    );
    Ok(())
}

/// Each task's name, and its reference solution with its checks.
fn programs(file: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
    let mut programs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let invalid = || Error::invalid(format!("{}:{}", file.display(), index + 1), "is no row of HumanEval or MBPP");
        let row: Value = serde_json::from_str(line).map_err(|_| invalid())?;
        let field = |key: &str| row[key].as_str().ok_or_else(invalid);
        if let Some(task) = row["task_id"].as_u64() {
            if !(11..=510).contains(&task) {
                continue;
            }
            let checks: Vec<&str> =
                row["test_list"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let setup = row["test_setup_code"].as_str().unwrap_or_default();
            programs.push((format!("MBPP/{task}"), format!("{}\n{setup}\n{}\n", field("code")?, checks.join("\n"))));
        } else {
            let (prompt, solution) = (field("prompt")?, field("canonical_solution")?);
            let (checks, name) = (field("test")?, field("entry_point")?);
            programs.push((field("task_id")?.to_owned(), format!("{prompt}{solution}\n{checks}\ncheck({name})\n")));
        }
    }
    Ok(programs)
}

//! Loads the benchmark that a request names.

use align_core::error::{Error, Result};

use crate::request::Request;
use crate::sets;
use crate::task::Task;

/// Loads a benchmark or a user's own task.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong: files that are missing, rows that are malformed, too few
/// worked examples. A task is complete or an error: nothing is left out of a mean.
pub fn load(request: &Request<'_>) -> Result<Task> {
    if request.name.ends_with(".toml") {
        return sets::own::load(request);
    }
    let (benchmark, parts) = match request.name.split_once('/') {
        Some((benchmark, parts)) => (benchmark, Some(parts)),
        None => (request.name, None),
    };
    match (benchmark, parts) {
        ("mmlu" | "ceval" | "cmmlu", _) => sets::exams::load(benchmark, parts, request),
        ("bbh", _) => sets::bbh::load(parts, request),
        ("gsm8k", None) => sets::gsm8k::load(request),
        ("math", None) => sets::math::load(request),
        ("humaneval", None) => sets::humaneval::load(request),
        ("mbpp", None) => sets::mbpp::load(request),
        ("gsm8k" | "math" | "humaneval" | "mbpp", Some(parts)) => Err(Error::invalid(
            format!("--task {}", request.name),
            format!("{benchmark} has no part `{parts}`, expected {benchmark}"),
        )),
        _ => Err(Error::invalid(
            format!("--task {}", request.name),
            format!("is not a benchmark, expected one of {}, or a TOML file", NAMES.join(", ")),
        )),
    }
}

/// The benchmarks, in the order of the report's tables.
pub const NAMES: [&str; 8] = ["mmlu", "ceval", "cmmlu", "gsm8k", "math", "humaneval", "mbpp", "bbh"];

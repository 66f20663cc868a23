//! The benchmarks: a file for each, or for each family.

pub(crate) mod bbh;
mod choices;
pub(crate) mod exams;
pub(crate) mod gsm8k;
pub(crate) mod humaneval;
pub(crate) mod math;
pub(crate) mod mbpp;
pub(crate) mod own;
#[cfg(test)]
mod tests;

use align_core::error::{Error, Problems, Result};

/// The largest number of tokens of an answer to Qwen's prompts; our choice, with room for any worked
/// solution.
const MAX_TOKENS: usize = 512;
/// The default of lm-evaluation-harness.
const LM_EVAL_MAX_TOKENS: usize = 256;

/// The names in `parts`, which are separated by `+`: parts of a benchmark, or groups of its parts. Every part
/// once, in the order of `all`.
///
/// # Errors
/// When a name is neither.
fn selected<'a>(
    task: &str,
    parts: Option<&str>,
    all: &[&'a str],
    groups: &[(&str, &[&'a str])],
) -> Result<Vec<&'a str>> {
    let Some(parts) = parts else { return Ok(all.to_vec()) };
    let (mut wanted, mut problems) = (Vec::new(), Problems::new());
    for part in parts.split('+') {
        let group = groups.iter().find(|(name, _)| name.eq_ignore_ascii_case(part));
        match (group, all.iter().find(|name| **name == part)) {
            (Some((_, members)), _) => wanted.extend_from_slice(members),
            (None, Some(name)) => wanted.push(name),
            (None, None) => {
                let groups: Vec<&str> = groups.iter().map(|(name, _)| *name).collect();
                let groups = if groups.is_empty() { String::new() } else { format!("{}, or ", groups.join(", ")) };
                let first = all.first().copied().unwrap_or_default();
                problems.push(
                    format!("--task {task}"),
                    format!("has no part `{part}`, expected {groups}names as in the files, such as {first}"),
                );
            }
        }
    }
    problems.into_result()?;
    Ok(all.iter().copied().filter(|name| wanted.contains(name)).collect())
}

/// The first `num` of the worked examples in `file`.
///
/// # Errors
/// When there are fewer.
fn first_shots<T>(file: &std::path::Path, mut shots: Vec<T>, num: usize) -> Result<Vec<T>> {
    if shots.len() < num {
        let what = format!("has {} rows, expected at least {num}, one for each worked example (--shots)", shots.len());
        return Err(Error::invalid(file.display(), what));
    }
    shots.truncate(num);
    Ok(shots)
}

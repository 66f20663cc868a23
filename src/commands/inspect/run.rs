//! `align inspect run`: shows the progress of a run, its last metrics, and whether its checkpoints are
//! intact.

use std::process::ExitCode;

use align_core::error::Error;
use align_run::checkpoint;
use align_run::run::{self, Contents};
use align_train::stage::written;
use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{bare_table, first_problem, print_facts, rounded};
use crate::cli::InspectRunArgs;
use crate::output::{align_right, print_line};

/// A value as it is displayed: the best checkpoint as text, and each warning on a separate line.
fn displayed(name: &str, value: &Value) -> Value {
    match (name, value) {
        ("best", best) => json!(format!("step {}, loss {}", best["step"], best["loss"])),
        ("warnings", Value::Array(texts)) if !texts.is_empty() => {
            json!(texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"))
        }
        _ => value.clone(),
    }
}

/// Shows a run.
pub(crate) fn run(args: InspectRunArgs) -> Result<ExitCode> {
    let contents = run::read(&args.run)?;
    let (step, last) = contents.log.last().expect("reading checked that a step was logged");
    let mut checkpoints = Vec::new();
    for (step, path) in checkpoint::list(&args.run.join("checkpoints"))? {
        let damage = match checkpoint::verify(&path) {
            Ok(()) => Value::Null,
            Err(error @ Error::Invalid(_)) => json!(first_problem(&error)),
            Err(error) => return Err(error.into()),
        };
        let has_models = checkpoint::has_models(&path);
        checkpoints.push(json!({ "step": step, "path": path, "damage": damage, "has_models": has_models }));
    }
    let steps = contents.facts.get("steps").and_then(Value::as_u64).unwrap_or(*step);
    let state = match contents.facts.get("finished_step") {
        Some(done) if done.as_u64() >= Some(steps) => "finished".to_owned(),
        _ => format!("at step {step} of {steps}"),
    };
    let damaged = checkpoints.iter().any(|checkpoint| !checkpoint["damage"].is_null());
    if args.json {
        let alarms: Vec<Value> =
            contents.alarms.iter().map(|(step, said)| json!({ "step": step, "alarms": said })).collect();
        let metrics = last.to_json();
        let all = json!({
            "state": state, "step": step, "steps": steps, "facts": contents.facts, "metrics": metrics,
            "checkpoints": checkpoints, "alarms": alarms,
        });
        print_line(&all.to_string());
    } else {
        print_all_facts(&state, &contents.facts);
        print_last_metrics(&contents);
        print_checkpoints(&checkpoints);
        for (step, said) in &contents.alarms {
            print_line(&format!("step {step}: {}", said.join("; ")));
        }
    }
    Ok(if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints the contents of run.json, the state first, then what it says about the result.
fn print_all_facts(state: &str, all: &Map<String, Value>) {
    let mut facts = Map::new();
    facts.insert("state".to_owned(), json!(state));
    facts.extend(
        all.iter()
            .filter(|(name, _)| *name != "inputs" && *name != written::KEY)
            .map(|(name, value)| (name.replace('_', " "), displayed(name, value))),
    );
    print_facts(facts.iter().map(|(name, value)| (name.as_str(), value)));
    for said in all.get(written::KEY).and_then(|written| written["said"].as_array()).into_iter().flatten() {
        print_line(&format!("the result: {}", said.as_str().unwrap_or_default()));
    }
    print_line("");
}

/// Prints each metric with its last value, and the step that value is from: not every step is evaluated.
fn print_last_metrics(contents: &Contents) {
    let mut metrics = bare_table();
    metrics.set_header(["last logged", "step", "value"]);
    let mut names: Vec<&str> =
        contents.log.iter().flat_map(|(_, metrics)| metrics.iter()).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let found = contents.log.iter().rev().find_map(|(step, metrics)| Some((step, metrics.get(name)?)));
        if let Some((step, value)) = found {
            metrics.add_row([name.to_owned(), step.to_string(), rounded(value)]);
        }
    }
    print_line(&align_right(metrics, 1).to_string());
}

/// Prints whether each checkpoint is intact.
fn print_checkpoints(checkpoints: &[Value]) {
    for checkpoint in checkpoints {
        let state =
            if checkpoint["has_models"] == true { "intact" } else { "intact, without models; --resume writes them" };
        let whole = checkpoint["damage"].as_str().map_or_else(|| state.to_owned(), |what| format!("DAMAGED: {what}"));
        print_line(&format!("checkpoint of step {}: {whole}", checkpoint["step"]));
    }
}

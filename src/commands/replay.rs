//! `align replay`: repeats a recorded step, and shows where a non-finite number first occurs. Writes nothing.

use std::path::Path;
use std::process::ExitCode;

use align_core::config::{self, Config};
use align_run::run::{Failure, Recorded};
use align_train::stage::{self, NanReport, Replayed, Section, TensorStats};
use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::ReplayArgs;
use crate::output::{align_right, print_line, table};
use crate::terminal::Terminal;

/// The number of rows that a line of the table lists.
const NAMED: usize = 3;

/// Repeats a recorded step: exit code 0 if the failure was reproduced, 1 if not.
pub(crate) fn run(args: ReplayArgs) -> Result<ExitCode> {
    let recorded = Recorded::open(&args.run, args.step)?;
    let mut terminal = Terminal::new();
    let replay = match recorded.stage.as_str() {
        "sft" => stage::replay::<align_sft::Sft>(&load(&recorded)?, &recorded, &mut terminal)?,
        "pretrain" => stage::replay::<align_sft::Pretrain>(&load(&recorded)?, &recorded, &mut terminal)?,
        "ppo" => stage::replay::<align_ppo::Ppo>(&load(&recorded)?, &recorded, &mut terminal)?,
        _ => stage::replay::<align_reward::Rm>(&load(&recorded)?, &recorded, &mut terminal)?,
    };
    if args.json {
        print_line(&to_json(&args.run, &replay).to_string());
    } else {
        show(&args.run, &replay);
    }
    Ok(if replay.is_reproduced() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn load<C: Config>(recorded: &Recorded) -> Result<C> {
    Ok(config::load(&recorded.config, &[], None)?)
}

fn show(run: &Path, replay: &Replayed) {
    let Replayed { stage, done, recorded, found } = replay;
    let repeated = match &found.failure {
        Some(_) if replay.is_reproduced() => "reproduced".to_owned(),
        Some(failure) => format!("{failure}: differs from the record"),
        None => "all numbers are finite: the failure was not reproduced".to_owned(),
    };
    let mut summary = table(&[&run.display().to_string(), &format!("{stage}, step {done}")]);
    summary.add_row(["recorded", &recorded.to_string()]);
    summary.add_row(["repeated", &repeated]);
    summary.add_row(["begins", found.origin().as_deref().unwrap_or("not found in the traced tensors")]);
    print_line(&summary.to_string());
    print_line("");
    let mut parts = table(&["", "rows", "tokens", "loss", "first not finite", "gradients not finite"]);
    for part in &found.sections {
        let loss = part.loss.map_or_else(|| "–".to_owned(), |loss| format!("{loss:.4}"));
        let first = part.first_activation().map_or("–", |first| first.name.as_str());
        parts.add_row([&part.name, &rows(part), &part.tokens.to_string(), &loss, first, &bad_gradients(part)]);
    }
    print_line(&parts.to_string());
    print_line("");
    let mut numbers = table(&["", "largest |x|", "not finite", "of"]);
    for quantity in outlines(found).iter().chain(&found.tensors) {
        numbers.add_row(cells(&quantity.name, quantity));
    }
    for weight in &found.weights {
        numbers.add_row(cells(&format!("weight {}", weight.name), weight));
    }
    print_line(&align_right(numbers, 1).to_string());
}

fn cells(name: &str, quantity: &TensorStats) -> [String; 4] {
    let TensorStats { largest, not_finite, elements, .. } = quantity;
    let largest = if not_finite == elements { "–".to_owned() } else { format!("{largest:.3e}") };
    [name.to_owned(), largest, not_finite.to_string(), elements.to_string()]
}

/// Each model's forward pass in a few lines, over all microbatches: the input, the output of each layer, and
/// the result.
fn outlines(found: &NanReport) -> Vec<TensorStats> {
    let mut outlines: Vec<TensorStats> = Vec::new();
    for part in &found.sections {
        let shown = part.activations.iter().filter(|one| !one.name.contains(", ") || one.name.ends_with(", output"));
        let of_model = part.loss.is_none().then_some(part.name.as_str());
        let named = shown.map(|one| {
            let name = of_model.map_or_else(|| one.name.clone(), |model| format!("{model}: {}", one.name));
            TensorStats { name, ..one.clone() }
        });
        align_train::stage::merge(&mut outlines, named.collect());
    }
    outlines
}

/// The first rows, with each file named once.
fn rows(part: &Section) -> String {
    let mut file = "";
    let named = part.rows.iter().take(NAMED).map(|row| match row.rsplit_once(':') {
        Some((of, line)) if of == file => format!(":{line}"),
        Some((of, _)) => {
            file = of;
            row.clone()
        }
        None => row.clone(),
    });
    let named: Vec<String> = named.collect();
    let others = part.rows.len() - named.len();
    let said = named.join(", ");
    if others == 0 { said } else { format!("{said} and {others} more") }
}

/// The number of non-finite gradients, and the first one in the backward pass.
fn bad_gradients(part: &Section) -> String {
    match (part.bad_gradients().next_back(), part.gradients.len()) {
        (_, 0) => "–".to_owned(),
        (None, all) => format!("none of {all}"),
        (Some(first), all) => format!("{} of {all}, from {}", part.bad_gradients().count(), first.name),
    }
}

fn to_json(run: &Path, replay: &Replayed) -> Value {
    let failure = |failure: &Failure| json!({ "what": failure.what, "number": failure.number });
    let all = |quantities: &[TensorStats]| quantities.iter().map(TensorStats::to_json).collect::<Vec<_>>();
    // JSON has no NaN or infinity.
    let number = |number: f64| if number.is_finite() { json!(number) } else { json!(number.to_string()) };
    let part = |part: &Section| {
        let bad: Vec<&str> = part.bad_gradients().map(|gradient| gradient.name.as_str()).collect();
        json!({
            "name": part.name,
            "rows": part.rows,
            "tokens": part.tokens,
            "loss": part.loss.map(number),
            "first_not_finite": part.first_activation().map(|first| first.name.as_str()),
            "gradients_not_finite": bad,
            "activations": all(&part.activations),
        })
    };
    let found = &replay.found;
    json!({
        "run": run,
        "stage": replay.stage,
        "step": replay.done,
        "recorded": failure(&replay.recorded),
        "repeated": found.failure.as_ref().map(failure),
        "same": replay.is_reproduced(),
        "begins": found.origin(),
        "parts": found.sections.iter().map(part).collect::<Vec<_>>(),
        "quantities": all(&found.tensors),
        "weights": all(&found.weights),
    })
}

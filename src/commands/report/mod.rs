//! `align report`: renders a run folder as one page, from its logs; loads no model.

mod held_out;
mod samples;

use std::path::Path;
use std::process::ExitCode;

use align_core::error::Problems;
use align_ppo::findings::{KL_LIMIT, Log, findings, series};
use align_run::metrics::Metrics;
use align_run::plot::{Legend, Line, Plot, Steps, short};
use align_run::run::{Contents, read};
use align_train::stage::written;
use anyhow::Result;
use plotters::style::RGBColor;
use serde_json::{Map, Value, json};

use self::held_out::held_out;
use self::samples::samples;
use super::html::{environment, printable};
use super::lines::{Lines, refuse_same_file};
use crate::cli::ReportArgs;
use crate::output::print_line;

/// The training curves of all stages: caption and metrics of each plot. Metrics that a stage does not log are
/// left out.
const CURVES: [(&str, &[&str]); 19] = [
    ("loss", &["train/loss", "train/lm_loss"]),
    ("accuracy", &["train/accuracy"]),
    ("margin", &["train/margin"]),
    ("gradient norm, before clipping", &["train/grad_norm"]),
    ("learning rate", &["train/lr"]),
    ("score", &["score/mean", "score/running_mean"]),
    ("score, standard deviation", &["score/std"]),
    ("reward", &["reward/mean"]),
    ("KL to the reference, nats per response", &["kl/ref", "kl/ref_k3"]),
    ("policy loss", &["policy/loss"]),
    ("share of tokens clipped", &["policy/clip_frac", "value/clip_frac"]),
    ("largest ratio", &["policy/ratio_max"]),
    ("entropy, nats per token", &["policy/entropy"]),
    ("value loss", &["value/loss"]),
    ("response length, tokens", &["response/tokens"]),
    ("share of responses", &["response/ended", "response/identical"]),
    ("loss on pretraining text", &["ptx/loss"]),
    ("gradient norm, before clipping", &["policy/grad_norm", "ptx/grad_norm"]),
    ("gradient norm, before clipping", &["value/grad_norm"]),
];
const EXPLAINED_VARIANCE: &str = "value/explained_variance";

/// Writes the page of a run.
pub(crate) fn run(args: ReportArgs) -> Result<ExitCode> {
    let contents = read(&args.run)?;
    let out = args.out.unwrap_or_else(|| args.run.join("report.html"));
    let mut problems = Problems::new();
    contents.files.iter().for_each(|file| refuse_same_file(&out, file, "RUN", &mut problems));
    problems.into_result()?;
    let page = render(&args.run, &contents)?;
    let mut file = Lines::create(&out)?;
    file.write_text(&page)?;
    file.finish()?;
    print_line(&out.display().to_string());
    Ok(ExitCode::SUCCESS)
}

fn render(dir: &Path, contents: &Contents) -> Result<String> {
    let log = contents.log.as_slice();
    let stage = contents.facts.get("stage").and_then(Value::as_str).unwrap_or("unknown");
    let is_ppo = stage == "ppo";
    let warmup = series(log, "phase").iter().rev().find(|(_, phase)| *phase == 0.0).map(|(step, _)| *step as f64);
    let steps = Steps { last: log.last().map_or(0.0, |(step, _)| *step as f64), warmup };
    let page = json!({
        "stage": printable(stage),
        "dir": printable(&dir.display().to_string()),
        "status": status(contents),
        "finished": contents.facts.contains_key("finished_step"),
        "written": what_was_written(&contents.facts),
        "warnings": warnings(&contents.facts),
        "facts": facts(&contents.facts, log),
        "is_ppo": is_ppo,
        "findings": if is_ppo { [guards(&contents.alarms), findings(log, kl_limit(&contents.config))].concat() } else { Vec::new() },
        "warmup": steps.warmup,
        "curves": training_curves(log, &steps)?,
        "eval_curves": if is_ppo { Vec::new() } else { eval_curves(log, &steps)? },
        "held_out": if is_ppo { held_out(log, &steps)? } else { Vec::new() },
        "samples": samples(&contents.samples),
        "config": printable(&contents.config),
    });
    Ok(environment(include_str!("page.html"))?.get_template("page.html")?.render(page)?)
}

/// The dtypes of the result, and how it differs from the trained model.
fn what_was_written(facts: &Map<String, Value>) -> Value {
    let Some(written) = facts.get(written::KEY) else { return Value::Null };
    let text = |value: &Value| value.as_str().map(printable);
    let dtypes: Vec<[String; 2]> = ["model", "value"]
        .into_iter()
        .filter_map(|folder| Some([folder.to_owned(), written.get(folder).and_then(text)?]))
        .collect();
    let said: Vec<String> =
        written.get("said").and_then(Value::as_array).into_iter().flatten().filter_map(text).collect();
    json!({ "dtypes": dtypes, "said": said })
}

/// The alarms of the guards during the run.
fn guards(alarms: &[(u64, Vec<String>)]) -> Vec<String> {
    let first = alarms.first().map(|(step, said)| {
        let others = alarms.len() - 1;
        format!("guards: step {step}: {}; recorded in records/, with {others} later steps", said.join("; "))
    });
    first.into_iter().collect()
}

/// The run's KL limit, if it is stricter than that of the findings.
fn kl_limit(config: &str) -> Option<f64> {
    let limit = toml::from_str::<toml::Table>(config).ok()?.get("guards")?.get("kl_max")?.as_float()?;
    (limit < KL_LIMIT).then_some(limit)
}

/// The progress of the run.
fn status(contents: &Contents) -> String {
    let done = contents.log.last().map_or(0, |(step, _)| *step);
    let steps = contents.facts.get("steps").and_then(Value::as_u64).unwrap_or(done);
    match contents.facts.contains_key("finished_step") {
        true => format!("finished, {steps} steps"),
        false => format!("not finished: {done} of {steps} steps are logged"),
    }
}

/// The entries of run.json as names and texts, with the mean times of a step's phases.
fn facts(facts: &Map<String, Value>, log: &Log) -> Vec<[String; 2]> {
    let text = |name: &str, value: &Value| match value {
        Value::String(text) => printable(text),
        Value::Number(seconds) if name == "seconds" => duration(seconds.as_f64().unwrap_or(f64::NAN)),
        Value::Array(times) => {
            match times.iter().map(|time| format!("after step {}", time["step"])).collect::<Vec<_>>() {
                times if times.is_empty() => "never".to_owned(),
                times => times.join(", "),
            }
        }
        Value::Object(files) if name == "inputs" => printable(&inputs(files).join("\n")),
        Value::Object(best) if name == "best" => format!("step {}, loss {}", best["step"], best["loss"]),
        Value::Object(counts) => {
            let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} × {what}")).collect();
            printable(&counts.join("\n"))
        }
        other => other.to_string(),
    };
    let elsewhere = ["finished_step", "stage", "warnings", written::KEY];
    let shown = facts.iter().filter(|(name, _)| !elsewhere.contains(&name.as_str()));
    let mut facts: Vec<[String; 2]> =
        shown.map(|(name, value)| [printable(&name.replace('_', " ")), text(name, value)]).collect();
    let mean = |name: &str| {
        let values = series(log, name);
        (!values.is_empty()).then(|| values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64)
    };
    let times = ["rollout", "score", "update", "step"]
        .iter()
        .filter_map(|what| mean(&format!("time/{what}")).map(|seconds| format!("{what} {} s", short(seconds))));
    facts.push(["time of a step, mean".to_owned(), times.collect::<Vec<_>>().join(", ")]);
    let memory = series(log, "memory/peak_gib").into_iter().map(|(_, gib)| gib).reduce(f64::max);
    facts.extend(memory.map(|gib| ["memory, peak".to_owned(), format!("{} GiB", short(gib))]));
    facts
}

/// The warnings that were printed before the first step.
fn warnings(facts: &Map<String, Value>) -> Vec<String> {
    let warnings = facts.get("warnings").and_then(Value::as_array).into_iter().flatten();
    warnings.filter_map(Value::as_str).map(printable).collect()
}

/// The input files of a run; earlier versions recorded only their sizes.
fn inputs(inputs: &Map<String, Value>) -> Vec<String> {
    let of_key = |(key, files): (&String, &Value)| match files.as_array() {
        None => vec![format!("{key} ({files} bytes)")],
        Some(files) => {
            let of_file = |file: &Value| {
                format!("{key}: {} ({} bytes)", file["file"].as_str().unwrap_or_default(), file["bytes"])
            };
            files.iter().map(of_file).collect()
        }
    };
    inputs.iter().flat_map(of_key).collect()
}

fn duration(seconds: f64) -> String {
    let (minutes, hours) = (seconds / 60.0, seconds / 3600.0);
    if hours >= 1.0 {
        format!("{hours:.1} h")
    } else if minutes >= 2.0 {
        format!("{minutes:.1} min")
    } else {
        format!("{seconds:.1} s")
    }
}

fn line(log: &Log, name: &str, shown: &str) -> Line {
    let of_step = |(step, metrics): &(u64, Metrics)| Some((*step as f64, metrics.get(name)?));
    Line { name: shown.to_owned(), points: log.iter().filter_map(of_step).collect() }
}

/// A plot with legend and note, for the template; `None` if there is nothing to draw.
fn figure(plot: &Plot) -> Result<Option<Value>> {
    let of_line = |Legend { name, last, colour: RGBColor(red, green, blue) }: Legend<'_>| json!({ "name": name, "last": last.map(short), "colour": format!("rgb({red},{green},{blue})") });
    let legend: Vec<Value> = plot.legend().map(of_line).collect();
    Ok(plot.svg()?.map(|svg| json!({ "svg": svg, "legend": legend, "note": plot.note })))
}

fn training_curves(log: &Log, steps: &Steps) -> Result<Vec<Value>> {
    let lines = |metrics: &[&str]| metrics.iter().map(|metric| line(log, metric, metric)).collect();
    let mut plots: Vec<Plot> =
        CURVES.iter().map(|(caption, metrics)| Plot::over_steps(caption, lines(metrics), steps)).collect();
    let weights = series(log, "kl/coef");
    if weights.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        plots.push(Plot::over_steps("weight of the KL penalty", lines(&["kl/coef"]), steps));
    }
    // It is far below 0 at first; what matters is the sign of the later values.
    let mut explained = line(log, EXPLAINED_VARIANCE, EXPLAINED_VARIANCE);
    let lowest = explained.points.iter().map(|(_, share)| *share).fold(0.0, f64::min);
    for (_, share) in &mut explained.points {
        if *share < -1.0 {
            *share = -1.0;
        }
    }
    let note = if lowest < -1.0 {
        format!("Drawn at −1 where it is below; minimum {}.", short(lowest))
    } else {
        String::new()
    };
    plots.push(Plot { note, ..Plot::over_steps("explained variance", vec![explained], steps) });
    plots.iter().map(figure).filter_map(Result::transpose).collect()
}

/// One plot per held-out metric, with one line per set.
fn eval_curves(log: &Log, steps: &Steps) -> Result<Vec<Value>> {
    let mut metrics: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, _) in log.iter().flat_map(|(_, metrics)| metrics.iter()) {
        let Some((set, metric)) = name.strip_prefix("eval/").and_then(|rest| rest.split_once('/')) else { continue };
        let index = metrics.iter().position(|(other, _)| *other == metric).unwrap_or_else(|| {
            metrics.push((metric, Vec::new()));
            metrics.len() - 1
        });
        if !metrics[index].1.contains(&set) {
            metrics[index].1.push(set);
        }
    }
    let plot = |(metric, sets): (&str, Vec<&str>)| {
        let lines = sets.iter().map(|set| line(log, &format!("eval/{set}/{metric}"), set)).collect();
        let caption = metric.replace('_', " ");
        figure(&Plot::over_steps(&caption, lines, steps))
    };
    metrics.into_iter().map(plot).filter_map(Result::transpose).collect()
}

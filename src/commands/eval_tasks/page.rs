//! The page of `align eval tasks --html`.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::html::environment;
use super::Report;
use super::table::{heading, interval, lost, p_value, percent};
use crate::cli::EvalTasksArgs;

/// Renders the page.
pub(super) fn render(args: &EvalTasksArgs, report: &Report) -> Result<String> {
    let environment = environment(include_str!("page.html"))?;
    let tasks = report.models.first().map(|(_, tasks)| tasks.as_slice()).unwrap_or_default();
    let cell = |value: &align_evaluation::results::Value| {
        json!({ "percent": percent(value.value), "interval": interval(value.ci95),
                "low": 100.0 * value.ci95[0], "high": 100.0 * value.ci95[1], "at": 100.0 * value.value })
    };
    let models: Vec<Value> = report
        .models
        .iter()
        .map(|(dir, results)| {
            let tasks: Vec<Value> = results
                .iter()
                .map(|result| {
                    let named = |(name, value): &(String, _)| json!({ "name": name, "value": cell(value) });
                    json!({
                        "value": cell(&result.value), "metric": result.metric, "rows": result.rows, "lost": lost(result),
                        "categories": result.categories.iter().map(named).collect::<Vec<_>>(),
                        "subjects": result.subjects.iter().map(|(name, mean)| json!({
                            "name": name, "rows": mean.count, "percent": percent(mean.mean),
                        })).collect::<Vec<_>>(),
                    })
                })
                .collect();
            json!({ "model": dir, "tasks": tasks })
        })
        .collect();
    let paired: Vec<Value> = report
        .paired
        .iter()
        .map(|task| {
            json!({
                "task": task.task, "difference": format!("{:+.1}", 100.0 * task.difference),
                "interval": interval(task.ci95), "only_first": task.only_first, "only_second": task.only_second,
                "p": p_value(task.p),
            })
        })
        .collect();
    let page = json!({
        "headings": tasks.iter().map(heading).collect::<Vec<_>>(),
        "names": tasks.iter().map(|task| &task.task).collect::<Vec<_>>(),
        "models": models, "paired": paired, "asked": args.describe(), "execution": report.execution,
    });
    Ok(environment.get_template("page.html")?.render(page)?)
}

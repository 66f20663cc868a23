//! Results for people, in the layout of the report's Tables 2, 5, 13 and 14.

use std::path::{Component, PathBuf};

use align_evaluation::results::{Paired, TaskResult, Value};
use align_tasks::task::short_name;

use super::Report;
use crate::output::{Column, align_right, print_columns, print_line};

/// Prints all tables.
pub(super) fn print(report: &Report) {
    let names = names(report);
    let print = |title: &str, columns: Vec<Column>| {
        let columns: Vec<Column> = std::iter::once((title.to_owned(), names.clone())).chain(columns).collect();
        print_columns(&columns, |table| align_right(table, 1));
    };
    print("%", of_tasks(report));
    for (at, result) in report.models.first().map(|(_, tasks)| tasks).into_iter().flatten().enumerate() {
        if !result.categories.is_empty() {
            print(&short_name(&result.task), of_categories(report, at, result));
        }
    }
    if !report.paired.is_empty() {
        print_paired(&report.paired);
    }
    if let Some(execution) = &report.execution {
        print_line(execution);
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

pub(super) fn interval([low, high]: [f64; 2]) -> String {
    format!("[{}, {}]", percent(low), percent(high))
}

pub(super) fn heading(task: &TaskResult) -> String {
    format!("{} {}-shot", short_name(&task.task), task.shots)
}

fn value(value: &Value) -> String {
    format!("{} {}", percent(value.value), interval(value.ci95))
}

/// The models' folders, without the parts of their paths that are the same in all.
fn names(report: &Report) -> Vec<String> {
    let mut paths: Vec<Vec<Component<'_>>> = report.models.iter().map(|(dir, _)| dir.components().collect()).collect();
    if paths.iter().any(|path| *path != paths[0]) {
        while share(&paths, <[_]>::last) {
            paths.iter_mut().for_each(|path| path.truncate(path.len() - 1));
        }
        while share(&paths, <[_]>::first) {
            paths.iter_mut().for_each(|path| drop(path.drain(..1)));
        }
    }
    paths.iter().map(|path| path.iter().collect::<PathBuf>().display().to_string()).collect()
}

/// Whether all paths have the same part, and others beside it.
fn share<'a>(paths: &'a [Vec<Component<'a>>], part: fn(&'a [Component<'a>]) -> Option<&'a Component<'a>>) -> bool {
    paths.iter().all(|path| path.len() > 1 && part(path) == part(&paths[0]))
}

/// A column for each task, as in Tables 2 and 5.
fn of_tasks(report: &Report) -> Vec<Column> {
    let tasks = report.models.first().map(|(_, tasks)| tasks.as_slice()).unwrap_or_default();
    let cell = |result: &TaskResult| {
        let mut lines = vec![value(&result.value), format!("{}, {} rows", result.metric, result.rows)];
        lines.extend(lost(result));
        lines.join("\n")
    };
    let column = |(at, task): (usize, &TaskResult)| {
        (heading(task), report.models.iter().map(|(_, results)| cell(&results[at])).collect())
    };
    tasks.iter().enumerate().map(column).collect()
}

/// A column for each category of a task, as in Tables 13 and 14, after its average.
fn of_categories(report: &Report, task: usize, result: &TaskResult) -> Vec<Column> {
    let cells =
        |of: &dyn Fn(&TaskResult) -> String| report.models.iter().map(|(_, results)| of(&results[task])).collect();
    let average = ("average".to_owned(), cells(&|result| value(&result.value)));
    let category =
        |(at, (name, _)): (usize, &(String, Value))| (name.clone(), cells(&|result| value(&result.categories[at].1)));
    std::iter::once(average).chain(result.categories.iter().enumerate().map(category)).collect()
}

/// What takes away from a result, in words.
pub(super) fn lost(result: &TaskResult) -> Vec<String> {
    let of = [
        (result.not_found, "without an answer"),
        (result.cut, "cut at max. length"),
        (result.cut_prompts, "prompts cut"),
    ];
    of.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

fn print_paired(paired: &[Paired]) {
    let column =
        |heading: &str, cell: &dyn Fn(&Paired) -> String| (heading.to_owned(), paired.iter().map(cell).collect());
    let columns = [
        column("second − first", &|task| short_name(&task.task)),
        column("difference", &|task| format!("{:+.1}", 100.0 * task.difference)),
        column("95 % interval", &|task| interval(task.ci95)),
        column("only first\nright", &|task| task.only_first.to_string()),
        column("only second\nright", &|task| task.only_second.to_string()),
        column("p", &|task| p_value(task.p)),
    ];
    print_columns(&columns, |table| align_right(table, 1));
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

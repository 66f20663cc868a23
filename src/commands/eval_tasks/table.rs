//! Results for people, in the layout of the report's Tables 2, 5, 13 and 14.

use std::ops::Range;
use std::path::{Component, PathBuf};

use align_evaluation::results::{Paired, TaskResult, Value};
use comfy_table::{Cell, Table};

use super::Report;
use crate::output::{align_right, print_line, table};

/// Prints all tables.
pub(super) fn print(report: &Report) {
    main_tables(report, Table::new().width().map(usize::from)).iter().for_each(|table| print_line(table));
    for (at, result) in report.models.first().map(|(_, tasks)| tasks).into_iter().flatten().enumerate() {
        if !result.categories.is_empty() {
            print_line(&category_table(report, at, result));
        }
    }
    if !report.paired.is_empty() {
        print_line(&paired_table(&report.paired));
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
    format!("{} {}-shot", task.task, task.shots)
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

/// As many tasks in a table as fit the terminal, if there is one.
fn main_tables(report: &Report, width: Option<usize>) -> Vec<String> {
    let count = report.models.first().map_or(0, |(_, tasks)| tasks.len());
    let fits = |table: &String| {
        width.is_none_or(|width| table.lines().next().is_none_or(|line| line.chars().count() <= width))
    };
    let (mut tables, mut start) = (Vec::new(), 0);
    while start < count {
        let candidates = (start + 1..=count).rev().map(|end| (end, main_table(report, start..end)));
        let (end, table) =
            candidates.into_iter().find(|(end, table)| fits(table) || *end == start + 1).expect("one task");
        tables.push(table);
        start = end;
    }
    tables
}

/// A row for each model, a column for each task, as in Tables 2 and 5.
fn main_table(report: &Report, tasks: Range<usize>) -> String {
    let first = report.models.first().map(|(_, results)| &results[tasks.clone()]).unwrap_or_default();
    let headings: Vec<String> = first.iter().map(heading).collect();
    let mut header = vec!["%"];
    header.extend(headings.iter().map(String::as_str));
    let mut table = table(&header);
    for (name, (_, results)) in names(report).into_iter().zip(&report.models) {
        let mut row = vec![Cell::new(name)];
        row.extend(results[tasks.clone()].iter().map(|result| {
            let mut lines = vec![value(&result.value), format!("{}, {} rows", result.metric, result.rows)];
            lines.extend(lost(result));
            Cell::new(lines.join("\n"))
        }));
        table.add_row(row);
    }
    align_right(table, 1).to_string()
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

/// The categories of one task, as in Tables 13 and 14.
fn category_table(report: &Report, task: usize, result: &TaskResult) -> String {
    let mut header = vec![result.task.as_str(), "average"];
    header.extend(result.categories.iter().map(|(name, _)| name.as_str()));
    let mut table: Table = table(&header);
    for (name, (_, results)) in names(report).into_iter().zip(&report.models) {
        let result = &results[task];
        let mut row = vec![Cell::new(name), Cell::new(value(&result.value))];
        row.extend(result.categories.iter().map(|(_, of)| Cell::new(value(of))));
        table.add_row(row);
    }
    align_right(table, 1).to_string()
}

fn paired_table(paired: &[Paired]) -> String {
    let mut table =
        table(&["second − first", "difference", "95 % interval", "only first\nright", "only second\nright", "p"]);
    for task in paired {
        table.add_row([
            task.task.clone(),
            format!("{:+.1}", 100.0 * task.difference),
            interval(task.ci95),
            task.only_first.to_string(),
            task.only_second.to_string(),
            p_value(task.p),
        ]);
    }
    align_right(table, 1).to_string()
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

//! Results for people, in the layout of the report's Tables 2, 5, 13 and 14.

use std::path::{Component, PathBuf};

use align_evaluation::results::{Paired, TaskResult, Value};
use comfy_table::Table;

use super::Report;
use crate::output::{align_right, print_line, table};

/// Prints all tables.
pub(super) fn print(report: &Report) {
    let (names, width) = (names(report), Table::new().width().map(usize::from));
    let print = |title: &str, columns: &[Column]| {
        tables(title, &names, columns, width).iter().for_each(|table| print_line(table));
    };
    print("%", &of_tasks(report));
    for (at, result) in report.models.first().map(|(_, tasks)| tasks).into_iter().flatten().enumerate() {
        if !result.categories.is_empty() {
            print(&result.task, &of_categories(report, at, result));
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

/// A column of a table: its heading, and a cell for each model.
type Column = (String, Vec<String>);

/// A row for each model. As many columns are in a table as fit the width, one at least; the others follow in
/// further tables.
fn tables(title: &str, names: &[String], columns: &[Column], width: Option<usize>) -> Vec<String> {
    let (mut tables, mut rest) = (Vec::new(), columns);
    while !rest.is_empty() {
        let whole = one_table(title, names, rest);
        let line = |table: &str| table.lines().next().map_or(0, |line| line.chars().count());
        let fits = |table: &String| width.is_none_or(|width| line(table) <= width);
        let shorter = (1..rest.len()).rev().map(|count| (count, one_table(title, names, &rest[..count])));
        let (count, table) = std::iter::once((rest.len(), whole))
            .chain(shorter)
            .find(|(count, table)| *count == 1 || fits(table))
            .expect("a table of one column");
        tables.push(table);
        rest = &rest[count..];
    }
    tables
}

fn one_table(title: &str, names: &[String], columns: &[Column]) -> String {
    let header: Vec<&str> = std::iter::once(title).chain(columns.iter().map(|(heading, _)| heading.as_str())).collect();
    let mut table = table(&header);
    for (at, name) in names.iter().enumerate() {
        table.add_row(std::iter::once(name).chain(columns.iter().map(|(_, cells)| &cells[at])));
    }
    align_right(table, 1).to_string()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_do_not_fit_follow_in_further_tables() {
        let names = ["one".to_owned(), "two".to_owned()];
        let columns: Vec<Column> =
            ["mmlu", "gsm8k", "bbh"].map(|task| (task.to_owned(), vec!["70.0 [68.0, 72.0]".to_owned(); 2])).into();
        let whole = tables("%", &names, &columns, None);
        assert_eq!(whole.len(), 1);
        let split = tables("%", &names, &columns, Some(50));
        assert_eq!(split.len(), 2);
        assert!(split.iter().flat_map(|table| table.lines()).all(|line| line.chars().count() <= 50), "{split:?}");
        let has = |table: &str, task: &str| table.lines().nth(1).unwrap().contains(task);
        assert!(has(&split[0], "mmlu") && has(&split[0], "gsm8k") && has(&split[1], "bbh"), "{split:?}");
        // A single column that is too wide is shown all the same.
        assert_eq!(tables("%", &names, &columns, Some(5)).len(), 3);
    }
}

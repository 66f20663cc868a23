//! Printing: results go to stdout, everything else to stderr. The reader of either may close it at any time.

use std::io::{self, Write};
use std::process;

use comfy_table::{CellAlignment, Table, presets};

/// The exit code if stdout was closed by its reader: the one that a shell reports for a command killed by
/// SIGPIPE.
pub(crate) const READER_IS_GONE: u8 = 128 + 13;

/// Prints a line of a result. If stdout is closed, the command ends silently.
pub(crate) fn print_line(line: &str) {
    print(&format!("{line}\n"));
}

/// As [`print_line`], without a line break.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            process::exit(READER_IS_GONE.into());
        }
        say(&format!("align: standard output: {error}"));
        process::exit(1);
    }
}

/// A table for [`print_line`].
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}

/// Aligns the columns of numbers, those from index `from` on, to the right.
pub(crate) fn align_right(mut table: Table, from: usize) -> Table {
    table.column_iter_mut().skip(from).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// Sets columns closer to each other, so that more of them fit a terminal.
pub(crate) fn narrow(mut table: Table) -> Table {
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(at > 0), 0));
    }
    table
}

/// A column of a table: its heading, and a cell for each row.
pub(crate) type Column = (String, Vec<String>);

/// Prints a table whose first column names the rows. Of the others there are as many as fit the terminal, if
/// stdout is one; the rest follow in further tables with the same first column.
pub(crate) fn print_columns(columns: &[Column], style: fn(Table) -> Table) {
    tables(columns, style, terminal_width()).iter().for_each(|table| print_line(table));
}

fn tables(columns: &[Column], style: fn(Table) -> Table, width: Option<usize>) -> Vec<String> {
    let Some((names, mut rest)) = columns.split_first() else { return Vec::new() };
    let mut tables = Vec::new();
    let fits = |table: &String| {
        let line = table.lines().next().map_or(0, |line| line.chars().count());
        width.is_none_or(|width| line <= width)
    };
    while !rest.is_empty() {
        let mut shorter = (1..=rest.len()).rev().map(|count| (count, one_table(names, &rest[..count], style)));
        let (count, table) = shorter.find(|(count, table)| *count == 1 || fits(table)).expect("a table of one column");
        tables.push(table);
        rest = &rest[count..];
    }
    tables
}

fn one_table(names: &Column, columns: &[Column], style: fn(Table) -> Table) -> String {
    let columns: Vec<&Column> = std::iter::once(names).chain(columns).collect();
    let mut table = table(&columns.iter().map(|(heading, _)| heading.as_str()).collect::<Vec<_>>());
    for row in 0..names.1.len() {
        table.add_row(columns.iter().map(|(_, cells)| &cells[row]));
    }
    style(table).to_string()
}

/// Prints a text with an indent, wrapped between words if stdout is a terminal.
pub(crate) fn print_paragraph(text: &str, indent: &str) {
    let options = textwrap::Options::new(terminal_width().unwrap_or(usize::MAX)).initial_indent(indent);
    textwrap::wrap(text, options.subsequent_indent(indent)).iter().for_each(|line| print_line(line));
}

/// The number of characters in a line of the terminal on stdout.
fn terminal_width() -> Option<usize> {
    Table::new().width().map(usize::from)
}

/// Prints the last line of finished work, ignoring errors: the result is saved already.
pub(crate) fn print_if_read(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line to stderr, ignoring errors.
pub(crate) fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Whether an error is caused by a closed stdout.
pub(crate) fn reader_is_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_do_not_fit_follow_in_further_tables() {
        let cells = || vec!["70.0 [68.0, 72.0]".to_owned(); 2];
        let mut columns = vec![("%".to_owned(), vec!["one".to_owned(), "two".to_owned()])];
        columns.extend(["mmlu", "gsm8k", "bbh"].map(|task| (task.to_owned(), cells())));
        let tables = |width| tables(&columns, |table| align_right(table, 1), width);
        assert_eq!(tables(None).len(), 1);
        let split = tables(Some(50));
        assert_eq!(split.len(), 2);
        assert!(split.iter().flat_map(|table| table.lines()).all(|line| line.chars().count() <= 50), "{split:?}");
        let has = |table: &str, task: &str| table.lines().nth(1).unwrap().contains(task);
        assert!(has(&split[0], "mmlu") && has(&split[0], "gsm8k") && has(&split[1], "bbh"), "{split:?}");
        assert!(split.iter().all(|table| table.contains("one")), "{split:?}");
        // A single column that is too wide is shown all the same.
        assert_eq!(tables(Some(5)).len(), 3);
    }
}

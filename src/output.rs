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

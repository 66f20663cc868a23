//! What is printed: results to stdout, everything else to stderr. Whoever reads them may go at any time.

use std::io::{self, Write};
use std::process;

/// The exit code of a command whose reader has gone: as a shell tells it of what the signal SIGPIPE ends, `cat` and `grep` among them.
pub(crate) const READER_IS_GONE: u8 = 128 + 13;

/// Prints a line of a result. When nobody reads it any more, the command ends without a word.
pub(crate) fn print_line(line: &str) {
    print(&format!("{line}\n"));
}

/// As [`print_line`], without the end of a line.
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

/// Prints the last line of work that is done and saved: nothing is lost when it cannot be.
pub(crate) fn print_if_read(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line to stderr. Work goes on when nobody reads it.
pub(crate) fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Whether an error is that the reader of stdout has gone.
pub(crate) fn reader_is_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

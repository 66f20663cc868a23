//! Programs in the sandbox: harmless ones, hostile ones, and those that test the sandbox itself. Skipped where the
//! kernel has no Landlock.
#![cfg(target_os = "linux")]

mod attacks;
mod programs;
mod self_test;
mod session;

use align_sandbox::{Isolation, Limits, Python, Sandbox};

/// The sandbox of the machine's Python; `ALIGN_TEST_PYTHON` names another.
fn sandbox() -> Sandbox {
    let path = std::env::var_os("ALIGN_TEST_PYTHON").map(std::path::PathBuf::from);
    let python = Python::find(path.as_deref()).unwrap();
    Sandbox::new(python, Limits::default(), Isolation::Full).unwrap()
}

//! Programs in the sandbox: harmless ones, hostile ones, and those that test the sandbox itself.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod attacks;
mod programs;
mod self_test;
mod session;

use align_sandbox::{Isolation, Limits, Python, Sandbox};

/// The sandbox of the machine's Python; `ALIGN_TEST_PYTHON` names another.
fn sandbox() -> Sandbox {
    sandbox_with(Limits::default())
}

fn sandbox_with(limits: Limits) -> Sandbox {
    let path = std::env::var_os("ALIGN_TEST_PYTHON").map(std::path::PathBuf::from);
    let python = Python::find(path.as_deref()).unwrap();
    Sandbox::new(python, limits, Isolation::Full).unwrap()
}

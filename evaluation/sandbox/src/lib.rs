//! Runs model-written Python as an ordinary user: Landlock limits the files, seccomp the system calls,
//! rlimits and the parent the resources. No root, no namespaces, no container.
//!
//! - [`Python::find`] asks the interpreter, outside the sandbox, for its files and packages.
//! - [`Sandbox`] holds the rules. [`Sandbox::self_test`] breaks each of them once, before the first program.
//! - [`Sandbox::run`] and [`Sandbox::run_all`] run programs that check themselves (HumanEval, MBPP).
//! - [`Session`] is one long-lived interpreter, for the code interpreter of a dialogue.
//!
//! Inside: `rules` names what is refused, `files` (Landlock) and `calls` (seccomp) refuse it, `child` starts
//! the process, `interpreter` exchanges a request for an answer under the limits, which `usage` measures.
//!
//! What is not hidden: metadata of files (`stat`), the time, and the processor's side channels. The program
//! and its checks share a process, so a program written against its checks (an object equal to everything, a
//! trace function that jumps over lines) can pass them.
//!
//! Imports only `core`, and not libtorch.

#[cfg_attr(not(target_os = "linux"), path = "elsewhere.rs")]
mod calls;
mod child;
#[cfg_attr(not(target_os = "linux"), path = "elsewhere.rs")]
mod files;
mod interpreter;
mod output;
mod program;
mod python;
mod rules;
mod sandbox;
mod self_test;
mod session;
mod usage;
mod work_folder;

pub use program::{Outcome, Verdict};
pub use python::Python;
pub use rules::{Isolation, Limits, Rule};
pub use sandbox::Sandbox;
pub use session::{Answer, Ended, Session};

//! Benchmarks: their files, prompts, extractors and metrics.
//!
//! Imports `core`, `data`, `text` and `statistics`, and not libtorch. A benchmark's files become a
//! [`task::Task`]: prompts, and how answers are scored. Which model answers, and how, is not known here.
//!
//! - [`load()`]: loads a benchmark or a user's own task, as a [`request`] asks for it.
//! - [`task`]: a task in memory; [`answer`]: what a model answers, and what its scoring returns.
//! - [`mod@judge`]: how an answer is scored, by what is taken from it ([`extract`]) and when that is right
//!   ([`equality`]).
//! - `sets`: a file for each benchmark, and `own` for a user's own task.
//! - `files`, `prompt`, `subjects`, `random`: what the benchmarks share.

#![forbid(unsafe_code)]

pub mod answer;
pub mod equality;
pub mod extract;
mod files;
pub mod judge;
mod load;
mod prompt;
mod random;
pub mod request;
mod sets;
mod subjects;
pub mod task;

pub use load::{NAMES, load};
pub use request::{Preset, Request, Style};

//! Benchmarks: their files, prompts, extractors and metrics.
//!
//! Imports `core`, `data`, `text` and `statistics`, and not libtorch. A benchmark's files become a
//! [`task::Task`]: prompts, and judges for the answers. Which model answers, and how, is not known here.

#![forbid(unsafe_code)]

pub mod task;

//! Prompts, parsing, loops and scores, with scripted models.

#![expect(clippy::unwrap_used, reason = "a test that fails says where and why")]

mod agent;
mod code;
mod commands;
mod functions;
mod golden;
mod hostile;
mod react;
mod sandboxed;
mod scripted;
mod selection;
mod training;

use std::path::PathBuf;

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A JSON file of the repository.
fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(repository(path)).unwrap()).unwrap()
}

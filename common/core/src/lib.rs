//! What everything in `align` stands on: errors, configs, files that appear whole or not at all, draws, progress.
//!
//! Imports no other crate of the workspace, and not libtorch.
//!
//! - [`error`]: what went wrong, for the person who has to act on it.
//! - [`config`]: a stage's TOML file over its defaults, every mistake at once; the sections that stages share.
//! - [`atomic_files`], [`manifest`]: folders that appear whole, and the checksums of what is in them.
//! - [`random`]: draws as functions of (seed, purpose, step, row).
//! - [`progress`]: what a long computation says meanwhile.
//! - [`process_memory`]: what this process holds.

pub mod atomic_files;
pub mod config;
pub mod error;
pub mod manifest;
pub mod process_memory;
pub mod progress;
pub mod random;

//! The base of every crate in `align`: errors, configs, atomic files, counter-based random numbers, progress.
//!
//! Imports no other crate of the workspace, and not libtorch.
//!
//! - [`error`]: what went wrong, for the person who has to act on it.
//! - [`config`]: merges a stage's TOML file over its defaults and reports every mistake at once; the sections
//!   that stages share.
//! - [`atomic_files`], [`manifest`]: folders that appear complete or not at all, and the checksums of their
//!   files.
//! - [`folder_lock`]: one process per folder.
//! - [`clock`]: times as texts.
//! - [`random`]: random numbers as pure functions of (seed, purpose, step, row).
//! - [`progress`]: how long-running work reports its progress.
//! - [`process_memory`]: the resident memory of this process, and settings of its allocator.

pub mod atomic_files;
pub mod clock;
pub mod config;
pub mod error;
pub mod folder_lock;
pub mod manifest;
pub mod process_memory;
pub mod progress;
pub mod random;

//! Evaluates models on tasks.
//!
//! Imports every crate of `evaluation` and `common`, and no stage.

#![forbid(unsafe_code)]

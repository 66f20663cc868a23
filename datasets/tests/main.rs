//! Properties of the sets and the gold score.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod gold;
mod rules;
mod sets;
mod tasks;
mod tokenizer;

//! What the stages share above models and runs: checks before the first step, the training loop, the optimizer, estimates.
//!
//! Imports every other crate below `common/`, and no stage.
//!
//! - [`stage`]: what is checked before a run, the loop that drives a stage's trainer, doctor, replay, warnings.
//! - [`lm`]: language modelling on rows of tokens. [`optim`]: AdamW. [`schedule`]: the learning rate.
//! - [`footprint`]: what a model's work needs, in bytes and operations.

#![forbid(unsafe_code)]

pub mod footprint;
pub mod lm;
pub mod optim;
mod outset;
pub mod schedule;
pub mod stage;

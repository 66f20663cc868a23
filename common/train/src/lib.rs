//! Shared by the stages: checks before the first step, the training loop, the optimizer, estimates.
//!
//! Imports the other crates below `common/`, and no stage.
//!
//! - [`stage`]: the checks before a run, the loop that drives a stage's trainer, doctor, replay, warnings.
//! - [`lm`]: language modelling on rows of tokens. [`optim`]: AdamW. [`schedule`]: the learning rate.
//! - [`footprint`]: estimates of memory and floating-point operations.

#![forbid(unsafe_code)]

pub mod footprint;
pub mod lm;
pub mod optim;
mod outset;
pub mod schedule;
pub mod stage;

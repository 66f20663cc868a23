//! The reward model.

pub mod loss;
pub mod stats;

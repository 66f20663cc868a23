//! The reward model.

pub mod loss;

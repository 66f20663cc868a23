//! Statistics of evaluations: intervals of proportions, paired tests ([`sign_tests`]), the bootstrap
//! ([`bootstrap`]), agreement of annotators ([`agreement`]), models of comparisons ([`comparison_models`]),
//! logistic regression and win rates at equal length ([`logistic`]), and soft preferences
//! ([`soft_preferences`]).
//!
//! Imports only `core`, and not libtorch.

#![forbid(unsafe_code)]

pub mod agreement;
pub mod bootstrap;
pub mod comparison_models;
mod linear;
pub mod logistic;
pub mod sign_tests;
pub mod soft_preferences;

#[cfg(test)]
mod tests;

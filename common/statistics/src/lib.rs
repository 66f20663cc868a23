//! Statistics of evaluations.
//!
//! Depends on `align-core` only, and does not link libtorch.
//!
//! - [`proportions`]: means of right answers, their intervals, and whether two of them differ.
//! - [`sign_tests`]: paired tests; [`bootstrap`]: intervals of anything.
//! - [`agreement`] of annotators; [`comparison_models`]; [`soft_preferences`].
//! - [`logistic`] regression, and win rates at equal length.

#![forbid(unsafe_code)]

pub mod agreement;
pub mod bootstrap;
pub mod comparison_models;
mod linear;
pub mod logistic;
pub mod proportions;
pub mod sign_tests;
pub mod soft_preferences;

#[cfg(test)]
mod tests;

//! Statistics of evaluations: means of right answers and their intervals, paired tests, agreement of people,
//! models of comparisons.
//!
//! Depends on `align-core` only, and does not link libtorch.
//!
//! - [`proportions`]: means of right answers, and whether two of them differ.

#![forbid(unsafe_code)]

pub mod proportions;

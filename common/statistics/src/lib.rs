//! Statistics of evaluations: intervals of proportions, paired tests, agreement of people, models of comparisons.
//!
//! Imports only `core`, and not libtorch.

#![forbid(unsafe_code)]

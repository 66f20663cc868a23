//! Judgments of people about responses: items, assignment, the file of judgments, export to comparisons, comparison of models.
//!
//! Imports `core`, `statistics` and `data`, and not libtorch.

#![forbid(unsafe_code)]

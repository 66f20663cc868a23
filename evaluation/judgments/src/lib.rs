//! Judgments of people about responses: items ([`item`]), the file of judgments ([`judgment`]), export to
//! comparisons, comparison of models.
//!
//! Imports `core`, `statistics` and `data`, and not libtorch.

#![forbid(unsafe_code)]

pub mod item;
pub mod judgment;
mod lines;

pub use item::{Item, Prompt, Turn, parse_item, read_items};
pub use judgment::{Ask, Judgment, Labels, ReadJudgments, Strength, read_judgments};

//! Judgments of people about responses: items ([`item`]), the file of judgments ([`judgment`]), comparison of
//! models ([`compare`](mod@compare)) with its figure ([`figure`]), and export to comparisons for training
//! ([`export`](mod@export)).
//!
//! Imports `core`, `statistics` and `data`, and not libtorch.

#![forbid(unsafe_code)]

pub mod compare;
pub mod export;
pub mod figure;
pub mod item;
pub mod judgment;
mod lines;

pub use compare::{Annotators, Comparison, Counting, Options, compare};
pub use export::{ExportCounts, ExportOptions, Exported, PairLimits, ScoreUnit, Shape, export};
pub use item::{Item, Prompt, Turn, parse_item, read_items};
pub use judgment::{Ask, Judgment, Labels, ReadJudgments, Strength, read_judgments};

#[cfg(test)]
mod fixtures;

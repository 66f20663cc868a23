//! Judgments of people about responses: items ([`item`]), the file of judgments ([`judgment`]), comparison of
//! models ([`compare`](mod@compare)) with its figure ([`figure`]), and export to comparisons for training
//! ([`export`](mod@export)).
//!
//! Making judgments: [`items`] reads and keeps items, [`assignment`] decides who gets which, [`answer`] is
//! what an annotator says, [`journal`] keeps it on the disk, [`desk`] brings these together, and [`overview`]
//! is what the owner of the folder sees. [`judge`] is a folder in which a program judges,
//! and [`judges`] which program has which name.
//!
//! Imports `core`, `statistics`, `text` and `data`, and not libtorch.

#![forbid(unsafe_code)]

pub mod answer;
pub mod assignment;
pub mod compare;
pub mod desk;
pub mod export;
pub mod figure;
pub mod item;
pub mod items;
pub mod journal;
pub mod judge;
pub mod judges;
pub mod judgment;
mod lines;
pub mod overview;

pub use compare::{Annotators, Comparison, Counting, Options, compare};
pub use export::{ExportCounts, ExportOptions, Exported, PairLimits, ScoreUnit, Shape, export};
pub use item::{Item, Prompt, Turn, parse_item, read_items};
pub use judgment::{Ask, Judgment, Labels, ReadJudgments, Strength, read_judgments};

#[cfg(test)]
mod fixtures;

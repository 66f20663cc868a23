//! Puts tasks to models: log-probabilities of choices with shared prompts, texts until a stop text, records,
//! and results with their intervals.
//!
//! Depends on the other crates of `evaluation` and on `common`, and on no stage.
//!
//! - [`encode`]: prompts and choices as tokens.
//! - [`choose`]: log-probabilities of choices; [`mod@write`]: texts.
//! - [`answer`]: all answers to a task; [`journal`] keeps them, so that a run resumes.
//! - [`assistant`]: a model that calls tools.
//! - [`records`]: every answer as it was judged; [`results`]: means, intervals, two models compared.

#![forbid(unsafe_code)]

pub mod answer;
pub mod assistant;
pub mod choose;
pub mod encode;
pub mod journal;
pub mod records;
pub mod results;
pub mod write;

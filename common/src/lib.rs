//! What two or more stages of `align` use; knows no stage.
//!
//! Shapes are written with one legend everywhere: **B** rows, **P** prompt, **R** response, **T** tokens of a flat batch,
//! **V** vocabulary, **D** hidden, **H** query heads, **K** key/value heads, **E** head width.

pub mod error;
pub mod random;

pub mod batch;
pub mod generate;
pub mod lm;
pub mod model;

pub mod chatml;
pub mod data;
pub mod template;
pub mod tokenizer;

pub mod checkpoint;
pub mod config;
pub mod contract;
pub mod metrics;
pub mod optim;
pub mod progress;
pub mod run;
pub mod schedule;
pub mod stage;

pub mod masked;

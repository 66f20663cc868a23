//! Run folders: what a run keeps, so that it can go on and be understood.
//!
//! Imports `align-core`, `align-kernels` and `align-model`.
//!
//! - [`run`]: the folder's life, from the first step to the last. [`checkpoint`]: everything that training goes on from.
//! - [`metrics`]: scalars of a step, in metrics.jsonl and TensorBoard. [`plot`]: curves, as SVG in a page and as pixels.

pub mod checkpoint;
pub mod metrics;
pub mod plot;
pub mod run;

//! Run folders: everything that a run saves, so that it can be resumed and inspected.
//!
//! Depends on `align-core`, `align-kernels` and `align-model`.
//!
//! - [`run`]: the life of a run folder, from the first step to the last. [`checkpoint`]: everything that
//!   training resumes from.
//! - [`metrics`]: scalars of a step, in metrics.jsonl and TensorBoard. [`plot`]: charts, as SVG and as PNG.

pub mod checkpoint;
pub mod metrics;
pub mod plot;
pub mod run;

//! Whether a model that was written is the one in memory.

use std::path::Path;

use tch::{Kind, Tensor};

use super::config::ModelConfig;
use crate::batch::FlatBatch;
use crate::error::{Error, Result};

/// Tokens of the probe.
const PROBE: i64 = 24;

/// A sequence with ids from all over the vocabulary.
pub(super) fn probe(vocab_size: i64) -> FlatBatch {
    let tokens: Vec<i64> = (0..PROBE).map(|at| (at * at * 7919 + at * 104_729 + 11) % vocab_size).collect();
    let mut flat = FlatBatch::new();
    flat.push(&tokens, None);
    flat
}

/// Compares numbers of the model in memory with those of the written one. Weights that are written in fp32 come back as they were; in 16
/// bits each is rounded, which moves the numbers by a few percent of their size.
pub(super) fn agree(dir: &Path, config: &ModelConfig, memory: &Tensor, written: &Tensor) -> Result<()> {
    let size = memory.abs().max().double_value(&[]).max(1.0);
    let apart = (memory - written).abs().max().double_value(&[]) / size;
    let limit = if config.dtype == Kind::Float { 1e-5 } else { 0.1 };
    // A NaN is not within any limit, but one that is in memory is what was written.
    if apart <= limit || memory.isfinite().all().int64_value(&[]) == 0 {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{}: the model that was written gives other numbers than the one in memory (apart by {apart:.1e} of their size); the disk or the memory is not sound, and nothing was replaced",
        dir.display()
    )))
}

//! The size of one forward pass.

use align_kernels::attention::extent;
use align_kernels::batch::FlatBatch;

/// What is computed at once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchCost {
    /// Tokens of the flat batch (T).
    pub tokens: u64,
    /// Pairs of a query and a key over all attention calls, in one layer and for one head.
    pub pairs: u64,
    /// The pairs of calls with a mask.
    pub masked_pairs: u64,
    /// Attention calls per layer.
    pub calls: u64,
    /// Tokens whose log-probability is computed (N).
    pub targets: u64,
}

impl BatchCost {
    /// The cost of a flat batch with this number of targets.
    pub fn of(batch: &FlatBatch, targets: usize) -> Self {
        let mut cost = Self { tokens: batch.len() as u64, targets: targets as u64, ..Self::default() };
        for call in extent(batch) {
            let pairs = (call.queries * call.keys) as u64;
            cost.calls += 1;
            cost.pairs += pairs;
            cost.masked_pairs += if call.is_masked { pairs } else { 0 };
        }
        cost
    }
}

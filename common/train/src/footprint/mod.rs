//! Estimates of memory and arithmetic, derived from the tensors that the code saves: bytes are numbers of
//! elements times their size. One number is measured instead: the allocator fragmentation between small
//! tensors.
//!
//! Letters as everywhere: D hidden size, I inner size of the feed-forward layer, Q = H·E, K·E, T tokens.

mod batch_cost;
mod estimate;
mod layer;
mod model_memory;
mod rows;

pub use batch_cost::BatchCost;
pub use estimate::{Phase, StepEstimate};
pub use model_memory::{ModelMemory, resident};
pub use rows::{Rows, STEPS};

const FP32: u64 = 4;

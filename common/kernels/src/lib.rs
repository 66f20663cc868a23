//! Operations on tensors, and how each kind of device computes them.
//!
//! Imports `align-core`, libtorch, and nothing else of the workspace. Operations know no model: they take
//! sizes.
//!
//! [`Ops`] is the single interface to a device: a trait whose defaults compute through libtorch
//! (`reference`), and which a backend overrides where it computes better (`cpu`). [`ops()`] gives the backend
//! of a device; no other crate compares devices.
//!
//! To read: [`batch`], then [`attention`], then [`Ops`]. Shapes are written with one legend in the whole
//! workspace: **B** rows, **P** prompt, **R** response, **T** tokens of a flat batch, **N** the tokens among
//! them whose hidden states are needed, **V** vocabulary, **D** hidden, **H** query heads, **K** key/value
//! heads, **E** head width, **I** feed-forward width, **S** scores. A mask is true where something counts. In
//! a per-token tensor of a response, entry t describes its token t, and is computed from the hidden state of
//! the token before it, which predicts token t.

pub mod adamw;
pub mod attention;
mod backend;
pub mod batch;
mod cpu;
mod device;
pub mod kv_cache;
pub mod logprobs;
mod norm;
mod ops;
mod precision;
mod reference;
pub mod rotary;
pub mod sampling;
#[cfg(test)]
mod tests;

use tch::{Kind, Tensor};

pub use backend::{BACKENDS, check_backend, ops};
pub use cpu::slices::{as_f32_slice, tensor_bytes};
pub use cpu::threads::spawn_single_threaded;
pub use device::{HOST, find_device, kind_of, to_host};
pub use norm::NormGrads;
pub use ops::Ops;
pub use precision::Precision;

/// The backward pass from `output` with ∂L/∂output = `grad`.
pub fn backward_with(output: &Tensor, grad: &Tensor) {
    (output * grad.detach()).sum(Kind::Float).backward();
}

/// Seeds libtorch's generator for a test. There is one for the process: a test that draws
/// from it, dropout included, holds this guard.
#[doc(hidden)]
pub fn seeded(seed: i64) -> impl Drop {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}

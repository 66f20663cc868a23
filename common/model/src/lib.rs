//! The transformers: [`CausalLm`], which ends in a distribution over tokens, and [`ScalarModel`], which ends
//! in a number per position, a score or a value. `config.json` decides the architecture.
//!
//! Imports `align-core`, `align-text` and `align-kernels`.
//!
//! - `folder`: paths that are not model folders; `config`: `config.json` of the three families; `files`:
//!   mapped safetensors; `header`: what a folder holds, checked before anything loads, and `differences` from
//!   what it should; `unfound`: weights under other names; `weights`: safetensors ⇄ parameters; `rounding`:
//!   fp32 weights in 16 bits; `saved`: a snapshot to be written.
//! - `spec`, `names`: the parameters of an architecture; `transformer`: its weights; `shape`: its sizes;
//!   `layer`: one layer, of `attention` and `mlp`, which are made of `linear` maps; `rope`: positions;
//!   `heads`: the two heads.
//! - `backbone`: forward and backward passes over flat batches; `pass`: what a forward pass attends to;
//!   `causal`, `scalar`: the two models on top of it; `written`: these in the files of a folder, to be
//!   compared; [`generate`]: sampling.
//! - `untrained`: whether the ChatML tokens were ever trained; `finite`: non-finite weights; [`contract`]:
//!   what a score means.

mod attention;
mod backbone;
mod causal;
mod config;
pub mod contract;
mod differences;
mod files;
mod finite;
mod folder;
pub mod generate;
mod header;
mod heads;
mod layer;
mod linear;
mod mlp;
mod names;
mod pass;
mod rope;
mod rounding;
mod saved;
mod scalar;
mod shape;
mod spec;
mod transformer;
mod unfound;
mod untrained;
mod weights;
mod written;

pub use align_kernels::kv_cache::Prefilled;
pub use backbone::{Forward, See};
pub use causal::CausalLm;
pub use config::{Family, ModelConfig, Yarn, dtype_name};
pub use files::{READ_BYTES, read_files};
pub use finite::require_finite;
pub use folder::check_folder;
pub use header::{Header, dtypes, inspect, num_parameters, num_parameters_without};
pub use heads::{GradOf, LmHead, Over, TokenStats, chunk_rows};
pub use saved::{Models, Saved};
pub use scalar::ScalarModel;
pub use spec::Face;
pub use untrained::untrained_chatml;
pub use weights::{Parameter, SideFiles, Writing};
pub use written::{LmReader, ScalarReader, WrittenLm, WrittenScalar, divergence};

#[cfg(test)]
pub(crate) mod tests;

use align_kernels::{Ops, Precision, ops};
use tch::{Device, Kind, Tensor};

/// How a model is stored and computed.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// The device of its weights and its computation.
    pub device: Device,
    /// What matmul inputs are rounded to: `Float` or `BFloat16`. The backend chooses the activation dtype.
    pub compute: Kind,
    /// Whether it is trained: fp32 master weights that require gradients. Otherwise weights are held in the
    /// compute dtype.
    pub trainable: bool,
    /// Whether activations inside layers are computed again during the backward pass instead of kept.
    pub recompute_layers: bool,
}

impl ModelOptions {
    /// Of a model that is only read, in fp32.
    pub fn reader(device: Device) -> Self {
        Self { device, compute: Kind::Float, trainable: false, recompute_layers: false }
    }

    /// The same device and dtype for a model that is only read.
    fn frozen(&self) -> Self {
        Self { trainable: false, recompute_layers: false, ..self.clone() }
    }

    /// The backend that computes it.
    pub fn ops(&self) -> &'static dyn Ops {
        ops(self.device)
    }

    /// The dtypes of its computation.
    pub fn precision(&self) -> Precision {
        self.ops().precision(self.compute)
    }

    /// The dtype in which weights are held.
    fn kept(&self) -> Kind {
        if self.trainable { Kind::Float } else { self.compute }
    }
}

/// Dropout in one forward pass: at the embedding, the attention probabilities and both residual outputs.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// The probability that a value is dropped.
    pub p: f64,
    /// What the masks are a function of, with the layer.
    pub key: u64,
}

impl Dropout {
    /// Seeds libtorch's generator for a layer (0: the embedding), so that its masks depend on nothing drawn
    /// before.
    fn reseed(&self, layer: u64) {
        tch::manual_seed((self.key ^ layer.wrapping_mul(0x9e37_79b9_7f4a_7c15)) as i64 & i64::MAX);
    }

    /// Multiplies outputs with a mask, which it returns: 0 with probability p, else 1/(1 − p).
    fn apply(&self, outputs: &mut Tensor) -> Tensor {
        let mask = outputs.empty_like().bernoulli_float_(1.0 - self.p).g_div_scalar_(1.0 - self.p);
        let _ = outputs.g_mul_(&mask);
        mask
    }
}

//! What the layers of a forward pass without gradients attend to.

use align_kernels::Ops;
use align_kernels::attention::{Heads, Plan};
use align_kernels::kv_cache::{DecodeStep, KvCache};
use align_kernels::rotary::Rotation;
use tch::Tensor;

use super::files::Files;

/// A forward pass without gradients.
pub(crate) enum Pass<'a> {
    /// Over the tokens of a batch.
    Batch(&'a Plan),
    /// Over those, by a model whose weights are in mapped files: one layer's are in memory at a time.
    Mapped(&'a Plan, &'a Files),
    /// Over prompts, whose keys and values are collected, layer by layer.
    Prefill(&'a Plan, &'a mut Vec<(Tensor, Tensor)>),
    /// Over one token of each row of a cache.
    Decode { cache: &'a mut KvCache, rotation: &'a Rotation, step: &'a DecodeStep },
}

impl<'a> Pass<'a> {
    /// Whether responses depend on it, which are sampled in the dtypes of decoding.
    pub(crate) fn is_decoding(&self) -> bool {
        matches!(self, Self::Prefill(..) | Self::Decode { .. })
    }

    /// The rotary positions of its tokens.
    pub(crate) fn rotation(&self) -> &'a Rotation {
        match self {
            Self::Batch(plan) | Self::Mapped(plan, _) | Self::Prefill(plan, _) => &plan.rotation,
            Self::Decode { rotation, .. } => rotation,
        }
    }

    /// The attention of a layer (T, H·E).
    pub(crate) fn attend(&mut self, layer: usize, window: Option<i64>, heads: &Heads, ops: &dyn Ops) -> Tensor {
        match self {
            Self::Batch(plan) => ops.attention(plan, heads, window, 0.0),
            Self::Mapped(plan, files) => {
                files.let_go();
                ops.attention(plan, heads, window, 0.0)
            }
            Self::Prefill(plan, layers) => {
                layers.push((heads.keys.shallow_clone(), heads.values.shallow_clone()));
                ops.attention(plan, heads, window, 0.0)
            }
            Self::Decode { cache, step, .. } => ops.decode_attention(cache, layer, heads, step),
        }
    }
}

//! The sizes of every layer, and what computes them.

use align_kernels::{NormGrads, Ops, Precision};
use tch::{Kind, Tensor};

use super::ModelOptions;
use super::config::ModelConfig;

/// The sizes of every layer, and what computes them.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) head_dim: i64,
    pub(crate) eps: f64,
    pub(crate) ops: &'static dyn Ops,
    pub(crate) precision: Precision,
}

impl Shape {
    pub(crate) fn of(config: &ModelConfig, options: &ModelOptions) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            eps: config.rms_norm_eps,
            ops: options.ops(),
            precision: options.precision(),
        }
    }

    /// RMSNorm of (…, D) with a weight (D).
    pub(crate) fn norm(&self, weight: &Tensor, x: &Tensor) -> Tensor {
        self.ops.rms_norm(x, &self.norm_weight(weight), self.eps, self.precision.activations)
    }

    /// Given ∂L/∂output of [`Shape::norm`]: adds ∂L/∂x to `input_grad`, and to the weight's gradient.
    pub(crate) fn norm_backward(&self, weight: &Tensor, x: &Tensor, grad: &Tensor, input_grad: &mut Tensor) {
        let grads = NormGrads { input: input_grad, weight: &mut weight.grad() };
        self.ops.rms_norm_backward(x, &self.norm_weight(weight), self.eps, grad, grads);
    }

    /// The weight is rounded to the matmul dtype, because frozen models store it rounded: a frozen model
    /// equals a trainable one.
    fn norm_weight(&self, weight: &Tensor) -> Tensor {
        weight.detach().to_kind(self.precision.matmul).to_kind(Kind::Float)
    }
}

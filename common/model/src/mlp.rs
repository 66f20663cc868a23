//! The feed-forward network of a layer: down(silu(gate(x)) · up(x)).

use tch::Tensor;

use super::linear::{Linear, Rows};
use super::shape::Shape;

/// Its three maps.
pub(crate) struct Mlp {
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
}

/// What the backward pass needs, both (N, I).
pub(crate) struct SavedMlp {
    pub(crate) gate: Tensor,
    pub(crate) up: Tensor,
}

impl Mlp {
    /// (N, D) → (N, D), without what the backward pass needs.
    pub(crate) fn forward(&self, input: &Tensor, shape: &Shape, rows: Rows) -> Tensor {
        let SavedMlp { gate, up } = self.inner(input, shape, rows);
        let gated = shape.ops.swiglu(&gate, &up);
        drop((gate, up));
        self.down_proj.forward(&gated, shape, rows)
    }

    /// Gate and up: the first half of the forward pass.
    pub(crate) fn inner(&self, input: &Tensor, shape: &Shape, rows: Rows) -> SavedMlp {
        SavedMlp { gate: self.gate_proj.forward(input, shape, rows), up: self.up_proj.forward(input, shape, rows) }
    }

    /// The second half.
    pub(crate) fn output(&self, inner: &SavedMlp, shape: &Shape, rows: Rows) -> Tensor {
        self.down_proj.forward(&shape.ops.swiglu(&inner.gate, &inner.up), shape, rows)
    }

    /// ∂L/∂input (N, D), given ∂L/∂output, both in the activation dtype. `input` gives the input again once
    /// it is needed.
    pub(crate) fn backward(
        &self,
        saved: SavedMlp,
        grad: &Tensor,
        input: impl FnOnce() -> Tensor,
        shape: &Shape,
    ) -> Tensor {
        let SavedMlp { gate, up } = saved;
        let gated_grad = self.down_proj.backward(&shape.ops.swiglu(&gate, &up), grad, shape);
        let (gate_grad, up_grad) = shape.ops.swiglu_backward(gate, up, &gated_grad);
        drop(gated_grad);
        let input = input();
        let mut input_grad = self.gate_proj.backward(&input, &gate_grad, shape);
        drop(gate_grad);
        self.up_proj.backward_into(&mut input_grad, &input, &up_grad, shape);
        input_grad
    }
}

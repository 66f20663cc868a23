//! A linear map: x·Wᵀ + b.

use tch::{Kind, Tensor};

use super::shape::Shape;

/// Which of a backend's linear operations computes a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Those of a whole batch: `Ops::linear`.
    Many,
    /// A few of them: `Ops::linear_few_rows`, where a row's result does not depend on the rows beside it.
    Few,
}

/// Weight (V, D) and bias (V), as the checkpoint holds them.
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    /// (N, D) → (N, V).
    pub(crate) fn forward(&self, input: &Tensor, shape: &Shape, rows: Rows) -> Tensor {
        let (precision, bias) = (shape.precision, self.bias.as_ref());
        match rows {
            Rows::Many => shape.ops.linear(precision, input, &self.weight, bias),
            Rows::Few => shape.ops.linear_few_rows(precision, input, &self.weight, bias),
        }
    }

    /// ∂L/∂input, given ∂L/∂output, both in the activation dtype; adds to the gradients of weight and bias.
    pub(crate) fn backward(&self, input: &Tensor, grad: &Tensor, shape: &Shape) -> Tensor {
        self.add_gradients(input, grad, shape);
        shape.ops.matmul(shape.precision.matmul, grad, &self.weight)
    }

    /// As [`Linear::backward`], adding ∂L/∂input to that of other maps of the same input.
    pub(crate) fn backward_into(&self, input_grad: &mut Tensor, input: &Tensor, grad: &Tensor, shape: &Shape) {
        self.add_gradients(input, grad, shape);
        shape.ops.addmm(shape.precision.matmul, input_grad, grad, &self.weight);
    }

    fn add_gradients(&self, input: &Tensor, grad: &Tensor, shape: &Shape) {
        shape.ops.addmm(shape.precision.matmul, &mut self.weight.grad(), &grad.tr(), input);
        if let Some(bias) = &self.bias {
            let _ = bias.grad().g_add_(&grad.sum_dim_intlist([0i64].as_slice(), false, Kind::Float));
        }
    }
}

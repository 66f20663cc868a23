//! The gradients of a norm.

use tch::Tensor;

/// Where the gradients of a norm are added.
pub struct NormGrads<'a> {
    /// ∂L/∂input.
    pub input: &'a mut Tensor,
    /// ∂L/∂weight.
    pub weight: &'a mut Tensor,
}

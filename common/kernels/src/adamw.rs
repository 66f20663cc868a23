//! What a step of AdamW works on.

use tch::Tensor;

/// A parameter with its moments, all fp32 and contiguous.
#[derive(Debug)]
pub struct AdamWSlot {
    /// The parameter's name.
    pub name: String,
    /// The parameter, whose gradient libtorch holds.
    pub parameter: Tensor,
    /// The first moment.
    pub exp_avg: Tensor,
    /// The second moment.
    pub exp_avg_sq: Tensor,
    /// For each block of [`BLOCK`] elements, whether its moments may be other than zero; a backend may skip
    /// those that are not.
    pub touched: Vec<bool>,
}

/// Elements that are left out together while their moments and gradient are zero: rows of an embedding whose
/// tokens have not occurred.
pub const BLOCK: usize = 1 << 10;

impl AdamWSlot {
    /// A parameter before its first step.
    pub fn new(name: &str, parameter: &Tensor) -> Self {
        let zeros = || parameter.detach().zeros_like();
        Self {
            name: name.to_owned(),
            parameter: parameter.shallow_clone(),
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            touched: vec![false; parameter.numel().div_ceil(BLOCK)],
        }
    }

    /// The gradient, where libtorch has allocated one.
    pub fn grad(&self) -> Option<Tensor> {
        let grad = self.parameter.grad();
        grad.defined().then_some(grad)
    }
}

/// The constants of one step.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Gradients are multiplied by it.
    pub grad_scale: f64,
    /// What weight decay leaves of a parameter: 1 − lr · weight_decay.
    pub decay: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
    /// lr / (1 − β₁ᵗ).
    pub step_size: f64,
    /// √(1 − β₂ᵗ).
    pub root_correction2: f64,
}

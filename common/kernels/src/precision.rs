//! The dtypes of a computation.

use tch::Kind;

/// The dtypes of a model's computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// What the inputs of a matmul are rounded to.
    pub matmul: Kind,
    /// The dtype of activations.
    pub activations: Kind,
}

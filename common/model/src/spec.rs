//! The parameters of an architecture: names, shapes, and how new ones are filled.

use safetensors::tensor::Dtype;
use tch::Kind;

/// What a folder holds, or is wanted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// A language model.
    CausalLm,
    /// A `…ForSequenceClassification` with one label: a reward or value model.
    Scalar,
}

/// A tensor the transformer needs.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Its name in the checkpoint.
    pub(crate) name: String,
    /// Its shape.
    pub(crate) shape: Vec<i64>,
    /// How a new one is filled.
    pub(crate) init: Init,
}

/// How a new parameter is filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    /// Normal, with this standard deviation.
    Normal(f64),
    /// The same everywhere.
    Constant(f64),
}

/// The name of the scalar head's weight.
pub(crate) const SCORE: &str = "score.weight";
/// The name of an untied language-model head's weight.
pub(crate) const LM_HEAD: &str = "lm_head.weight";

/// The torch kind of a dtype that weights may have.
pub(crate) fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F16 => Some(Kind::Half),
        _ => None,
    }
}

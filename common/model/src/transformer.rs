//! The weights of a transformer, top-down. Everything but attention runs on (T, D), one row a token of the
//! flat batch.

use tch::{Kind, Tensor};

use super::Dropout;
use super::config::ModelConfig;
use super::layer::Layer;
use super::names::Names;
use super::shape::Shape;
use super::spec::{Init, Spec};

/// Embedding, layers and the final norm.
pub(crate) struct Transformer {
    pub(crate) embed_tokens: Tensor,
    pub(crate) layers: Vec<Layer>,
    norm: Tensor,
}

impl Transformer {
    /// Takes every parameter from `take`, in the order in which they are listed and written.
    pub(crate) fn build(config: &ModelConfig, take: &mut dyn FnMut(Spec) -> Tensor) -> Self {
        let names = Names::of(config.family);
        let mut new = |name: String, shape: Vec<i64>, init: Init| take(Spec { name, shape, init });
        let normal = Init::Normal(config.initializer_range);
        let width = config.hidden_size;
        let embed_tokens = new(names.embed.to_owned(), vec![config.vocab_size, width], normal);
        let num_layers = config.num_hidden_layers as usize;
        let layers = (0..num_layers).map(|index| Layer::build(config, &names, index, &mut new)).collect();
        let norm = new(names.norm.to_owned(), vec![width], Init::Constant(1.0));
        Self { embed_tokens, layers, norm }
    }

    /// Token ids (T) → the residual stream (T, D), which is fp32 whatever the matmul dtype.
    pub(crate) fn embed(&self, shape: &Shape, tokens: &Tensor, dropout: Option<Dropout>) -> Tensor {
        // A sparse gradient: few rows of a large vocabulary occur in a batch.
        let rows = Tensor::embedding(&self.embed_tokens, tokens, -1, false, true);
        let hidden = rows.to_kind(shape.precision.matmul).to_kind(Kind::Float);
        match dropout {
            Some(dropout) => {
                dropout.reseed(0);
                hidden.dropout(dropout.p, true)
            }
            None => hidden,
        }
    }

    /// The final norm: (T, D) fp32 → (T, D) in the activation dtype.
    pub(crate) fn final_norm(&self, shape: &Shape, hidden: &Tensor) -> Tensor {
        shape.norm(&self.norm, hidden)
    }

    /// ∂L/∂input (T, D) fp32 of the final norm; adds to its weight's gradient.
    pub(crate) fn final_norm_backward(&self, shape: &Shape, hidden: &Tensor, grad: &Tensor) -> Tensor {
        let mut input_grad = hidden.zeros_like();
        shape.norm_backward(&self.norm, hidden, grad, &mut input_grad);
        input_grad
    }

    /// The token indices whose hidden states a layer computes: before the last layer all of them.
    pub(crate) fn indices_of<'a>(&self, layer: usize, indices: Option<&'a Tensor>) -> Option<&'a Tensor> {
        indices.filter(|_| layer + 1 == self.layers.len())
    }
}

//! The transformer, top-down. Everything but attention runs on (T, D), one row a token of the flat batch.

use align_kernels::Precision;
use tch::{Kind, Tensor};

use super::Dropout;
use super::config::{Family, ModelConfig};
use super::header::{Init, Spec};
use super::layer::{At, Attend, Layer, Shape};
use align_kernels::rotary::Rotation;

/// Embedding, layers and the final norm.
pub(crate) struct Transformer {
    pub(crate) embed_tokens: Tensor,
    pub(crate) layers: Vec<Layer>,
    norm: Tensor,
    pub(crate) shape: Shape,
}

impl Transformer {
    /// Asks `take` for every parameter, in the order in which they are listed and written.
    pub(crate) fn build(config: &ModelConfig, shape: Shape, take: &mut dyn FnMut(Spec) -> Tensor) -> Self {
        let names = Names::of(config.family);
        let mut new = |name: String, shape: Vec<i64>, init: Init| take(Spec { name, shape, init });
        let normal = Init::Normal(config.initializer_range);
        let width = config.hidden_size;
        let embed_tokens = new(names.embed.to_owned(), vec![config.vocab_size, width], normal);
        let layers = (0..config.num_hidden_layers).map(|index| Layer::build(config, &names, index, &mut new)).collect();
        let norm = new(names.norm.to_owned(), vec![width], Init::Constant(1.0));
        Self { embed_tokens, layers, norm, shape }
    }

    /// Token ids (T) → the residual stream (T, D), which is fp32 whatever the compute dtype.
    pub(crate) fn embed(&self, tokens: &Tensor, dropout: Option<Dropout>) -> Tensor {
        self.embed_in(self.shape.precision.matmul, tokens, dropout)
    }

    fn embed_in(&self, rounded: Kind, tokens: &Tensor, dropout: Option<Dropout>) -> Tensor {
        // A sparse gradient: few rows of a large vocabulary occur in a batch.
        let rows = Tensor::embedding(&self.embed_tokens, tokens, -1, false, true);
        let hidden = rows.to_kind(rounded).to_kind(Kind::Float);
        match dropout {
            Some(dropout) => {
                dropout.reseed(0);
                hidden.dropout(dropout.p, true)
            }
            None => hidden,
        }
    }

    /// The final norm: (T, D) fp32 → (T, D) in the compute dtype.
    pub(crate) fn final_norm(&self, hidden: &Tensor) -> Tensor {
        self.shape.norm(&self.norm, hidden)
    }

    /// ∂L/∂input (T, D) fp32 of the final norm; adds to its weight's gradient.
    pub(crate) fn final_norm_backward(&self, hidden: &Tensor, grad: &Tensor) -> Tensor {
        let mut input_grad = hidden.zeros_like();
        self.shape.norm_backward(&self.norm, hidden, grad, &mut input_grad);
        input_grad
    }

    /// Token ids (T) → hidden states (N, D) after the final norm at `places` (N), all T unless given; without dropout and without a gradient.
    /// In the compute dtype.
    pub(crate) fn forward(
        &self,
        tokens: &Tensor,
        rotation: &Rotation,
        is_decoding: bool,
        places: Option<&Tensor>,
        attend: &mut Attend<'_>,
    ) -> Tensor {
        let _guard = tch::no_grad_guard();
        let mut shape = self.shape;
        if is_decoding {
            shape.precision = self.decode_precision();
        }
        let mut hidden = self.embed_in(shape.precision.matmul, tokens, None);
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(self.at(index, places), &hidden, &shape, rotation, is_decoding, attend);
        }
        shape.norm(&self.norm, &hidden)
    }

    /// A layer, given what is read behind the last one: before it, all is read.
    pub(crate) fn at<'a>(&self, index: usize, places: Option<&'a Tensor>) -> At<'a> {
        At { index, places: places.filter(|_| index + 1 == self.layers.len()) }
    }

    /// The dtypes of decoding.
    pub(crate) fn decode_precision(&self) -> Precision {
        self.shape.ops.decode_precision(self.shape.precision.matmul, self.embed_tokens.kind())
    }
}

/// What the checkpoints call things.
pub(crate) struct Names {
    pub(crate) embed: &'static str,
    pub(crate) layer: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) input_norm: &'static str,
    pub(crate) post_norm: &'static str,
    pub(crate) o_proj: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
}

impl Names {
    pub(crate) fn of(family: Family) -> Self {
        match family {
            // The gate is `w2`: c_proj(w1(x) · silu(w2(x))).
            Family::Qwen => Self {
                embed: "transformer.wte.weight",
                layer: "transformer.h.",
                norm: "transformer.ln_f.weight",
                input_norm: "ln_1",
                post_norm: "ln_2",
                o_proj: "attn.c_proj",
                gate: "mlp.w2",
                up: "mlp.w1",
                down: "mlp.c_proj",
            },
            Family::Qwen2 | Family::Qwen3 => Self {
                embed: "model.embed_tokens.weight",
                layer: "model.layers.",
                norm: "model.norm.weight",
                input_norm: "input_layernorm",
                post_norm: "post_attention_layernorm",
                o_proj: "self_attn.o_proj",
                gate: "mlp.gate_proj",
                up: "mlp.up_proj",
                down: "mlp.down_proj",
            },
        }
    }
}

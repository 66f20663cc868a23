//! One layer: attention and feed-forward, each after a norm, each added to the residual stream.
//!
//! The backward pass is written out: libtorch's graph would keep twice as much, and its matmuls would be
//! libtorch's alone. Only the attention of the reference backend goes backward through libtorch's graph.

use align_kernels::attention::{Heads, Plan};
use tch::{Kind, Tensor};

use super::Dropout;
use super::attention::{Attention, HeadNorms, Qkv, SavedAttention};
use super::config::{Family, ModelConfig};
use super::linear::{Linear, Rows};
use super::mlp::{Mlp, SavedMlp};
use super::names::Names;
use super::pass::Pass;
use super::shape::Shape;
use super::spec::Init;

/// A layer's weights.
pub(crate) struct Layer {
    /// Its place in the transformer, from 0.
    index: usize,
    input_layernorm: Tensor,
    attention: Attention,
    post_attention_layernorm: Tensor,
    mlp: Mlp,
}

/// What the backward pass needs of a forward pass: the tensors that are cheaper to keep than to compute
/// again.
pub(crate) struct SavedActivations {
    /// The token indices (N) for which everything after attention was computed; all T unless given.
    indices: Option<Tensor>,
    /// The residual stream before attention (T, D), and after it (N, D).
    input: Tensor,
    after_attention: Tensor,
    attention: SavedAttention,
    mlp: SavedMlp,
    /// Of the two residual outputs (N, D).
    dropout_masks: Option<[Tensor; 2]>,
}

impl SavedActivations {
    /// The activations in the order in which they were computed.
    pub(crate) fn parts(&self) -> [(&'static str, &Tensor); 7] {
        let Heads { queries, keys, values } = &self.attention.heads;
        [
            ("queries", queries),
            ("keys", keys),
            ("values", values),
            ("attention", &self.attention.attended),
            ("residual stream after attention", &self.after_attention),
            ("gate", &self.mlp.gate),
            ("up", &self.mlp.up),
        ]
    }
}

impl Layer {
    /// Takes its parameters from `new`, in the order of the checkpoint.
    pub(crate) fn build(
        config: &ModelConfig,
        names: &Names,
        index: usize,
        new: &mut dyn FnMut(String, Vec<i64>, Init) -> Tensor,
    ) -> Self {
        let normal = Init::Normal(config.initializer_range);
        // The first generation starts its residual outputs smaller; the newer ones do not.
        let residual = match config.family {
            Family::Qwen => Init::Normal(config.initializer_range / ((2 * config.num_hidden_layers) as f64).sqrt()),
            _ => normal,
        };
        let mut parameters = LayerParameters { prefix: format!("{}{index}.", names.layer), new };
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (query, key) = (config.query_width(), config.key_width());
        let input_layernorm = parameters.norm(names.input_norm, width);
        let bias = if config.qkv_bias { LayerParameters::with_bias } else { LayerParameters::weight };
        let qkv = match config.family {
            Family::Qwen => Qkv::Fused(bias(&mut parameters, "attn.c_attn", [3 * query, width], normal)),
            _ => Qkv::Split([
                bias(&mut parameters, "self_attn.q_proj", [query, width], normal),
                bias(&mut parameters, "self_attn.k_proj", [key, width], normal),
                bias(&mut parameters, "self_attn.v_proj", [key, width], normal),
            ]),
        };
        let head_norms = (config.family == Family::Qwen3).then(|| HeadNorms {
            queries: parameters.norm("self_attn.q_norm", config.head_dim),
            keys: parameters.norm("self_attn.k_norm", config.head_dim),
        });
        let output = if config.output_bias { LayerParameters::with_bias } else { LayerParameters::weight };
        let o_proj = output(&mut parameters, names.o_proj, [width, query], residual);
        Self {
            index,
            input_layernorm,
            attention: Attention { qkv, head_norms, o_proj, window: config.sliding_windows[index] },
            post_attention_layernorm: parameters.norm(names.post_norm, width),
            mlp: Mlp {
                gate_proj: parameters.weight(names.gate, [inner, width], normal),
                up_proj: parameters.weight(names.up, [inner, width], normal),
                down_proj: parameters.weight(names.down, [width, inner], residual),
            },
        }
    }

    /// (T, D) fp32 → (N, D) fp32 at the token indices, all T unless given; no gradient. The numbers are those
    /// of [`Layer::forward_train`] to the bit, except while decoding, where every map is computed for few
    /// rows.
    pub(crate) fn forward(
        &self,
        input: &Tensor,
        shape: &Shape,
        indices: Option<&Tensor>,
        pass: &mut Pass<'_>,
    ) -> Tensor {
        let _guard = tch::no_grad_guard();
        let before = if pass.is_decoding() { Rows::Few } else { Rows::Many };
        let after = if indices.is_some() { Rows::Few } else { before };
        let normed = shape.norm(&self.input_layernorm, input);
        let heads = self.attention.heads(&normed, shape, pass.rotation(), before);
        drop(normed);
        let attended = pass.attend(self.index, self.attention.window, &heads, shape.ops);
        drop(heads);
        let output = self.attention.o_proj.forward(&select(indices, &attended), shape, after);
        drop(attended);
        let after_attention = add(output, &select(indices, input));
        let normed = shape.norm(&self.post_attention_layernorm, &after_attention);
        add(self.mlp.forward(&normed, shape, after), &after_attention)
    }

    /// As [`Layer::forward`] over a batch, with what [`Layer::backward`] needs.
    pub(crate) fn forward_train(
        &self,
        input: &Tensor,
        shape: &Shape,
        indices: Option<&Tensor>,
        plan: &Plan,
        dropout: Option<Dropout>,
    ) -> (Tensor, SavedActivations) {
        let _guard = tch::no_grad_guard();
        if let Some(dropout) = dropout {
            dropout.reseed(self.index as u64 + 1);
        }
        let after = if indices.is_some() { Rows::Few } else { Rows::Many };
        let p = dropout.map_or(0.0, |dropout| dropout.p);
        let normed = shape.norm(&self.input_layernorm, input);
        let attention = self.attention.attend_train(normed, shape, plan, p);
        let mut output = self.attention.o_proj.forward(&select(indices, &attention.attended.detach()), shape, after);
        let first = dropout.map(|dropout| dropout.apply(&mut output));
        let after_attention = add(output, &select(indices, input));
        let normed = shape.norm(&self.post_attention_layernorm, &after_attention);
        let mlp = self.mlp.inner(&normed, shape, after);
        drop(normed);
        let mut output = self.mlp.output(&mlp, shape, after);
        let second = dropout.map(|dropout| dropout.apply(&mut output));
        let output = add(output, &after_attention);
        let dropout_masks = first.zip(second).map(|(first, second)| [first, second]);
        let (indices, input) = (indices.map(Tensor::shallow_clone), input.shallow_clone());
        (output, SavedActivations { indices, input, after_attention, attention, mlp, dropout_masks })
    }

    /// ∂L/∂input (T, D) fp32, given ∂L/∂output (N, D); adds to the gradients of the weights.
    pub(crate) fn backward(&self, saved: SavedActivations, mut grad: Tensor, shape: &Shape, plan: &Plan) -> Tensor {
        let _guard = tch::no_grad_guard();
        let SavedActivations { indices, input, after_attention, attention, mlp, dropout_masks } = saved;
        let activations = shape.precision.activations;
        let dropped = |grad: &Tensor, which: usize| match &dropout_masks {
            Some(masks) => grad.to_kind(activations) * &masks[which],
            None => grad.to_kind(activations),
        };

        let normed = || shape.norm(&self.post_attention_layernorm, &after_attention);
        let normed_grad = self.mlp.backward(mlp, &dropped(&grad, 1), normed, shape);
        shape.norm_backward(&self.post_attention_layernorm, &after_attention, &normed_grad, &mut grad);
        drop((normed_grad, after_attention));

        let attended = select(indices.as_ref(), &attention.attended.detach());
        let mut attended_grad = self.attention.o_proj.backward(&attended, &dropped(&grad, 0), shape);
        drop(attended);
        if let Some(indices) = &indices {
            // The same index may be there more than once.
            let scatter = |part: &Tensor| {
                let size = [input.size()[0], part.size()[1]];
                Tensor::zeros(size, (part.kind(), part.device())).index_add_(0, indices, part)
            };
            (attended_grad, grad) = (scatter(&attended_grad), scatter(&grad));
        }
        let normed = || shape.norm(&self.input_layernorm, &input);
        let normed_grad = self.attention.backward(attention, attended_grad, normed, shape, plan);
        shape.norm_backward(&self.input_layernorm, &input, &normed_grad, &mut grad);
        grad
    }
}

/// Takes the parameters of one layer.
struct LayerParameters<'a> {
    prefix: String,
    new: &'a mut dyn FnMut(String, Vec<i64>, Init) -> Tensor,
}

impl LayerParameters<'_> {
    fn norm(&mut self, name: &str, width: i64) -> Tensor {
        (self.new)(format!("{}{name}.weight", self.prefix), vec![width], Init::Constant(1.0))
    }

    /// A linear map without a bias.
    fn weight(&mut self, name: &str, size: [i64; 2], init: Init) -> Linear {
        Linear { weight: (self.new)(format!("{}{name}.weight", self.prefix), size.to_vec(), init), bias: None }
    }

    /// A linear map with a bias.
    fn with_bias(&mut self, name: &str, size: [i64; 2], init: Init) -> Linear {
        let mut linear = self.weight(name, size, init);
        linear.bias = Some((self.new)(format!("{}{name}.bias", self.prefix), vec![size[0]], Init::Constant(0.0)));
        linear
    }
}

/// The rows (N) at the indices; all of them unless given.
fn select(indices: Option<&Tensor>, all: &Tensor) -> Tensor {
    indices.map_or_else(|| all.shallow_clone(), |indices| all.index_select(0, indices))
}

/// outputs + stream, in fp32; in place where `outputs` is.
fn add(mut outputs: Tensor, stream: &Tensor) -> Tensor {
    if outputs.kind() == Kind::Float { outputs.g_add_(stream) } else { outputs + stream }
}

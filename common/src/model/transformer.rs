//! The transformer, top-down. Everything but attention runs on (T, D), one row a token of the flat batch.

use tch::{Kind, Tensor};

use super::config::{Family, ModelConfig};
use super::header::{Init, Spec};
use super::rope::Rotation;
use super::{Dropout, few_rows};

/// How a layer's attention is computed, given its index: by the flat batch's plan in training and scoring, by the cache in
/// generation. Returns (T, H·E).
pub(crate) type Attend<'a> = dyn FnMut(usize, &Heads) -> Tensor + 'a;

/// What attention works on, rotated.
pub(crate) struct Heads {
    /// (T, H, E)
    pub(crate) queries: Tensor,
    /// (T, K, E)
    pub(crate) keys: Tensor,
    /// (T, K, E)
    pub(crate) values: Tensor,
}

/// Embedding, layers and the final norm.
pub(crate) struct Transformer {
    pub(crate) embed_tokens: Tensor,
    pub(crate) layers: Vec<Layer>,
    norm: Tensor,
    pub(crate) shape: Shape,
}

/// The numbers that every layer needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    eps: f64,
    pub(crate) compute: Kind,
    /// Whether nothing will go backward, and few rows may take a way of their own.
    only_forward: bool,
}

impl Transformer {
    /// Asks `take` for every parameter, in the order in which they are listed and written.
    pub(crate) fn build(config: &ModelConfig, take: &mut dyn FnMut(Spec) -> Tensor) -> Self {
        let names = Names::of(config.family);
        let mut new = |name: String, shape: Vec<i64>, init: Init| take(Spec { name, shape, init });
        let normal = Init::Normal(config.initializer_range);
        let width = config.hidden_size;
        let embed_tokens = new(names.embed.to_owned(), vec![config.vocab_size, width], normal);
        let layers = (0..config.num_hidden_layers).map(|index| Layer::build(config, &names, index, &mut new)).collect();
        let norm = new(names.norm.to_owned(), vec![width], Init::Constant(1.0));
        let shape = Shape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            eps: config.rms_norm_eps,
            compute: Kind::Float,
            only_forward: false,
        };
        Self { embed_tokens, layers, norm, shape }
    }

    /// Token ids (T) → the residual stream (T, D), which is fp32 whatever the compute dtype.
    pub(crate) fn embed(&self, tokens: &Tensor, dropout: Option<Dropout>) -> Tensor {
        // A sparse gradient: few rows of a large vocabulary occur in a batch.
        let rows = Tensor::embedding(&self.embed_tokens, tokens, -1, false, true);
        let hidden = rows.to_kind(self.shape.compute).to_kind(Kind::Float);
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
        self.shape.norm(hidden, &self.norm)
    }

    /// Token ids (T) → hidden states (T, D) after the final norm, in the compute dtype; without dropout, and with gradients off.
    pub(crate) fn forward(&self, tokens: &Tensor, rotation: &Rotation, attend: &mut Attend<'_>) -> Tensor {
        let shape = Shape { only_forward: true, ..self.shape };
        let mut hidden = self.embed(tokens, None);
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(index, &hidden, &shape, rotation, None, attend);
        }
        self.final_norm(&hidden)
    }
}

/// One layer: attention and feed-forward, each behind a norm, each added to the residual stream.
pub(crate) struct Layer {
    input_layernorm: Tensor,
    qkv: Qkv,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

enum Qkv {
    /// `c_attn` of the first generation.
    Fused(Linear),
    Split([Linear; 3]),
}

struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, input: &Tensor, shape: &Shape) -> Tensor {
        if shape.only_forward
            && let Some(output) = few_rows::linear(input, &self.weight, self.bias.as_ref())
        {
            return output;
        }
        let cast = |tensor: &Tensor| tensor.to_kind(shape.compute);
        input.linear(&cast(&self.weight), self.bias.as_ref().map(cast).as_ref())
    }
}

impl Shape {
    /// RMSNorm in fp32, out in the compute dtype. The weight passes through the compute dtype, so that a frozen model equals a
    /// trainable one.
    fn norm(&self, input: &Tensor, weight: &Tensor) -> Tensor {
        let weight = weight.to_kind(self.compute).to_kind(Kind::Float);
        let width = *input.size().last().expect("hidden states have a width");
        input.to_kind(Kind::Float).rms_norm([width], Some(weight), self.eps).to_kind(self.compute)
    }
}

impl Layer {
    fn build(
        config: &ModelConfig,
        names: &Names,
        index: i64,
        new: &mut dyn FnMut(String, Vec<i64>, Init) -> Tensor,
    ) -> Self {
        let normal = Init::Normal(config.initializer_range);
        // The first generation starts its residual outputs smaller; the newer ones do not.
        let residual = match config.family {
            Family::Qwen => Init::Normal(config.initializer_range / ((2 * config.num_hidden_layers) as f64).sqrt()),
            _ => normal,
        };
        let prefix = format!("{}{index}.", names.layer);
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (query, key) = (config.query_width(), config.key_width());
        let norm = |new: &mut dyn FnMut(String, Vec<i64>, Init) -> Tensor, name: &str, width: i64| {
            new(format!("{prefix}{name}.weight"), vec![width], Init::Constant(1.0))
        };
        let linear = |new: &mut dyn FnMut(String, Vec<i64>, Init) -> Tensor,
                      name: &str,
                      out: i64,
                      width: i64,
                      bias: bool,
                      init: Init| Linear {
            weight: new(format!("{prefix}{name}.weight"), vec![out, width], init),
            bias: bias.then(|| new(format!("{prefix}{name}.bias"), vec![out], Init::Constant(0.0))),
        };
        let input_layernorm = norm(new, names.input_norm, width);
        let qkv = match config.family {
            Family::Qwen => Qkv::Fused(linear(new, "attn.c_attn", 3 * query, width, config.qkv_bias, normal)),
            _ => Qkv::Split([
                linear(new, "self_attn.q_proj", query, width, config.qkv_bias, normal),
                linear(new, "self_attn.k_proj", key, width, config.qkv_bias, normal),
                linear(new, "self_attn.v_proj", key, width, config.qkv_bias, normal),
            ]),
        };
        let has_head_norms = config.family == Family::Qwen3;
        Self {
            input_layernorm,
            qkv,
            q_norm: has_head_norms.then(|| norm(new, "self_attn.q_norm", config.head_dim)),
            k_norm: has_head_norms.then(|| norm(new, "self_attn.k_norm", config.head_dim)),
            o_proj: linear(new, names.o_proj, width, query, config.output_bias, residual),
            post_attention_layernorm: norm(new, names.post_norm, width),
            gate_proj: linear(new, names.gate, inner, width, false, normal),
            up_proj: linear(new, names.up, inner, width, false, normal),
            down_proj: linear(new, names.down, width, inner, false, residual),
        }
    }

    /// (T, D) fp32 → (T, D) fp32.
    pub(crate) fn forward(
        &self,
        index: usize,
        hidden: &Tensor,
        shape: &Shape,
        rotation: &Rotation,
        dropout: Option<Dropout>,
        attend: &mut Attend<'_>,
    ) -> Tensor {
        if let Some(dropout) = dropout {
            dropout.reseed(index as u64 + 1);
        }
        let drop = |output: Tensor| dropout.map_or(output.shallow_clone(), |dropout| output.dropout(dropout.p, true));
        let heads = self.heads(&shape.norm(hidden, &self.input_layernorm), shape);
        let attended = attend(
            index,
            &Heads {
                queries: rotation.scale_queries(rotation.rotate(&heads.queries)),
                keys: rotation.rotate(&heads.keys),
                values: heads.values,
            },
        );
        let hidden = hidden + drop(self.o_proj.forward(&attended, shape));
        let inner = shape.norm(&hidden, &self.post_attention_layernorm);
        let gated = self.gate_proj.forward(&inner, shape).silu() * self.up_proj.forward(&inner, shape);
        &hidden + drop(self.down_proj.forward(&gated, shape))
    }

    /// The heads before rotation.
    fn heads(&self, input: &Tensor, shape: &Shape) -> Heads {
        let split = |projected: Tensor, heads: i64| projected.view([-1, heads, shape.head_dim]);
        let mut heads = match &self.qkv {
            Qkv::Fused(c_attn) => {
                let stacked = split(c_attn.forward(input, shape), 3 * shape.heads);
                let mut parts = stacked.split_with_sizes([shape.heads; 3], 1).into_iter();
                let mut next = || parts.next().expect("a split in three has three parts");
                Heads { queries: next(), keys: next(), values: next() }
            }
            Qkv::Split([q_proj, k_proj, v_proj]) => Heads {
                queries: split(q_proj.forward(input, shape), shape.heads),
                keys: split(k_proj.forward(input, shape), shape.kv_heads),
                values: split(v_proj.forward(input, shape), shape.kv_heads),
            },
        };
        if let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) {
            heads.queries = shape.norm(&heads.queries, q_norm);
            heads.keys = shape.norm(&heads.keys, k_norm);
        }
        heads
    }
}

/// What the checkpoints call things.
struct Names {
    embed: &'static str,
    layer: &'static str,
    norm: &'static str,
    input_norm: &'static str,
    post_norm: &'static str,
    o_proj: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

impl Names {
    fn of(family: Family) -> Self {
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

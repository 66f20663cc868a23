//! One layer: attention and feed-forward, each behind a norm, each added to the residual stream. Its way back is written out: libtorch's
//! would keep twice as much, and would compute products by its own way alone. Only attention goes back through libtorch's graph.

use tch::{Kind, Tensor};

use super::config::{Family, ModelConfig};
use super::header::Init;
use super::transformer::Names;
use super::{Dropout, ModelOptions};
use align_kernels::attention::Heads;
use align_kernels::rotary::Rotation;
use align_kernels::{NormGrads, Ops, Precision};

/// How a layer's attention is computed, given its index: by the flat batch's plan in training and scoring, by the cache in
/// generation. Returns (T, H·E).
pub(crate) type Attend<'a> = dyn FnMut(usize, &Heads) -> Tensor + 'a;

/// The gradients of what attention began with, given that, what it gave (T, H·E) and the gradient of that.
pub(crate) type AttendBack<'a> = dyn FnMut(&Heads, &Tensor, &Tensor) -> Heads + 'a;

/// Which layer it is, and the places (N) that are read behind its attention; all T unless given.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) index: usize,
    pub(crate) places: Option<&'a Tensor>,
}

/// The numbers that every layer needs.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    pub(crate) eps: f64,
    pub(crate) ops: &'static dyn Ops,
    pub(crate) precision: Precision,
}

impl Shape {
    pub(crate) fn of(config: &ModelConfig, options: &ModelOptions) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            eps: config.rms_norm_eps,
            ops: options.ops(),
            precision: options.precision(),
        }
    }

    /// RMSNorm of (…, D) with a weight (D).
    pub(crate) fn norm(&self, weight: &Tensor, x: &Tensor) -> Tensor {
        self.ops.rms_norm(x, &self.norm_weight(weight), self.eps, self.precision.activations)
    }

    /// Given ∂L/∂output of [`Shape::norm`]: adds ∂L/∂x to `input_grad`, and to the weight's gradient.
    pub(crate) fn norm_backward(&self, weight: &Tensor, x: &Tensor, grad: &Tensor, input_grad: &mut Tensor) {
        let grads = NormGrads { input: input_grad, weight: &mut weight.grad() };
        self.ops.rms_norm_backward(x, &self.norm_weight(weight), self.eps, grad, grads);
    }

    /// The weight is rounded to the matmul dtype, because frozen models store it rounded: a frozen model equals a trainable one.
    fn norm_weight(&self, weight: &Tensor) -> Tensor {
        weight.detach().to_kind(self.precision.matmul).to_kind(Kind::Float)
    }
}

/// The weights of a layer.
pub(crate) struct Layer {
    input_layernorm: Tensor,
    qkv: Qkv,
    head_norms: Option<HeadNorms>,
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

/// The third generation's norms of each head.
struct HeadNorms {
    queries: Tensor,
    keys: Tensor,
}

/// What a layer keeps of its forward pass: everything that the way back does not find faster than it reads.
pub(crate) struct Kept {
    /// The places (N) for which all behind attention was computed; all T unless given.
    places: Option<Tensor>,
    /// The residual stream before attention (T, D) and between attention and feed-forward (N, D).
    input: Tensor,
    middle: Tensor,
    /// Queries and keys before their norms, where they have any.
    before_norms: Option<(Tensor, Tensor)>,
    /// What attention began with, and what it gave (T, H·E); leaves and end of its graph where it has one.
    heads: Heads,
    attended: Tensor,
    /// (N, I) both.
    gate: Tensor,
    up: Tensor,
    /// What dropout multiplied both residual outputs with (N, D).
    noise: Option<[Tensor; 2]>,
}

impl Kept {
    /// What the layer computed on its way, in order.
    pub(crate) fn parts(&self) -> [(&'static str, &Tensor); 7] {
        let Heads { queries, keys, values } = &self.heads;
        [
            ("queries", queries),
            ("keys", keys),
            ("values", values),
            ("attention", &self.attended),
            ("residual stream behind attention", &self.middle),
            ("gate", &self.gate),
            ("up", &self.up),
        ]
    }
}

impl Layer {
    pub(crate) fn build(
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
            head_norms: has_head_norms.then(|| HeadNorms {
                queries: norm(new, "self_attn.q_norm", config.head_dim),
                keys: norm(new, "self_attn.k_norm", config.head_dim),
            }),
            o_proj: linear(new, names.o_proj, width, query, config.output_bias, residual),
            post_attention_layernorm: norm(new, names.post_norm, width),
            gate_proj: linear(new, names.gate, inner, width, false, normal),
            up_proj: linear(new, names.up, inner, width, false, normal),
            down_proj: linear(new, names.down, width, inner, false, residual),
        }
    }

    /// (T, D) fp32 → (N, D) fp32 at the places that are read, without a gradient. While decoding, few rows go their own way; otherwise the
    /// numbers are those of [`Layer::forward_kept`] to the bit.
    pub(crate) fn forward(
        &self,
        At { index, places }: At<'_>,
        input: &Tensor,
        shape: &Shape,
        rotation: &Rotation,
        is_decoding: bool,
        attend: &mut Attend<'_>,
    ) -> Tensor {
        let _guard = tch::no_grad_guard();
        let by = |few: bool| {
            move |linear: &Linear, input: &Tensor| {
                if few { linear.forward_few(input, shape) } else { linear.forward(input, shape) }
            }
        };
        let (linear, behind) = (by(is_decoding), by(is_decoding || places.is_some()));
        let (heads, _) = self.heads(&shape.norm(&self.input_layernorm, input), shape, rotation, &linear);
        let mut middle = behind(&self.o_proj, &rows(places, &attend(index, &heads)));
        drop(heads);
        middle = add(middle, &rows(places, input));
        let inner = shape.norm(&self.post_attention_layernorm, &middle);
        let gated = shape.ops.swiglu(&behind(&self.gate_proj, &inner), &behind(&self.up_proj, &inner));
        add(behind(&self.down_proj, &gated), &middle)
    }

    /// The same, and what [`Layer::backward`] needs.
    pub(crate) fn forward_kept(
        &self,
        At { index, places }: At<'_>,
        input: &Tensor,
        shape: &Shape,
        rotation: &Rotation,
        dropout: Option<Dropout>,
        attend: &mut Attend<'_>,
    ) -> (Tensor, Kept) {
        let _guard = tch::no_grad_guard();
        if let Some(dropout) = dropout {
            dropout.reseed(index as u64 + 1);
        }
        let linear = |linear: &Linear, input: &Tensor| linear.forward(input, shape);
        // Where few are read, equal rows give equal numbers wherever they stand.
        let behind = |linear: &Linear, input: &Tensor| match places {
            Some(_) => linear.forward_few(input, shape),
            None => linear.forward(input, shape),
        };
        let normed = shape.norm(&self.input_layernorm, input);
        let (heads, before_norms) = self.heads(&normed, shape, rotation, &linear);
        drop(normed);
        let leaf = |tensor: Tensor| tensor.contiguous().set_requires_grad(true);
        let heads = Heads { queries: leaf(heads.queries), keys: leaf(heads.keys), values: leaf(heads.values) };
        let attended = tch::with_grad(|| attend(index, &heads));
        let mut outputs = behind(&self.o_proj, &rows(places, &attended.detach()));
        let noise = |outputs: &mut Tensor| {
            dropout.map(|dropout| {
                let noise = dropout.noise(outputs);
                let _ = outputs.g_mul_(&noise);
                noise
            })
        };
        let first = noise(&mut outputs);
        let middle = add(outputs, &rows(places, input));
        let inner = shape.norm(&self.post_attention_layernorm, &middle);
        let (gate, up) = (behind(&self.gate_proj, &inner), behind(&self.up_proj, &inner));
        drop(inner);
        let mut outputs = behind(&self.down_proj, &shape.ops.swiglu(&gate, &up));
        let second = noise(&mut outputs);
        let output = add(outputs, &middle);
        let noise = first.zip(second).map(|(first, second)| [first, second]);
        let (places, input) = (places.map(Tensor::shallow_clone), input.shallow_clone());
        (output, Kept { places, input, middle, before_norms, heads, attended, gate, up, noise })
    }

    /// ∂L/∂input (T, D) fp32, given ∂L/∂output (N, D); adds to the gradients of the weights.
    pub(crate) fn backward(
        &self,
        kept: Kept,
        grad: Tensor,
        shape: &Shape,
        rotation: &Rotation,
        attend_back: &mut AttendBack<'_>,
    ) -> Tensor {
        let _guard = tch::no_grad_guard();
        let Kept { places, input, middle, before_norms, heads, attended, gate, up, noise } = kept;
        let compute = shape.precision.activations;
        let mut grad = grad;
        let dropped = |grad: &Tensor, which: usize| match &noise {
            Some(noise) => grad.to_kind(compute) * &noise[which],
            None => grad.to_kind(compute),
        };

        let gated_grad = self.down_proj.backward(&shape.ops.swiglu(&gate, &up), &dropped(&grad, 1), None, shape);
        let (gate_grad, up_grad) = shape.ops.swiglu_backward(gate, up, &gated_grad);
        drop(gated_grad);
        let inner = shape.norm(&self.post_attention_layernorm, &middle);
        let inner_grad = self.gate_proj.backward(&inner, &gate_grad, None, shape);
        drop(gate_grad);
        let inner_grad = self.up_proj.backward(&inner, &up_grad, Some(inner_grad), shape);
        drop((inner, up_grad));
        shape.norm_backward(&self.post_attention_layernorm, &middle, &inner_grad, &mut grad);
        drop((inner_grad, middle));

        let read = rows(places.as_ref(), &attended.detach());
        let mut attended_grad = self.o_proj.backward(&read, &dropped(&grad, 0), None, shape);
        drop(read);
        if let Some(places) = &places {
            // A place may have been read more than once.
            let all = |part: &Tensor| {
                let size = [input.size()[0], part.size()[1]];
                Tensor::zeros(size, (part.kind(), part.device())).index_add_(0, places, part)
            };
            (attended_grad, grad) = (all(&attended_grad), all(&grad));
        }
        let grads = attend_back(&heads, &attended, &attended_grad);
        drop((heads, attended, attended_grad));
        let mut queries_grad = shape.ops.rotate_backward(rotation.scale_queries(grads.queries), rotation);
        let mut keys_grad = shape.ops.rotate_backward(grads.keys, rotation);
        let values_grad = grads.values;
        if let (Some(norms), Some((queries, keys))) = (&self.head_norms, before_norms) {
            queries_grad = norm_backward(shape, &norms.queries, &queries, &queries_grad);
            keys_grad = norm_backward(shape, &norms.keys, &keys, &keys_grad);
        }
        let normed = shape.norm(&self.input_layernorm, &input);
        let grads = [queries_grad, keys_grad, values_grad].map(|grad| grad.flatten(1, -1).to_kind(compute));
        let normed_grad = match &self.qkv {
            Qkv::Fused(c_attn) => c_attn.backward(&normed, &Tensor::cat(&grads, 1), None, shape),
            Qkv::Split(projections) => {
                let back = |sum: Option<Tensor>, (projection, grad): (&Linear, &Tensor)| {
                    Some(projection.backward(&normed, grad, sum, shape))
                };
                projections.iter().zip(&grads).fold(None, back).expect("three projections")
            }
        };
        shape.norm_backward(&self.input_layernorm, &input, &normed_grad, &mut grad);
        grad
    }

    /// The heads, rotated, and what they were before their norms.
    fn heads(
        &self,
        input: &Tensor,
        shape: &Shape,
        rotation: &Rotation,
        linear: &dyn Fn(&Linear, &Tensor) -> Tensor,
    ) -> (Heads, Option<(Tensor, Tensor)>) {
        let split = |projected: Tensor, heads: i64| projected.view([-1, heads, shape.head_dim]);
        let (mut queries, mut keys, values) = match &self.qkv {
            Qkv::Fused(c_attn) => {
                let stacked = split(linear(c_attn, input), 3 * shape.heads);
                let mut parts = stacked.split_with_sizes([shape.heads; 3], 1).into_iter();
                let mut next = || parts.next().expect("a split in three has three parts");
                (next(), next(), next())
            }
            Qkv::Split([q_proj, k_proj, v_proj]) => (
                split(linear(q_proj, input), shape.heads),
                split(linear(k_proj, input), shape.kv_heads),
                split(linear(v_proj, input), shape.kv_heads),
            ),
        };
        let before_norms = self.head_norms.as_ref().map(|norms| {
            let before = (queries.shallow_clone(), keys.shallow_clone());
            queries = shape.norm(&norms.queries, &queries);
            keys = shape.norm(&norms.keys, &keys);
            before
        });
        let heads = Heads {
            queries: rotation.scale_queries(shape.ops.rotate(queries, rotation)),
            keys: shape.ops.rotate(keys, rotation),
            values,
        };
        (heads, before_norms)
    }
}

/// ∂L/∂input in the dtype of `grad`; adds to the weight's gradient.
fn norm_backward(shape: &Shape, weight: &Tensor, input: &Tensor, grad: &Tensor) -> Tensor {
    let mut input_grad = Tensor::zeros(input.size(), (Kind::Float, input.device()));
    shape.norm_backward(weight, input, grad, &mut input_grad);
    input_grad.to_kind(grad.kind())
}

/// The rows (N) of a tensor; all of them unless given.
fn rows(places: Option<&Tensor>, all: &Tensor) -> Tensor {
    places.map_or_else(|| all.shallow_clone(), |places| all.index_select(0, places))
}

/// outputs + stream, in fp32; in place where `outputs` is.
fn add(mut outputs: Tensor, stream: &Tensor) -> Tensor {
    if outputs.kind() == Kind::Float { outputs.g_add_(stream) } else { outputs + stream }
}

struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, input: &Tensor, shape: &Shape) -> Tensor {
        shape.ops.linear(shape.precision, input, &self.weight, self.bias.as_ref())
    }

    fn forward_few(&self, input: &Tensor, shape: &Shape) -> Tensor {
        shape.ops.linear_few_rows(shape.precision, input, &self.weight, self.bias.as_ref())
    }

    /// ∂L/∂input, given ∂L/∂output, both in the compute dtype, added to `sum` where there is one; adds to the gradients of
    /// weight and bias.
    fn backward(&self, input: &Tensor, grad: &Tensor, sum: Option<Tensor>, shape: &Shape) -> Tensor {
        shape.ops.addmm(shape.precision.matmul, &mut self.weight.grad(), &grad.tr(), input);
        if let Some(bias) = &self.bias {
            let _ = bias.grad().g_add_(&grad.sum_dim_intlist([0i64].as_slice(), false, Kind::Float));
        }
        match sum {
            Some(mut sum) => {
                shape.ops.addmm(shape.precision.matmul, &mut sum, grad, &self.weight);
                sum
            }
            None => shape.ops.matmul(shape.precision.matmul, grad, &self.weight),
        }
    }
}

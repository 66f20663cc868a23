//! Self-attention of a layer: projections, the third generation's norms of each head, rotary positions,
//! output.

use align_kernels::attention::{Heads, Plan};
use align_kernels::rotary::Rotation;
use tch::{Kind, Tensor};

use super::linear::{Linear, Rows};
use super::shape::Shape;

/// The maps of one layer.
pub(crate) struct Attention {
    pub(crate) qkv: Qkv,
    pub(crate) head_norms: Option<HeadNorms>,
    pub(crate) o_proj: Linear,
    /// How many tokens a query sees at most, itself included.
    pub(crate) window: Option<i64>,
}

/// How queries, keys and values are projected.
pub(crate) enum Qkv {
    /// `c_attn` of the first generation.
    Fused(Linear),
    Split([Linear; 3]),
}

/// The third generation's norms of each head.
pub(crate) struct HeadNorms {
    pub(crate) queries: Tensor,
    pub(crate) keys: Tensor,
}

/// What the backward pass needs.
pub(crate) struct SavedAttention {
    /// Queries and keys before their norms, where they have any.
    before_norms: Option<(Tensor, Tensor)>,
    /// The rotated heads and attention's output (T, H·E); leaves and end of libtorch's graph where the
    /// backend leaves one.
    pub(crate) heads: Heads,
    pub(crate) attended: Tensor,
}

impl Attention {
    /// The rotated heads of normed input (T, D), without what the backward pass needs.
    pub(crate) fn heads(&self, input: &Tensor, shape: &Shape, rotation: &Rotation, rows: Rows) -> Heads {
        let [queries, keys, values] = self.project(input, shape, rows);
        let (queries, keys) = self.norm_heads(queries, keys, shape);
        rotate(queries, keys, values, shape, rotation)
    }

    /// Attention over a batch with what the backward pass needs, up to the output projection. Probabilities
    /// are dropped with probability `dropout`.
    pub(crate) fn attend_train(&self, input: Tensor, shape: &Shape, plan: &Plan, dropout: f64) -> SavedAttention {
        let [queries, keys, values] = self.project(&input, shape, Rows::Many);
        drop(input);
        let before_norms = self.head_norms.as_ref().map(|_| (queries.shallow_clone(), keys.shallow_clone()));
        let (queries, keys) = self.norm_heads(queries, keys, shape);
        let heads = rotate(queries, keys, values, shape, &plan.rotation);
        let leaf = |tensor: Tensor| tensor.contiguous().set_requires_grad(true);
        let heads = Heads { queries: leaf(heads.queries), keys: leaf(heads.keys), values: leaf(heads.values) };
        let attended = tch::with_grad(|| shape.ops.attention(plan, &heads, self.window, dropout));
        SavedAttention { before_norms, heads, attended }
    }

    /// ∂L/∂input (T, D), given the gradient of attention's output (T, H·E), both in the activation dtype.
    /// `input` gives the normed input again once it is needed.
    pub(crate) fn backward(
        &self,
        saved: SavedAttention,
        attended_grad: Tensor,
        input: impl FnOnce() -> Tensor,
        shape: &Shape,
        plan: &Plan,
    ) -> Tensor {
        let SavedAttention { before_norms, heads, attended } = saved;
        let grads = shape.ops.attention_backward(plan, &heads, self.window, &attended, &attended_grad);
        drop((heads, attended, attended_grad));
        let rotation = &plan.rotation;
        let mut queries_grad = shape.ops.rotate_backward(rotation.scale_queries(grads.queries), rotation);
        let mut keys_grad = shape.ops.rotate_backward(grads.keys, rotation);
        let values_grad = grads.values;
        if let (Some(norms), Some((queries, keys))) = (&self.head_norms, before_norms) {
            queries_grad = head_norm_backward(shape, &norms.queries, &queries, &queries_grad);
            keys_grad = head_norm_backward(shape, &norms.keys, &keys, &keys_grad);
        }
        let input = input();
        let activations = shape.precision.activations;
        let grads = [queries_grad, keys_grad, values_grad].map(|grad| grad.flatten(1, -1).to_kind(activations));
        match &self.qkv {
            Qkv::Fused(c_attn) => c_attn.backward(&input, &Tensor::cat(&grads, 1), shape),
            Qkv::Split([q_proj, k_proj, v_proj]) => {
                let mut input_grad = q_proj.backward(&input, &grads[0], shape);
                k_proj.backward_into(&mut input_grad, &input, &grads[1], shape);
                v_proj.backward_into(&mut input_grad, &input, &grads[2], shape);
                input_grad
            }
        }
    }

    /// Queries (T, H, E), keys and values (T, K, E).
    fn project(&self, input: &Tensor, shape: &Shape, rows: Rows) -> [Tensor; 3] {
        let split = |linear: &Linear, heads: i64| linear.forward(input, shape, rows).view([-1, heads, shape.head_dim]);
        match &self.qkv {
            Qkv::Fused(c_attn) => {
                let parts = split(c_attn, 3 * shape.heads).split_with_sizes([shape.heads; 3], 1);
                parts.try_into().expect("a split in three has three parts")
            }
            Qkv::Split([q_proj, k_proj, v_proj]) => {
                [split(q_proj, shape.heads), split(k_proj, shape.kv_heads), split(v_proj, shape.kv_heads)]
            }
        }
    }

    fn norm_heads(&self, queries: Tensor, keys: Tensor, shape: &Shape) -> (Tensor, Tensor) {
        match &self.head_norms {
            Some(norms) => (shape.norm(&norms.queries, &queries), shape.norm(&norms.keys, &keys)),
            None => (queries, keys),
        }
    }
}

fn rotate(queries: Tensor, keys: Tensor, values: Tensor, shape: &Shape, rotation: &Rotation) -> Heads {
    Heads {
        queries: rotation.scale_queries(shape.ops.rotate(queries, rotation)),
        keys: shape.ops.rotate(keys, rotation),
        values,
    }
}

/// ∂L/∂input in the dtype of `grad`; adds to the weight's gradient.
fn head_norm_backward(shape: &Shape, weight: &Tensor, input: &Tensor, grad: &Tensor) -> Tensor {
    let mut input_grad = Tensor::zeros(input.size(), (Kind::Float, input.device()));
    shape.norm_backward(weight, input, grad, &mut input_grad);
    input_grad.to_kind(grad.kind())
}

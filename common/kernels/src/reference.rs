//! Every operation through libtorch alone: correct on every device, and what backends are compared with.

use std::ops::Range;

use align_core::error::{Error, Result};
use tch::{Kind, Tensor};

use crate::adamw::{AdamWSlot, AdamWStep};
use crate::attention::{Call, Heads, Plan};
use crate::backward_with;
use crate::kv_cache::{DecodeStep, KvCache};
use crate::logprobs::{Chunk, MASKED_LOGIT, Softmax, TokenStats};
use crate::norm::NormGrads;
use crate::rotary::Rotation;
use crate::sampling::{Sample, Sampling};

pub(crate) fn matmul(dtype: Kind, a: &Tensor, b: &Tensor) -> Tensor {
    a.to_kind(dtype).mm(&b.to_kind(dtype)).to_kind(a.kind())
}

/// In 16 bits the product is rounded to that before it is written to fp32.
pub(crate) fn matmul_out(dtype: Kind, out: &mut Tensor, a: &Tensor, b: &Tensor) {
    let [a, b] = [a, b].map(|input| input.to_kind(dtype));
    if out.kind() == dtype {
        let _ = a.mm_out(out, &b);
    } else {
        out.copy_(&a.mm(&b));
    }
}

/// In 16 bits the product is rounded to that before it is added.
pub(crate) fn addmm(dtype: Kind, total: &mut Tensor, a: &Tensor, b: &Tensor) {
    let [a, b] = [a, b].map(|input| input.to_kind(dtype));
    if total.kind() == dtype {
        let _ = total.addmm_(&a, &b);
    } else {
        let _ = total.g_add_(&a.mm(&b));
    }
}

pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, activations: Kind) -> Tensor {
    x.to_kind(Kind::Float).rms_norm([weight.numel() as i64], Some(weight), eps).to_kind(activations)
}

pub(crate) fn rms_norm_backward(x: &Tensor, weight: &Tensor, eps: f64, grad: &Tensor, grads: NormGrads<'_>) {
    let (x, grad) = (x.to_kind(Kind::Float), grad.to_kind(Kind::Float));
    let scale = (x.square().mean_dim([-1i64].as_slice(), true, Kind::Float) + eps).rsqrt();
    let scaled = x * &scale;
    let rows: Vec<i64> = (0..grad.dim() as i64 - 1).collect();
    let _ = grads.weight.g_add_(&(&grad * &scaled).sum_dim_intlist(rows, false, Kind::Float));
    let grad = grad * weight;
    let row_dot = (&grad * &scaled).mean_dim([-1i64].as_slice(), true, Kind::Float);
    let _ = grads.input.g_add_(&((grad - scaled * row_dot) * scale));
}

pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, grad: &Tensor) -> (Tensor, Tensor) {
    let gate_grad = gate.silu_backward(&(grad * up));
    (gate_grad, grad * gate.silu())
}

pub(crate) fn rotate(heads: &Tensor, rotation: &Rotation) -> Tensor {
    (heads * &rotation.cos).addcmul(&heads.roll([rotation.half], [-1]), &rotation.sin)
}

pub(crate) fn rotate_backward(grad: &Tensor, rotation: &Rotation) -> Tensor {
    grad * &rotation.cos + (grad * &rotation.sin).roll([rotation.half], [-1])
}

pub(crate) fn attention(plan: &Plan, heads: &Heads, window: Option<i64>, dropout: f64) -> Tensor {
    let Heads { queries, keys, values } = heads;
    let mask = plan.mask_index(window);
    let one = |call: &Call, q: &Tensor, k: &Tensor, v: &Tensor| {
        let mask = call.masks[mask].as_ref();
        if dropout > 0.0 {
            attend_with_dropout(plan, q, k, v, mask, dropout)
        } else {
            attend_fused(plan, q, k, v, mask)
        }
    };
    if let [call] = plan.calls.as_slice() {
        return one(call, queries, keys, values).flatten(1, -1);
    }
    let queries = queries.split_with_sizes(&plan.query_sizes[..], 0);
    let keys = keys.split_with_sizes(&plan.key_sizes[..], 0);
    let values = values.split_with_sizes(&plan.key_sizes[..], 0);
    let calls = plan.calls.iter().zip(&queries);
    let outputs: Vec<Tensor> =
        calls.map(|(call, q)| one(call, q, &joined(&keys, &call.keys), &joined(&values, &call.keys))).collect();
    Tensor::cat(&outputs, 0).flatten(1, -1)
}

/// libtorch's fused attention: never a matrix of scores in memory. (n, H, E) × (m, K, E) → (n, H, E).
fn attend_fused(plan: &Plan, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let heads_first = |tensor: &Tensor| tensor.transpose(0, 1).unsqueeze(0);
    let (q, k, v) = (heads_first(q), heads_first(k), heads_first(v));
    let is_causal = mask.is_none();
    let output = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, is_causal, plan.scale, plan.groups > 1);
    output.squeeze_dim(0).transpose(0, 1)
}

/// Plain batched matmuls, the heads that share keys stacked.
fn attend_with_dropout(plan: &Plan, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, dropout: f64) -> Tensor {
    let (n, heads, width) = q.size3().expect("queries are (n, H, E)");
    let (m, kv_heads, _) = k.size3().expect("keys are (m, K, E)");
    let groups = plan.groups;
    let causal = || Tensor::full([n, m], f64::NEG_INFINITY, (q.kind(), q.device())).triu_(1);
    let mask = mask.map_or_else(causal, Tensor::shallow_clone);
    let mask = if groups > 1 { mask.repeat([groups, 1]) } else { mask };
    let stacked = q.view([n, kv_heads, groups, width]).permute([1, 2, 0, 3]).reshape([kv_heads, groups * n, width]);
    let scores = mask.unsqueeze(0).baddbmm(&stacked, &k.permute([1, 2, 0]), 1.0, plan.scale);
    let probabilities = scores.softmax(-1, scores.kind()).dropout(dropout, dropout > 0.0);
    let output = probabilities.bmm(&v.transpose(0, 1));
    output.view([kv_heads, groups, n, width]).permute([2, 0, 1, 3]).reshape([n, heads, width])
}

/// Backward through libtorch's graph; heads are its leaves.
pub(crate) fn attention_backward(heads: &Heads, attended: &Tensor, grad: &Tensor) -> Heads {
    tch::with_grad(|| backward_with(attended, grad));
    let [queries, keys, values] = [&heads.queries, &heads.keys, &heads.values].map(Tensor::grad);
    Heads { queries, keys, values }
}

fn joined(parts: &[Tensor], which: &[usize]) -> Tensor {
    match which {
        [one] => parts[*one].shallow_clone(),
        many => Tensor::cat(&many.iter().map(|&at| &parts[at]).collect::<Vec<_>>(), 0),
    }
}

pub(crate) fn decode_attention(cache: &mut KvCache, layer: usize, heads: &Heads, step: &DecodeStep) -> Tensor {
    let (rows, groups) = (cache.rows() as i64, cache.groups);
    let (queries, width) = (&heads.queries, heads.queries.size()[2]);
    let kv_heads = heads.keys.size()[1];
    let (keys, values) = &mut cache.layers[layer];
    let seen = |cached: &mut Tensor, new: &Tensor| {
        let place = [Some(&step.rows), None, Some(&step.positions)];
        let _ = cached.index_put_(&place, new, false);
        cached.narrow(0, 0, rows).narrow(2, 0, step.longest).view([rows * kv_heads, step.longest, width])
    };
    let keys = seen(keys, &heads.keys);
    let values = seen(values, &heads.values);
    let stacked = queries.reshape([rows * kv_heads, groups, width]) * cache.scale;
    let mut scores = stacked.bmm(&keys.transpose(1, 2));
    if let Some(mask) = step.mask(cache.windows[layer]) {
        let by_row = scores.view([rows, kv_heads * groups, step.longest]) + mask;
        scores = by_row.view([rows * kv_heads, groups, step.longest]);
    }
    scores.softmax(-1, scores.kind()).bmm(&values).view([rows, -1])
}

pub(crate) fn logprobs(chunk: &Chunk<'_>) -> (TokenStats, WholeSoftmax) {
    let mut logits = chunk.logits(0..chunk.vocab(), matmul_out);
    if let Some(nucleus) = chunk.nucleus {
        logits = keep_nucleus(&logits, nucleus);
    }
    let targets = chunk.targets.unsqueeze(-1);
    // logsumexp by way of the highest probability: far cheaper than libtorch's own over a large vocabulary.
    let highest = logits.amax([-1], true);
    let probabilities = logits.softmax(-1, Kind::Float);
    let log_normalizer = &highest - probabilities.amax([-1], true).log();
    let target_logits = logits.gather(-1, &targets, false);
    let expected = probabilities.unsqueeze(1).bmm(&logits.unsqueeze(-1)).squeeze_dim(-1);
    let stats = TokenStats {
        logprobs: (&target_logits - &log_normalizer).squeeze_dim(-1),
        entropy: (&log_normalizer - expected).squeeze_dim(-1),
        correct: target_logits.eq_tensor(&highest).squeeze_dim(-1),
    };
    (stats, WholeSoftmax { probabilities, targets })
}

/// The distributions of a chunk over the whole vocabulary.
pub(crate) struct WholeSoftmax {
    /// (n, V)
    probabilities: Tensor,
    /// (n, 1)
    targets: Tensor,
}

impl Softmax for WholeSoftmax {
    fn gradients(self: Box<Self>, grad: &Tensor, take: &mut dyn FnMut(Range<usize>, Tensor)) {
        let Self { mut probabilities, targets } = *self;
        let _ = probabilities.g_mul_(&grad.neg().unsqueeze(-1));
        let ids = 0..probabilities.size()[1] as usize;
        take(ids, probabilities.scatter_add_(-1, &targets, &grad.unsqueeze(-1)));
    }
}

/// Logits of kept tokens, everything else far below them.
fn keep_nucleus(logits: &Tensor, nucleus: &[Vec<i64>]) -> Tensor {
    let width = logits.size()[1];
    let kept = nucleus.iter().enumerate().flat_map(|(row, kept)| kept.iter().map(move |id| row as i64 * width + id));
    let indices = Tensor::from_slice(&kept.collect::<Vec<i64>>()).to_device(logits.device());
    let kept = logits.view([-1]).index_select(0, &indices);
    logits.full_like(f64::from(MASKED_LOGIT)).view([-1]).index_copy_(0, &indices, &kept).view([-1, width])
}

/// Probabilities and their running sums are f64. Of equal probabilities the lowest id comes first.
pub(crate) fn sample(logits: &Tensor, sampling: &Sampling, uniform: &dyn Fn(usize) -> f64) -> Result<Vec<Sample>> {
    let _guard = tch::no_grad_guard();
    let (rows, all) = logits.size2().expect("logits are (B, V)");
    let logits = logits.narrow(1, 0, sampling.vocab.min(all)).to_kind(Kind::Float);
    let (highest, best) = logits.max_dim(-1, false);
    if highest.isfinite().all().int64_value(&[]) == 0 {
        return Err(non_finite());
    }
    if sampling.temperature == 0.0 {
        let tokens = Vec::<i64>::try_from(best).expect("one id a row");
        let nucleus = |token| sampling.record_nucleus.then(|| vec![token]);
        return Ok(tokens.into_iter().map(|token| Sample { token, nucleus: nucleus(token) }).collect());
    }
    let mut weights = (logits / sampling.temperature).softmax(-1, Kind::Double);
    if sampling.top_p < 1.0 {
        let (sorted, order) = weights.sort_stable(true, -1, true);
        let before = sorted.cumsum(-1, Kind::Double) - &sorted;
        let kept = before.lt(sampling.top_p).to_kind(Kind::Double);
        weights = &weights * kept.zeros_like().scatter(-1, &order, &kept);
    }
    let sums = weights.cumsum(-1, Kind::Double);
    let draws: Vec<f64> = (0..rows as usize).map(uniform).collect();
    let drawn =
        Tensor::from_slice(&draws).to_device(sums.device()).unsqueeze(-1) * sums.narrow(1, sums.size()[1] - 1, 1);
    // Of ids with the same sum the first: what follows it has no weight.
    let last =
        weights.gt(0.0).to_kind(Kind::Int64) * Tensor::arange(weights.size()[1], (Kind::Int64, weights.device()));
    let ids =
        sums.le_tensor(&drawn).sum_dim_intlist([-1i64].as_slice(), false, Kind::Int64).minimum(&last.amax([-1], false));
    let tokens = Vec::<i64>::try_from(ids).expect("one id a row");
    let nucleus = |row: usize| {
        let kept = weights.get(row as i64).nonzero().squeeze_dim(-1);
        sampling.record_nucleus.then(|| Vec::<i64>::try_from(kept).expect("ids"))
    };
    Ok(tokens.into_iter().enumerate().map(|(row, token)| Sample { token, nucleus: nucleus(row) }).collect())
}

pub(crate) fn non_finite() -> Error {
    Error::Failed("the model's logits are not numbers: its weights are broken or diverged".to_owned())
}

pub(crate) fn adamw_step(slots: &mut [AdamWSlot], step: &AdamWStep) {
    let AdamWStep { grad_scale, decay, betas: [beta1, beta2], eps, step_size, root_correction2 } = *step;
    for slot in slots {
        let mut parameter = slot.parameter.detach();
        let _ = parameter.g_mul_scalar_(decay);
        let _ = slot.exp_avg.g_mul_scalar_(beta1);
        let _ = slot.exp_avg_sq.g_mul_scalar_(beta2);
        if let Some(mut grad) = slot.grad() {
            let _ = grad.g_mul_scalar_(grad_scale);
            let _ = slot.exp_avg.g_add_(&(&grad * (1.0 - beta1)));
            let _ = slot.exp_avg_sq.addcmul_(&(&grad * (1.0 - beta2)), &grad);
            let _ = grad.zero_();
        }
        let denominator = slot.exp_avg_sq.sqrt() / root_correction2 + eps;
        let _ = parameter.addcdiv_(&(&slot.exp_avg * -step_size), &denominator);
    }
}

pub(crate) fn grad_norm(grads: &[Tensor]) -> f64 {
    let norms = grads.iter().map(|grad| grad.norm_scalaropt_dtype(2.0, Kind::Double).double_value(&[]));
    norms.map(|norm| norm * norm).sum::<f64>().sqrt()
}

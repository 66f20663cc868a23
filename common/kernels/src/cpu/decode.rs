//! Attention of one new token a row over cached keys and values, in fp32.

use tch::Tensor;

use super::slices::{as_f32_slice, as_f32_slice_mut};
use super::softmax::{exponentials, multiply};
use super::{skinny, threads};
use crate::attention::Heads;
use crate::kv_cache::KvCache;

/// As [`crate::ops::Ops::decode_attention`]. Each row and head is computed for itself, over what it sees
/// alone: a row's result does not depend on the rows beside it.
pub(super) fn attention(cache: &mut KvCache, layer: usize, heads: &Heads) -> Tensor {
    let [queries, keys, values] = [&heads.queries, &heads.keys, &heads.values].map(Tensor::contiguous);
    let (heads, window) = (Heads { queries, keys, values }, cache.windows[layer]);
    let (_, kv_heads, width) = heads.keys.size3().expect("keys are (R, K, E)");
    let (kv_heads, width) = (kv_heads as usize, width as usize);
    let mut output = heads.queries.empty_like();
    let (keys, values) = &mut cache.layers[layer];
    let capacity = cache.capacity as usize * width;
    let cached =
        as_f32_slice_mut(keys).chunks_exact_mut(capacity).zip(as_f32_slice_mut(values).chunks_exact_mut(capacity));
    let new = as_f32_slice(&heads.keys).chunks_exact(width).zip(as_f32_slice(&heads.values).chunks_exact(width));
    let group = cache.groups as usize * width;
    let asked =
        as_f32_slice(&heads.queries).chunks_exact(group).zip(as_f32_slice_mut(&mut output).chunks_exact_mut(group));
    let lengths = cache.lengths.iter().flat_map(|length| std::iter::repeat_n(*length as usize, kv_heads));
    let items: Vec<_> = cached.zip(new).zip(asked.zip(lengths)).collect();
    let seen = cache.lengths.iter().sum::<i64>() as usize * kv_heads * group;
    let scale = cache.scale as f32;
    threads::parallel_for(items, seen, |(((keys, values), (key, value)), ((queries, output), length))| {
        keys[(length - 1) * width..][..width].copy_from_slice(key);
        values[(length - 1) * width..][..width].copy_from_slice(value);
        let first = window.map_or(0, |window| length.saturating_sub(window as usize));
        let range = first * width..length * width;
        attend_heads(queries, &keys[range.clone()], &values[range], scale, width, output);
    });
    output.flatten(1, -1)
}

/// softmax(scale · q·kᵀ)·v of the queries (G, E) of a group over keys and values (n, E).
fn attend_heads(queries: &[f32], keys: &[f32], values: &[f32], scale: f32, width: usize, output: &mut [f32]) {
    let seen = keys.len() / width;
    let mut scores = vec![0.0; queries.len() / width * seen];
    skinny::matmul_nt(queries, keys, width, &mut scores);
    for scores in scores.chunks_exact_mut(seen) {
        multiply(scores, scale);
        let sum = exponentials(scores);
        multiply(scores, (1.0 / sum) as f32);
    }
    skinny::weighted_sums(&scores, values, width, output);
}

//! Attention over prefix trees, and of one new token a row.

use super::*;
use crate::attention::{AttentionDims, Heads, Plan};
use crate::batch::FlatBatch;
use crate::kv_cache::{KvCache, Prefilled};
use crate::rotary::Rotation;

/// A root with two children, one of which has a child; a sequence alone; one longer than the blocks that
/// short ones share.
fn trees() -> FlatBatch {
    let mut batch = FlatBatch::new();
    let tokens = |count: usize| vec![1; count];
    let root = batch.push(&tokens(40), None);
    let child = batch.push(&tokens(20), Some(root));
    batch.push(&tokens(7), Some(child));
    batch.push(&tokens(13), Some(root));
    batch.push(&tokens(1), None);
    let long = batch.push(&tokens(300), None);
    batch.push(&tokens(30), Some(long));
    batch
}

/// 0 where a token sees another by the definition, −∞ elsewhere (T, T).
fn mask(batch: &FlatBatch, window: Option<i64>) -> Tensor {
    let (count, positions) = (batch.len(), batch.positions());
    let mut mask = vec![f64::NEG_INFINITY; count * count];
    for (index, segment) in batch.segments().iter().enumerate() {
        let chain: Vec<usize> = std::iter::once(index).chain(batch.ancestors(index)).collect();
        for query in segment.range.clone() {
            for key in chain.iter().flat_map(|&seen| batch.segments()[seen].range.clone()) {
                let distance = positions[query] - positions[key];
                if distance >= 0 && window.is_none_or(|window| distance < window) {
                    mask[query * count + key] = 0.0;
                }
            }
        }
    }
    Tensor::from_slice(&mask).view([count as i64, count as i64])
}

fn expected(heads: [&Tensor; 3], mask: &Tensor, scale: f64) -> Tensor {
    let groups = heads[0].size()[1] / heads[1].size()[1];
    let shared = |tensor: &Tensor| tensor.transpose(0, 1).repeat_interleave_self_int(groups, 0, None);
    let scores = heads[0].transpose(0, 1).matmul(&shared(heads[1]).transpose(1, 2)) * scale + mask;
    scores.softmax(-1, Kind::Double).matmul(&shared(heads[2])).transpose(0, 1).flatten(1, -1)
}

/// A probability of dropout that drops nothing here, but takes the way with dropout.
const NEXT_TO_NOTHING: f64 = 1e-12;

#[test]
fn attention_over_trees() {
    let batch = trees();
    let windows = vec![None, Some(16)];
    let dims = AttentionDims { heads: 4, kv_heads: 2, head_dim: 16, windows: windows.clone() };
    on_every_backend(|case| {
        let count = batch.len() as i64;
        let (queries, keys, values) =
            (case.random(&[count, 4, 16]), case.random(&[count, 2, 16]), case.random(&[count, 2, 16]));
        let grad = case.random(&[count, 64]);
        let angles = Tensor::zeros([count, 8], (Kind::Float, HOST));
        let rotation = Rotation::new(&angles, 1.0, None, case.precision.activations, HOST);
        let plan = Plan::new(&dims, &batch, rotation, case.precision, HOST);
        for window in &windows {
            let exact = [&queries, &keys, &values].map(leaf);
            let y = expected(exact.each_ref(), &mask(&batch, *window), 0.25);
            backward(&y, &grad);
            for dropout in [0.0, NEXT_TO_NOTHING] {
                let leaf = |tensor: &Tensor| tensor.copy().set_requires_grad(true);
                let heads = Heads { queries: leaf(&queries), keys: leaf(&keys), values: leaf(&values) };
                let attended = case.ops.attention(&plan, &heads, *window, dropout);
                let what = |part: &str| format!("attention, {part}, window {window:?}, dropout {dropout}");
                case.assert_close(&what("output"), &attended, &y);
                let grads = case.ops.attention_backward(&plan, &heads, *window, &attended, &grad);
                case.assert_close(&what("queries"), &grads.queries, &exact[0].grad());
                case.assert_close(&what("keys"), &grads.keys, &exact[1].grad());
                case.assert_close(&what("values"), &grads.values, &exact[2].grad());
            }
        }
    });
}

#[test]
fn attention_of_new_tokens() {
    let (lengths, windows) = ([5usize, 70, 1], vec![None, Some(4)]);
    let dims = AttentionDims { heads: 6, kv_heads: 2, head_dim: 16, windows: windows.clone() };
    on_every_backend(|case| {
        let total: usize = lengths.iter().sum();
        let new = || case.random(&[total as i64, 2, 16]);
        let prompts = Prefilled { layers: vec![(new(), new()), (new(), new())] };
        let mut cache = KvCache::new(&dims, 3, case.precision.activations, HOST);
        let starts = [0, lengths[0], lengths[0] + lengths[1]];
        for (start, length) in starts.into_iter().zip(lengths) {
            cache.push(&prompts, &(start..start + length));
        }
        let mut seen: Vec<Vec<(Tensor, Tensor)>> = prompts
            .layers
            .iter()
            .map(|(keys, values)| {
                let of_row = |(start, length): (usize, usize)| {
                    let part = |all: &Tensor| all.narrow(0, start as i64, length as i64);
                    (part(keys), part(values))
                };
                starts.into_iter().zip(lengths).map(of_row).collect()
            })
            .collect();
        for _ in 0..3 {
            let step = if case.ops.decode_attention_is_masked() { cache.masked_step() } else { cache.step() };
            for layer in 0..2 {
                let heads = Heads {
                    queries: case.random(&[3, 6, 16]),
                    keys: case.random(&[3, 2, 16]),
                    values: case.random(&[3, 2, 16]),
                };
                let found = case.ops.decode_attention(&mut cache, layer, &heads, &step);
                for row in 0..3 {
                    let own = |all: &Tensor| all.narrow(0, row, 1);
                    let (keys, values) = &mut seen[layer][row as usize];
                    *keys = Tensor::cat(&[keys.shallow_clone(), own(&heads.keys)], 0);
                    *values = Tensor::cat(&[values.shallow_clone(), own(&heads.values)], 0);
                    let count = keys.size()[0];
                    let first = windows[layer].map_or(0, |window| (count - window).max(0));
                    let from_there = |all: &Tensor| all.narrow(0, first, count - first).to_kind(Kind::Double);
                    let none = Tensor::zeros([1, count - first], (Kind::Double, HOST));
                    let queries = own(&heads.queries).to_kind(Kind::Double);
                    let y = expected([&queries, &from_there(keys), &from_there(values)], &none, 0.25);
                    case.assert_close(&format!("decode_attention, layer {layer}, row {row}"), &own(&found), &y);
                }
            }
        }
        // The last row takes the place of one that has ended.
        cache.swap_remove(0);
        assert_eq!(cache.lengths(), [4, 73]);
    });
}

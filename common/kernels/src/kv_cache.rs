//! Keys and values of growing sequences: a cache is passed to the model, never kept in a layer.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::attention::{AttentionDims, Heads};
use crate::few_rows;
use crate::memory::{elements, elements_mut, takes};
use crate::parallel;
use crate::softmax::{exponentials, multiply};

/// Room is made in steps of this many tokens.
const ROOM_TOKENS: u64 = 64;

/// Keys and values (T, K, E) of every layer, after a pass over prompts.
pub struct Prefilled {
    /// Keys and values of each layer.
    pub layers: Vec<(Tensor, Tensor)>,
}

/// Keys and values of the rows that grow, and how many tokens each has.
pub struct KvCache {
    /// (rows, K, room, E) each.
    layers: Vec<(Tensor, Tensor)>,
    lengths: Vec<i64>,
    room: i64,
    groups: i64,
    scale: f64,
}

/// What one decoding step needs besides the cache: where the new tokens go, and what each row sees.
pub struct Step {
    rows: Tensor,
    places: Tensor,
    /// How many tokens the longest row has, the new one included.
    longest: i64,
    /// For each distinct window: an additive mask (rows, 1, longest), or none when all rows see everything.
    masks: Vec<(Option<i64>, Option<Tensor>)>,
}

impl KvCache {
    /// Empty, for up to `max_rows` rows.
    pub fn new(dims: &AttentionDims, max_rows: usize, compute: Kind, device: Device) -> Self {
        let size = [max_rows as i64, dims.kv_heads, 0, dims.head_dim];
        let empty = || Tensor::empty(size, (compute, device));
        Self {
            layers: (0..dims.windows.len()).map(|_| (empty(), empty())).collect(),
            lengths: Vec::new(),
            room: 0,
            groups: dims.groups(),
            scale: dims.scale(),
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// How many tokens each row has.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// Adds a row that continues a prompt: `range` of what was prefilled.
    pub fn push(&mut self, prefilled: &Prefilled, range: &Range<usize>) {
        let (row, length) = (self.lengths.len() as i64, range.len() as i64);
        self.make_room(length + 1);
        for (own, prompt) in self.layers.iter().zip(&prefilled.layers) {
            for (cache, tokens) in [(&own.0, &prompt.0), (&own.1, &prompt.1)] {
                let tokens = tokens.narrow(0, range.start as i64, length).transpose(0, 1);
                cache.get(row).narrow(1, 0, length).copy_(&tokens);
            }
        }
        self.lengths.push(length);
    }

    /// Removes a row; the last one takes its place.
    pub fn swap_remove(&mut self, row: usize) {
        let last = self.lengths.len() - 1;
        if row != last {
            let length = self.lengths[last];
            for (keys, values) in &self.layers {
                for cache in [keys, values] {
                    cache.get(row as i64).narrow(1, 0, length).copy_(&cache.get(last as i64).narrow(1, 0, length));
                }
            }
        }
        self.lengths.swap_remove(row);
    }

    /// Makes room for one more token in every row.
    pub fn step(&mut self, dims: &AttentionDims, device: Device, compute: Kind) -> Step {
        let places = self.lengths.clone();
        self.lengths.iter_mut().for_each(|length| *length += 1);
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        self.make_room(longest);
        let mut masks: Vec<(Option<i64>, Option<Tensor>)> = Vec::new();
        let by_row = self.layers.iter().all(|(keys, _)| takes(keys)); // no row sees what is masked
        for &window in dims.windows.iter().filter(|_| !by_row) {
            if !masks.iter().any(|(known, _)| *known == window) {
                masks.push((window, self.mask(window, longest).map(|mask| mask.to_device(device).to_kind(compute))));
            }
        }
        Step {
            rows: Tensor::arange(places.len() as i64, (Kind::Int64, device)),
            places: Tensor::from_slice(&places).to_device(device),
            longest,
            masks,
        }
    }

    /// Attention of one layer for one new token a row: (R, H, E) and (R, K, E) → (R, H·E).
    pub fn attend(&mut self, layer: usize, heads: &Heads, window: Option<i64>, step: &Step) -> Tensor {
        if takes(&self.layers[layer].0) {
            let [queries, keys, values] = [&heads.queries, &heads.keys, &heads.values].map(Tensor::contiguous);
            return self.attend_by_row(layer, &Heads { queries, keys, values }, window);
        }
        let rows = self.lengths.len() as i64;
        let (queries, width) = (&heads.queries, heads.queries.size()[2]);
        let kv_heads = heads.keys.size()[1];
        let (keys, values) = &mut self.layers[layer];
        let seen = |cache: &mut Tensor, new: &Tensor| {
            let place = [Some(&step.rows), None, Some(&step.places)];
            let _ = cache.index_put_(&place, new, false);
            cache.narrow(0, 0, rows).narrow(2, 0, step.longest).view([rows * kv_heads, step.longest, width])
        };
        let keys = seen(keys, &heads.keys);
        let values = seen(values, &heads.values);
        let stacked = queries.reshape([rows * kv_heads, self.groups, width]) * self.scale;
        let mut scores = stacked.bmm(&keys.transpose(1, 2));
        let mask = step.masks.iter().find(|(known, _)| *known == window).and_then(|(_, mask)| mask.as_ref());
        if let Some(mask) = mask {
            let by_row = scores.view([rows, kv_heads * self.groups, step.longest]) + mask;
            scores = by_row.view([rows * kv_heads, self.groups, step.longest]);
        }
        scores.softmax(-1, scores.kind()).bmm(&values).view([rows, -1])
    }

    /// The same on the CPU in fp32. Each row and head is computed for itself, over what it sees alone, so that no row depends on the
    /// others.
    fn attend_by_row(&mut self, layer: usize, heads: &Heads, window: Option<i64>) -> Tensor {
        let (_, kv_heads, width) = heads.keys.size3().expect("keys are (R, K, E)");
        let (kv_heads, width) = (kv_heads as usize, width as usize);
        let mut output = heads.queries.empty_like();
        let (keys, values) = &mut self.layers[layer];
        let room = self.room as usize * width;
        let cached = elements_mut(keys).chunks_exact_mut(room).zip(elements_mut(values).chunks_exact_mut(room));
        let new = elements(&heads.keys).chunks_exact(width).zip(elements(&heads.values).chunks_exact(width));
        let group = self.groups as usize * width;
        let asked = elements(&heads.queries).chunks_exact(group).zip(elements_mut(&mut output).chunks_exact_mut(group));
        let lengths = self.lengths.iter().flat_map(|length| std::iter::repeat_n(*length as usize, kv_heads));
        let items: Vec<_> = cached.zip(new).zip(asked.zip(lengths)).collect();
        let seen = self.lengths.iter().sum::<i64>() as usize * kv_heads * group;
        let scale = self.scale as f32;
        parallel::each(items, seen, |(((keys, values), (key, value)), ((queries, output), length))| {
            keys[(length - 1) * width..][..width].copy_from_slice(key);
            values[(length - 1) * width..][..width].copy_from_slice(value);
            let first = window.map_or(0, |window| length.saturating_sub(window as usize));
            let range = first * width..length * width;
            attend_heads(queries, &keys[range.clone()], &values[range], scale, width, output);
        });
        output.flatten(1, -1)
    }

    /// 0 where a row sees a token, -∞ elsewhere.
    fn mask(&self, window: Option<i64>, longest: i64) -> Option<Tensor> {
        let first = |length: i64| window.map_or(0, |window| (length - window).max(0));
        if self.lengths.iter().all(|&length| length == longest && first(length) == 0) {
            return None;
        }
        let mut values = vec![f32::NEG_INFINITY; self.lengths.len() * longest as usize];
        for (row, &length) in values.chunks_exact_mut(longest as usize).zip(&self.lengths) {
            row[first(length) as usize..length as usize].fill(0.0);
        }
        Some(Tensor::from_slice(&values).view([self.lengths.len() as i64, 1, longest]))
    }

    fn make_room(&mut self, tokens: i64) {
        if tokens <= self.room {
            return;
        }
        let room = ((tokens + self.room / 2) as u64).next_multiple_of(ROOM_TOKENS) as i64;
        for (keys, values) in &mut self.layers {
            for cache in [keys, values] {
                let mut size = cache.size();
                size[2] = room;
                // Zeros: what lies beyond a row's end is masked, but must be finite.
                let larger = Tensor::zeros(size, (cache.kind(), cache.device()));
                larger.narrow(2, 0, self.room).copy_(cache);
                *cache = larger;
            }
        }
        self.room = room;
    }
}

/// softmax(scale · q·kᵀ)·v of the queries (G, E) of a group over keys and values (n, E).
fn attend_heads(queries: &[f32], keys: &[f32], values: &[f32], scale: f32, width: usize, output: &mut [f32]) {
    let seen = keys.len() / width;
    let mut scores = vec![0.0; queries.len() / width * seen];
    few_rows::dots(queries, keys, width, &mut scores);
    for scores in scores.chunks_exact_mut(seen) {
        multiply(scores, scale);
        let sum = exponentials(scores);
        multiply(scores, (1.0 / sum) as f32);
    }
    few_rows::mixtures(&scores, values, width, output);
}

//! Keys and values of growing sequences: a cache is passed to the model, never kept in a layer.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::attention::AttentionDims;

/// The capacity grows in steps of this many tokens.
const CAPACITY_STEP: u64 = 64;

/// Keys and values (T, K, E) of every layer, after a pass over prompts.
pub struct Prefilled {
    /// Keys and values of each layer.
    pub layers: Vec<(Tensor, Tensor)>,
}

/// Keys and values of the rows that grow, and how many tokens each has.
pub struct KvCache {
    /// (rows, K, capacity, E) each.
    pub(crate) layers: Vec<(Tensor, Tensor)>,
    pub(crate) lengths: Vec<i64>,
    pub(crate) capacity: i64,
    /// Of each layer.
    pub(crate) windows: Vec<Option<i64>>,
    /// Query heads that share a key head.
    pub(crate) groups: i64,
    /// What scores are multiplied with.
    pub(crate) scale: f64,
}

/// For each distinct window: an additive mask (rows, 1, longest), or none when all rows see everything.
type Masks = Vec<(Option<i64>, Option<Tensor>)>;

/// What one decoding step needs besides the cache: where the new tokens go, and what each row sees.
pub struct DecodeStep {
    /// 0..R.
    pub(crate) rows: Tensor,
    /// Where the new token of each row goes (R).
    pub(crate) positions: Tensor,
    /// How many tokens the longest row has, the new one included.
    pub(crate) longest: i64,
    /// For each distinct window: an additive mask (rows, 1, longest), or none when all rows see everything.
    masks: Masks,
}

impl DecodeStep {
    /// The mask of a window, where some row does not see everything.
    pub(crate) fn mask(&self, window: Option<i64>) -> Option<&Tensor> {
        self.masks.iter().find(|(known, _)| *known == window).and_then(|(_, mask)| mask.as_ref())
    }
}

impl KvCache {
    /// Empty, for up to `max_rows` rows.
    pub fn new(dims: &AttentionDims, max_rows: usize, compute: Kind, device: Device) -> Self {
        let size = [max_rows as i64, dims.kv_heads, 0, dims.head_dim];
        let empty = || Tensor::empty(size, (compute, device));
        Self {
            layers: (0..dims.windows.len()).map(|_| (empty(), empty())).collect(),
            lengths: Vec::new(),
            capacity: 0,
            windows: dims.windows.clone(),
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
        self.reserve(length + 1);
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

    /// Adds capacity for one more token in every row, for a backend that needs no masks; keys and values
    /// follow, layer by layer.
    pub fn step(&mut self) -> DecodeStep {
        self.step_with(|_, _| Vec::new())
    }

    /// As [`KvCache::step`], with the masks of the layers' windows.
    pub fn masked_step(&mut self) -> DecodeStep {
        self.step_with(Self::masks)
    }

    fn step_with(&mut self, masks: impl Fn(&Self, i64) -> Masks) -> DecodeStep {
        let device = self.layers[0].0.device();
        let positions = self.lengths.clone();
        self.lengths.iter_mut().for_each(|length| *length += 1);
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        self.reserve(longest);
        DecodeStep {
            rows: Tensor::arange(positions.len() as i64, (Kind::Int64, device)),
            positions: Tensor::from_slice(&positions).to_device(device),
            longest,
            masks: masks(self, longest),
        }
    }

    /// The mask of each distinct window.
    fn masks(&self, longest: i64) -> Masks {
        let (kind, device) = (self.layers[0].0.kind(), self.layers[0].0.device());
        let mut masks = Masks::new();
        for &window in &self.windows {
            if !masks.iter().any(|(known, _)| *known == window) {
                masks.push((window, self.mask(window, longest).map(|mask| mask.to_device(device).to_kind(kind))));
            }
        }
        masks
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

    fn reserve(&mut self, tokens: i64) {
        if tokens <= self.capacity {
            return;
        }
        let capacity = ((tokens + self.capacity / 2) as u64).next_multiple_of(CAPACITY_STEP) as i64;
        for (keys, values) in &mut self.layers {
            for cache in [keys, values] {
                let mut size = cache.size();
                size[2] = capacity;
                // Zeros: tokens after a row's end are masked, but must be finite.
                let larger = Tensor::zeros(size, (cache.kind(), cache.device()));
                larger.narrow(2, 0, self.capacity).copy_(cache);
                *cache = larger;
            }
        }
        self.capacity = capacity;
    }
}

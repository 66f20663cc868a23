//! Rotary positions: inverse frequencies in fp32, YaRN, and the first generation's dynamic NTK and LogN.

use tch::{Device, Kind, Tensor};

use super::config::{ModelConfig, Yarn};
use align_kernels::batch::FlatBatch;
use align_kernels::rotary::Rotation;

/// The rotation of tokens at `positions` (T). `stretch` holds each token's NTK factor α where NTK and LogN
/// act.
pub(crate) fn rotation(
    config: &ModelConfig,
    positions: &[i64],
    stretch: Option<&[f64]>,
    compute: Kind,
    device: Device,
) -> Rotation {
    let inverse = match stretch.filter(|_| config.use_dynamic_ntk) {
        Some(stretch) => stretched(config, stretch),
        None => Tensor::from_slice(&inverse_frequencies(config)),
    };
    let angles = Tensor::from_slice(positions).to_kind(Kind::Float).unsqueeze(-1) * inverse;
    let scale = config.yarn.as_ref().map_or(1.0, |yarn| yarn.attention_factor);
    let query_scale = stretch.filter(|_| config.use_logn_attn).map(|_| {
        let trained = (config.seq_length as f64).ln();
        let scales: Vec<f32> = positions.iter().map(|&at| (((at + 1) as f64).ln() / trained).max(1.0) as f32).collect();
        Tensor::from_slice(&scales)
    });
    Rotation::new(&angles, scale, query_scale, compute, device)
}

/// The first generation's NTK factor for a sequence of `length` tokens: 1 up to the trained length.
///
/// Source: `get_ntk_alpha` of the published modeling code.
pub(crate) fn ntk_factor(config: &ModelConfig, length: usize) -> f64 {
    let context = (length as f64 / config.seq_length as f64).log2() + 1.0;
    (2f64.powf(context.ceil()) - 1.0).max(1.0)
}

/// θ_i = base^(-2i/E), with YaRN's blend where the config has it (E/2).
fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
    let plain = plain_frequencies(config.head_dim, config.rope_theta);
    match &config.yarn {
        Some(yarn) => blend(&plain, yarn, config),
        None => plain,
    }
}

fn plain_frequencies(dim: i64, base: f64) -> Vec<f32> {
    (0..dim / 2).map(|i| (1.0 / base.powf(2.0 * i as f64 / dim as f64)) as f32).collect()
}

/// One row of frequencies a token (T, E/2): base' = base·α^(E/(E-2)).
fn stretched(config: &ModelConfig, stretch: &[f64]) -> Tensor {
    let dim = config.head_dim as f64;
    let mut rows = Vec::with_capacity(stretch.len() * config.head_dim as usize / 2);
    let mut last: Option<(f64, Vec<f32>)> = None;
    for &factor in stretch {
        let row = match last.take() {
            Some((before, row)) if before == factor => row,
            _ => plain_frequencies(config.head_dim, config.rope_theta * factor.powf(dim / (dim - 2.0))),
        };
        rows.extend_from_slice(&row);
        last = Some((factor, row));
    }
    Tensor::from_slice(&rows).view([stretch.len() as i64, config.head_dim / 2])
}

/// Low frequencies are interpolated, high ones kept, with a ramp between. Source: Peng et al. 2023, section
/// 3.2.
fn blend(plain: &[f32], yarn: &Yarn, config: &ModelConfig) -> Vec<f32> {
    let dim = config.head_dim as f64;
    let dimension_of = |rotations: f64| {
        let wavelengths = yarn.original_max_position_embeddings / (rotations * std::f64::consts::TAU);
        dim * wavelengths.ln() / (2.0 * config.rope_theta.ln())
    };
    let (mut low, mut high) = (dimension_of(yarn.beta_fast), dimension_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
    plain.iter().enumerate().map(|(i, &f)| (f64::from(f) * (ramp(i) / yarn.factor + 1.0 - ramp(i))) as f32).collect()
}

/// The NTK factor of each token: that of the longest sequence in its tree.
pub(crate) fn tree_stretch(config: &ModelConfig, batch: &FlatBatch) -> Vec<f64> {
    let segments = batch.segments();
    let root = |index: usize| batch.ancestors(index).last().unwrap_or(index);
    let mut longest = vec![0usize; segments.len()];
    for (index, segment) in segments.iter().enumerate() {
        let length = segment.range.clone().last().map_or(0, |token| batch.positions()[token] as usize + 1);
        let root = root(index);
        longest[root] = longest[root].max(length);
    }
    let factor = |index: usize| ntk_factor(config, longest[root(index)]);
    segments
        .iter()
        .enumerate()
        .flat_map(|(index, segment)| std::iter::repeat_n(factor(index), segment.range.len()))
        .collect()
}

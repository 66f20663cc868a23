//! Rotary positions: heads are rotated by angles that the model gives.

use tch::{Device, Kind, Tensor};

/// Cosines and sines of one batch, shared by its layers.
pub struct Rotation {
    /// (T, 1, E)
    pub(crate) cos: Tensor,
    /// (T, 1, E), the first half negated: rotating is then a product with the halves swapped.
    pub(crate) sin: Tensor,
    /// (T, 1, 1): what LogN multiplies queries with.
    query_scale: Option<Tensor>,
    pub(crate) half: i64,
}

impl Rotation {
    /// For tokens with these angles (T, E/2). Cosines and sines are multiplied with `scale`, queries with
    /// `query_scale` (T).
    pub fn new(angles: &Tensor, scale: f64, query_scale: Option<Tensor>, compute: Kind, device: Device) -> Self {
        let half = angles.size()[1];
        let (cos, sin) = (angles.cos() * scale, angles.sin() * scale);
        let place = |tensor: Tensor| tensor.unsqueeze(1).to_device(device).to_kind(compute);
        let cos = place(Tensor::cat(&[&cos, &cos], -1));
        let sin = place(Tensor::cat(&[&sin.neg(), &sin], -1));
        let query_scale = query_scale.map(|scale| place(scale.unsqueeze(-1)));
        Self { cos, sin, query_scale, half }
    }

    /// Applies LogN, where it acts, to rotated queries (T, H, E), or to their gradient.
    pub fn scale_queries(&self, queries: Tensor) -> Tensor {
        match &self.query_scale {
            Some(scale) => queries * scale,
            None => queries,
        }
    }
}

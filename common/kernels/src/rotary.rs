//! Rotary positions: heads are rotated by angles that the model gives.

use tch::{Device, Kind, Tensor};

use crate::elementwise;

/// Cosines and sines of one batch, shared by its layers.
pub struct Rotation {
    /// (T, 1, E)
    cos: Tensor,
    /// (T, 1, E), the first half negated: rotating is then a product with the halves swapped.
    sin: Tensor,
    /// (T, 1, 1): what LogN multiplies queries with.
    query_scale: Option<Tensor>,
    half: i64,
}

impl Rotation {
    /// For tokens with these angles (T, E/2). Cosines and sines are multiplied with `scale`, queries with `query_scale` (T).
    pub fn new(angles: &Tensor, scale: f64, query_scale: Option<Tensor>, compute: Kind, device: Device) -> Self {
        let half = angles.size()[1];
        let (cos, sin) = (angles.cos() * scale, angles.sin() * scale);
        let place = |tensor: Tensor| tensor.unsqueeze(1).to_device(device).to_kind(compute);
        let cos = place(Tensor::cat(&[&cos, &cos], -1));
        let sin = place(Tensor::cat(&[&sin.neg(), &sin], -1));
        let query_scale = query_scale.map(|scale| place(scale.unsqueeze(-1)));
        Self { cos, sin, query_scale, half }
    }

    /// Rotates heads (T, heads, E).
    pub fn rotate(&self, mut heads: Tensor) -> Tensor {
        if elementwise::rotate(&mut heads, &self.cos, &self.sin, false) {
            return heads;
        }
        (&heads * &self.cos).addcmul(&heads.roll([self.half], [-1]), &self.sin)
    }

    /// ∂L/∂heads, given that of the rotated ones.
    pub fn rotate_back(&self, mut grad: Tensor) -> Tensor {
        if elementwise::rotate(&mut grad, &self.cos, &self.sin, true) {
            return grad;
        }
        &grad * &self.cos + (&grad * &self.sin).roll([self.half], [-1])
    }

    /// Applies LogN, where it acts, to rotated queries (T, H, E), or to their gradient.
    pub fn scale_queries(&self, queries: Tensor) -> Tensor {
        match &self.query_scale {
            Some(scale) => queries * scale,
            None => queries,
        }
    }
}

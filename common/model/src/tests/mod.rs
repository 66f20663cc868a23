//! The transformer against the published implementations, and against itself.

mod folders;
mod golden;
mod properties;
mod written;

use align_kernels::HOST;
use std::collections::BTreeMap;
use std::path::PathBuf;

use tch::{Kind, Tensor};

use super::ModelOptions;

/// Every tiny model of the newer families.
pub(crate) const NEWER: [&str; 7] = [
    "qwen2_sliding",
    "qwen2_tied_gqa",
    "qwen2_untied_mqa",
    "qwen2_yarn",
    "qwen3_attnbias",
    "qwen3_tied_gqa",
    "qwen3_untied_hd20",
];

pub(crate) fn tiny(model: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny_models")).join(model)
}

pub(crate) fn trainable() -> ModelOptions {
    ModelOptions { device: HOST, compute: Kind::Float, trainable: true, recompute_layers: false }
}

pub(crate) fn frozen(compute: Kind) -> ModelOptions {
    ModelOptions { device: HOST, compute, trainable: false, recompute_layers: false }
}

/// The arrays and numbers that the other program wrote.
pub(crate) struct Golden {
    arrays: BTreeMap<String, Tensor>,
    pub(crate) json: serde_json::Value,
}

impl Golden {
    pub(crate) fn read(model: &str) -> Self {
        let arrays = Tensor::read_safetensors(tiny(model).join("golden.safetensors")).unwrap();
        let json = std::fs::read(tiny(model).join("golden.json")).unwrap();
        Self { arrays: arrays.into_iter().collect(), json: serde_json::from_slice(&json).unwrap() }
    }

    pub(crate) fn array(&self, name: &str) -> &Tensor {
        &self.arrays[name]
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// The rows of `input_ids`, each cut to its length.
    pub(crate) fn rows(&self) -> Vec<Vec<i64>> {
        let ids = Vec::<Vec<i64>>::try_from(self.array("input_ids")).unwrap();
        let lens = self.json["lens"].as_array().unwrap().iter().map(|len| len.as_u64().unwrap() as usize);
        ids.into_iter().zip(lens).map(|(row, len)| row[..len].to_vec()).collect()
    }
}

/// The largest absolute difference.
pub(crate) fn distance(one: &Tensor, other: &Tensor) -> f64 {
    assert_eq!(one.size(), other.size());
    if one.numel() == 0 {
        return 0.0;
    }
    (one.to_kind(Kind::Double) - other.to_kind(Kind::Double)).abs().max().double_value(&[])
}

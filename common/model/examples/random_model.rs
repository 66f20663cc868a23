//! Makes a model of random weights: `cargo run -p align-model --example random_model -- CONFIG OUT SEED`.
//! CONFIG holds config.json, tokenizer and template; OUT gets them too.

use align_kernels::HOST;
use std::path::PathBuf;

use align_core::error::Result;
use align_model::{CausalLm, ModelConfig, ModelOptions, SideFiles};
use tch::Kind;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut folder = |what| PathBuf::from(arguments.next().expect(what));
    let (from, to) = (folder("the first argument is a folder"), folder("the second argument is a folder"));
    let seed = arguments.next().map_or(0, |seed| seed.parse().expect("the third argument is a seed"));
    let options = ModelOptions { device: HOST, compute: Kind::Float, trainable: false, recompute_layers: false };
    let mut model = CausalLm::random(ModelConfig::read(&from)?, seed, &options);
    model.set_side_files(SideFiles::capture(&from)?);
    model.save(&to)
}

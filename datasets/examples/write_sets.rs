//! Writes the quickstart's data and the folder of its untrained model:
//! `cargo run -p align-datasets --example write_sets -- DIR SEED`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("the first argument is a folder"));
    let seed = arguments.next().map_or(0, |seed| seed.parse().expect("the second argument is a seed"));
    let sets = align_datasets::write(&folder, seed)?;
    align_datasets::write_model_folder(&folder.join("model"), &sets)
}

//! Writes a corpus with planted copies and overlaps:
//! `cargo run --release -p align-datasets --example write_planted -- DIR ROWS SEED`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("the first argument is a folder"));
    let mut number = |what: &str| arguments.next().and_then(|number| number.parse().ok()).expect(what);
    let rows: u64 = number("the second argument is a number of rows");
    align_datasets::write_planted(&folder, rows as usize, number("the third argument is a seed")).map(drop)
}

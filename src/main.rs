//! align
fn main() {}

//! Rows from files: as they stand there ([`raw`]), the shapes that are understood ([`records`]), whole files of them ([`reader`]), and
//! in which order rows are used ([`order`]).

pub mod order;
pub mod raw;
pub mod reader;
pub mod records;
mod source;
#[cfg(test)]
mod tests;

pub use order::Order;
pub use raw::{Place, RawRow, RawRows};
pub use reader::{BadRows, Rows, read};
pub use records::{Comparison, Kind, Record, parse};
pub use source::STDIN;

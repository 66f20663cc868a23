//! Rows from files: the shapes that are understood ([`records`]), how files are read ([`reader`]), and in which order rows are
//! used ([`order`]).

pub mod order;
pub mod reader;
pub mod records;
mod source;
#[cfg(test)]
mod tests;

pub use order::Order;
pub use reader::{BadRows, Place, Rows, read};
pub use records::{Comparison, Kind, Record, parse};
pub use source::STDIN;

//! Rows from files: as they stand there ([`raw`]), the shapes that are understood ([`records`]), whole files of them ([`reader`]), more than
//! memory holds ([`stream`]), in which order rows are used ([`order`]), and which of them a step takes ([`batches`]).

pub mod batches;
pub mod order;
pub mod raw;
pub mod reader;
pub mod records;
mod source;
pub mod stream;
mod table;
#[cfg(test)]
mod tests;

pub use batches::{Batches, Length};
pub use order::Order;
pub use raw::{Parsed, Place, RawRow, RawRows};
pub use reader::{BadRows, Rows, read};
pub use records::{Comparison, Kind, Record, parse};
pub use source::STDIN;
pub use stream::Stream;
pub use table::panic_is_expected;

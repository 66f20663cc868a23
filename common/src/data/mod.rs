//! Rows from files: as they stand there ([`raw`]), the shapes that are understood ([`records`]), whole files of them ([`reader`]), more than
//! memory holds ([`stream`]), and in which order rows are used ([`order`]).

pub mod order;
pub mod raw;
pub mod reader;
pub mod records;
mod source;
pub mod stream;
mod table;
#[cfg(test)]
mod tests;

pub use order::Order;
pub use raw::{Parsed, Place, RawRow, RawRows};
pub use reader::{BadRows, Rows, Unread, read, read_as};
pub use records::{Comparison, Kind, ReadRow, Record, holds_text, parse, system_text};
pub use source::STDIN;
pub use stream::Stream;
pub use table::panic_is_expected;

//! Rows from data files: the files that a path refers to ([`files`]), raw rows (`row`) and the splitting of
//! files into them ([`raw`]), the supported row shapes ([`records`]) and their types ([`typed`]), files read
//! into memory ([`reader`]) or streamed ([`stream`]), the order in which rows are used ([`order`]), and the
//! rows of each step ([`batches`]).
//!
//! Imports `align-core` and `align-text`, and no libtorch.

#![forbid(unsafe_code)]

pub mod batches;
mod delimited;
pub mod files;
mod foreign;
mod json;
mod kinds;
pub mod order;
pub mod raw;
pub mod reader;
pub mod records;
mod row;
mod source;
pub mod stream;
mod table;
#[cfg(test)]
mod tests;
pub mod typed;

pub use batches::{Batches, Length};
pub use files::{Found, files_of, find, find_files, find_sets};
pub use kinds::kind_of_rows;
pub use order::Order;
pub use raw::{Parsed, RawRow, RawRows, RowLocation, format_by_name};
pub use reader::{BadRows, Rows, Unread, read, read_rows};
pub use records::{Comparison, Kind, ReadRow, Record, holds_text, meaning_beside_texts, parse, system_text};
pub use source::STDIN;
pub use stream::Stream;
pub use table::panic_is_expected;
pub use typed::{Chat, Prompt, Response, Text, TypedRow, parse_row};

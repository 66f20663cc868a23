//! Rows from files: which files a path stands for ([`files`]), rows as they stand there ([`raw`]), the shapes that are understood
//! ([`records`]), by type ([`typed`]), whole files of them ([`reader`]), more than memory holds ([`stream`]), in which order rows are used ([`order`]), and
//! which of them a step takes ([`batches`]).

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
pub use raw::{Parsed, Place, RawRow, RawRows, format_by_name};
pub use reader::{BadRows, Rows, Unread, read, read_rows};
pub use records::{Comparison, Kind, ReadRow, Record, holds_text, meaning_beside_texts, parse, system_text};
pub use source::STDIN;
pub use stream::Stream;
pub use table::panic_is_expected;
pub use typed::{Chat, Prompt, Response, Text, TypedRow, parse_row};

//! CSV and TSV. The first record names the columns; every other record becomes a row: an object of strings.
//!
//! csv-core splits the fields, and is given the file's bytes piece by piece: so the size of a record is
//! limited, and its first line is known. Two mistakes that csv-core accepts are refused: text after a closing
//! quote, and a quote that is never closed.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::json::not_utf8;
use super::row::Content;
use super::source::{MAX_RECORD_BYTES, ReadError, ReadResult, Source, count_lines};

/// More columns than any table of texts has.
const MAX_COLUMNS: usize = 4096;
/// Text columns of the row shapes, in which an empty field is an empty text. In any other column it is a
/// missing value.
const TEXTS: [&str; 12] = [
    "prompt",
    "response",
    "completion",
    "chosen",
    "rejected",
    "instruction",
    "input",
    "output",
    "question",
    "query",
    "answer",
    "text",
];

/// A CSV or TSV file that is being read.
pub(super) struct Delimited {
    source: Source,
    reader: Reader,
    delimiter: u8,
    columns: Vec<String>,
    /// The reader's output buffer.
    text: Vec<u8>,
}

/// A record's fields, concatenated.
struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    num_fields: usize,
    fits: bool,
    quotes: Quotes,
}

impl Delimited {
    /// Reads the names of the columns.
    pub(super) fn open(source: Source, delimiter: u8) -> ReadResult<Self> {
        let reader = ReaderBuilder::new().delimiter(delimiter).build();
        let mut table = Self { source, reader, delimiter, columns: Vec::new(), text: vec![0; 1 << 16] };
        let Some((_, header)) = table.record(MAX_COLUMNS)? else { return Ok(table) };
        if !header.fits || header.num_fields > MAX_COLUMNS {
            return Err(ReadError::Line(format!("a header of more than {MAX_COLUMNS} columns, expected their names")));
        }
        header.quotes.check(delimiter).map_err(ReadError::Line)?;
        table.columns = header.texts().map_err(ReadError::Line)?.map(|name| name.trim().to_owned()).collect();
        table.check_columns()?;
        Ok(table)
    }

    fn check_columns(&self) -> ReadResult<()> {
        for (index, name) in self.columns.iter().enumerate() {
            if self.columns[..index].contains(name) {
                return Err(ReadError::Line(format!(
                    "the column `{name}` twice, expected every name once in the header"
                )));
            }
        }
        if let [single] = self.columns.as_slice()
            && let Some(other) = [';', '\t', ',', '|'].into_iter().find(|other| single.contains(*other))
        {
            let what = format!(
                "a header of one column, `{single}`, expected `{}` between columns, not `{}`",
                (self.delimiter as char).escape_default(),
                other.escape_default()
            );
            return Err(ReadError::Line(what));
        }
        Ok(())
    }

    /// Whether the file has a header.
    pub(super) fn has_header(&self) -> bool {
        !self.columns.is_empty()
    }

    pub(super) fn position(&self) -> u64 {
        self.source.position()
    }

    /// The current line.
    pub(super) fn current_line(&self) -> u64 {
        self.source.line
    }

    /// The next row, with the line on which it begins.
    pub(super) fn next(&mut self) -> ReadResult<Option<(u64, Content)>> {
        let num_columns = self.columns.len();
        let Some((line, fields)) = self.record(num_columns)? else { return Ok(None) };
        if !fields.fits {
            return Ok(Some((line, Content::TooLong)));
        }
        Ok(Some((line, self.row(&fields).unwrap_or_else(Content::Bad))))
    }

    fn row(&self, fields: &Fields) -> Result<Content, String> {
        let (num_fields, num_columns) = (fields.num_fields, self.columns.len());
        fields.quotes.check(self.delimiter)?;
        if num_fields != num_columns {
            return Err(format!(
                "fields: {num_fields}, expected {num_columns} as in the header; a text with commas or line breaks needs quotes"
            ));
        }
        let mut row = Map::new();
        for (name, text) in self.columns.iter().zip(fields.texts()?) {
            if text.contains('\0') {
                return Err("a NUL byte, expected text".to_owned());
            }
            if !text.is_empty() || TEXTS.contains(&name.as_str()) {
                row.insert(name.clone(), Value::from(text));
            }
        }
        Ok(Content::Json(Value::Object(row).to_string().into_bytes()))
    }

    /// The next record; blank lines are skipped. A record that is too long, and fields beyond `most`, are
    /// dropped.
    fn record(&mut self, most: usize) -> ReadResult<Option<(u64, Fields)>> {
        let Self { source, reader, delimiter, text, .. } = self;
        source.skip_line_ends()?;
        let line = source.line;
        let mut fields =
            Fields { bytes: Vec::new(), ends: vec![0; most + 1], num_fields: 0, fits: true, quotes: Quotes::new() };
        let mut beyond = [0; 64];
        loop {
            let input = source.peek()?;
            let at_end = input.is_empty();
            let kept = fields.num_fields.min(most + 1);
            let ends = if kept <= most { &mut fields.ends[kept..] } else { &mut beyond[..] };
            let (result, num_read, num_text, num_ends) = reader.read_record(input, text, ends);
            input[..num_read].iter().for_each(|byte| fields.quotes.pass(*byte, *delimiter));
            source.line += count_lines(&input[..num_read]);
            source.consume(num_read)?;
            fields.fits &= fields.bytes.len() + num_text <= MAX_RECORD_BYTES;
            if fields.fits {
                fields.bytes.extend_from_slice(&text[..num_text]);
            }
            fields.num_fields += num_ends;
            match result {
                ReadRecordResult::Record => {
                    fields.quotes.is_over = at_end;
                    return Ok(Some((line, fields)));
                }
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::InputEmpty | ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {}
            }
        }
    }
}

impl Fields {
    /// The fields, without those that were dropped.
    fn texts(&self) -> Result<impl Iterator<Item = &str>, String> {
        let ends = &self.ends[..self.num_fields.min(self.ends.len())];
        let mut start = 0;
        for end in ends {
            let field = &self.bytes[start..*end];
            std::str::from_utf8(field).map_err(|error| not_utf8(field, error.valid_up_to()))?;
            start = *end;
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let text =
            |(start, end): (usize, &usize)| std::str::from_utf8(&self.bytes[start..*end]).expect("checked above");
        Ok(starts.zip(ends).map(text))
    }
}

/// Tracks which quotes of a record open and close a field.
struct Quotes {
    state: State,
    /// Whether text follows a closing quote.
    has_text_after_quote: bool,
    /// Whether the record ends with the file.
    is_over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Begins,
    Plain,
    Quoted,
    /// After a quote that closes the field, unless another one follows.
    Closed,
}

impl Quotes {
    fn new() -> Self {
        Self { state: State::Begins, has_text_after_quote: false, is_over: false }
    }

    fn pass(&mut self, byte: u8, delimiter: u8) {
        self.state = match (self.state, byte) {
            (State::Quoted, b'"') => State::Closed,
            (State::Quoted, _) => State::Quoted,
            (State::Begins | State::Closed, b'"') => State::Quoted,
            (_, byte) if byte == delimiter || b"\r\n".contains(&byte) => State::Begins,
            (State::Closed, _) => {
                self.has_text_after_quote = true;
                State::Plain
            }
            _ => State::Plain,
        };
    }

    fn check(&self, delimiter: u8) -> Result<(), String> {
        if self.has_text_after_quote {
            return Err(format!(
                "text after a closing quote, expected `{}` or the end of the line; a quote within a text is doubled",
                (delimiter as char).escape_default()
            ));
        }
        if self.is_over && self.state == State::Quoted {
            return Err("a quote that does not end, expected `\"` at the end of the text".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;
    use tempfile::TempDir;

    use super::super::raw::RawRows;
    use super::*;

    /// Every row, or the mistake in it, with its first line.
    type Read = Vec<(u64, Result<Value, String>)>;

    fn rows(name: &str, bytes: impl AsRef<[u8]>) -> Result<Read, String> {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let read = RawRows::open(&file, None).and_then(|rows| {
            rows.map(|row| row.map(|row| (row.location.line, row.value())))
                .collect::<align_core::error::Result<Vec<_>>>()
        });
        read.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    fn good(name: &str, bytes: impl AsRef<[u8]>) -> Vec<(u64, Value)> {
        rows(name, bytes).unwrap().into_iter().map(|(line, row)| (line, row.unwrap())).collect()
    }

    /// RFC 4180, section 2, and the variants that spreadsheets write.
    #[test]
    fn records_are_rows_of_strings_by_their_header() {
        let expected = vec![
            (2, json!({"prompt": "a, \"b\"", "response": "line 1\nline 2"})),
            (6, json!({"prompt": "", "response": "3"})),
        ];
        let text = "prompt,response\n\"a, \"\"b\"\"\",\"line 1\nline 2\"\n\n\n,3";
        assert_eq!(good("a.csv", text), expected);
        assert_eq!(good("bom.CSV", format!("\u{feff}{text}\n")), expected);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        assert_eq!(good("a.csv.gz", gz.finish().unwrap()), expected);
        let crlf = text.replace('\n', "\r\n");
        let (lines, rows): (Vec<u64>, Vec<Value>) = good("crlf.csv", crlf).into_iter().unzip();
        assert_eq!((lines, &rows[0]["response"]), (vec![2, 6], &json!("line 1\r\nline 2")));
        assert_eq!(good("a.tsv", "prompt\tresponse\na,b\tc\n"), [(2, json!({"prompt": "a,b", "response": "c"}))]);
        // A quote in the middle of a field is an ordinary character.
        assert_eq!(good("inch.csv", "text\n5\" disk\n"), [(2, json!({"text": "5\" disk"}))]);
    }

    #[test]
    fn an_empty_field_is_an_empty_text_where_a_shape_has_a_text() {
        let row = good("a.csv", "instruction, input ,output,system,tools\nq,,a,,\n");
        assert_eq!(row, [(2, json!({"instruction": "q", "input": "", "output": "a"}))]);
    }

    #[test]
    fn fields_longer_than_any_buffer_and_records_longer_than_allowed() {
        let long = "x".repeat(300_000);
        assert_eq!(good("a.csv", format!("text\n\"{long}\"\n")), [(2, json!({"text": long}))]);
        let too_long = "y\n".repeat(9 << 20);
        let found = rows("b.csv", format!("text,n\n\"{too_long}\",1\nz,2\n")).unwrap();
        assert_eq!(found[0].1, Err("a record of more than 16 MB, expected at most that".to_owned()));
        assert_eq!(found[1], (2 + (9 << 20) + 1, Ok(json!({"text": "z", "n": "2"}))));
    }

    #[test]
    fn records_that_do_not_fit_are_named_by_their_line() {
        let found = rows("a.csv", "a,b\n1,2\n1,2,3\n\"1\n2\",3\n4\n5,6\n").unwrap();
        let said: Vec<_> = found.iter().filter_map(|(line, row)| Some((*line, row.clone().err()?))).collect();
        let expected = "expected 2 as in the header; a text with commas or line breaks needs quotes";
        assert_eq!(said, [(3, format!("fields: 3, {expected}")), (6, format!("fields: 1, {expected}"))]);
        let many = rows("many.csv", format!("a,b\n{}\n1,2\n", "x,".repeat(10_000))).unwrap();
        assert_eq!(many[0].1, Err(format!("fields: 10001, {expected}")));
        assert_eq!(many[1], (3, Ok(json!({"a": "1", "b": "2"}))));
        let after = rows("after.csv", "a,b\n\"1\"x,2\n3,4\n").unwrap();
        assert!(after[0].1.as_ref().unwrap_err().starts_with("text after a closing quote, expected `,`"));
        let open = rows("open.csv", "a,b\n1,2\n3,\"4\n5,6\n").unwrap();
        assert_eq!((open.len(), open[1].0), (2, 3));
        assert!(open[1].1.as_ref().unwrap_err().starts_with("a quote that does not end"), "{open:?}");
        let latin = rows("latin.csv", b"a,b\n1,\xe9\n").unwrap();
        assert_eq!(latin[0].1, Err("byte 0xe9 is not UTF-8, expected UTF-8 text".to_owned()));
    }

    #[test]
    fn bad_headers_are_refused() {
        let refused = |text: &str| rows("a.csv", text).unwrap_err();
        assert_eq!(refused(""), "a.csv: an empty file, expected rows");
        assert_eq!(refused("a,b\n"), "a.csv: a header without rows, expected rows");
        assert_eq!(refused("a,b,a\n1,2,3\n"), "a.csv:1: the column `a` twice, expected every name once in the header");
        assert_eq!(
            refused("a;b\n1;2\n"),
            "a.csv:1: a header of one column, `a;b`, expected `,` between columns, not `;`"
        );
        assert!(refused(&"a,".repeat(5000)).contains("a header of more than 4096 columns"));
    }
}

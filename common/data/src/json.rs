//! Parses the JSON of a row, with clear messages and without duplicate keys; and recognises files that look
//! like JSON Lines but are not.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use super::records::Parsed;

const EXPECTED: &str = "expected one object per line or an array of objects";

/// Parses a row that begins on line `line` of its file.
pub(super) fn parse(bytes: &[u8], line: u64) -> Parsed<Value> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    if text.contains('\0') {
        return Err("a NUL byte, expected text".to_owned());
    }
    let mut row = serde_json::Deserializer::from_str(text);
    let value = Unique::deserialize(&mut row).and_then(|value| row.end().map(|()| value));
    value.map(|Unique(value)| value).map_err(|error| explained(text, &error, line))
}

pub(super) fn not_utf8(bytes: &[u8], at: usize) -> String {
    format!("byte 0x{:02x} is not UTF-8, expected UTF-8 text", bytes[at])
}

/// A value without duplicate keys, of which serde_json would silently drop all but one.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Number(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Number(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::String(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(Value::String(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(Unique(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(Value::Array(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
                let mut map = Map::new();
                while let Some(key) = object.next_key::<String>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("the key `{}` twice in one object", clipped(&key))));
                    }
                    let Unique(value) = object.next_value()?;
                    map.insert(key, value);
                }
                Ok(Value::Object(map))
            }
        }

        deserializer.deserialize_any(Any).map(Unique)
    }
}

/// Describes why a text is not JSON, and where.
fn explained(text: &str, error: &serde_json::Error, line: u64) -> String {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    if error.classify() == Category::Data {
        return format!("{said}, expected every key once");
    }
    let at = offset(text, error.line(), error.column());
    if let Some((word, expected, start)) =
        python_word(text).filter(|(word, _, start)| (*start..=start + word.len()).contains(&at))
    {
        return format!("`{word}` at {} is not JSON, expected {expected}", position(text, start, line));
    }
    let trimmed = text.trim();
    if let Some(without) = trimmed.strip_suffix(',')
        && serde_json::from_str::<serde::de::IgnoredAny>(without).is_ok()
    {
        return format!("a comma after the object, {EXPECTED}");
    }
    if trimmed.starts_with("{'") {
        return "keys in single quotes (a Python dict), expected JSON: write it with json.dumps".to_owned();
    }
    let position = position(text, at.saturating_sub(1), line);
    if said == "trailing characters" {
        let ends_with_cr = text[..at.saturating_sub(1)].trim_end_matches([' ', '\t']).ends_with('\r');
        let what =
            if ends_with_cr { "lines that end with a carriage return alone" } else { "several values on one line" };
        return format!("{what} (another one at {position}), {EXPECTED}");
    }
    format!("not JSON ({said} at {position}), {EXPECTED}")
}

/// The position of a byte in a row: the column, and the line if the row has several.
fn position(text: &str, at: usize, line: u64) -> String {
    let before = &text.as_bytes()[..at.min(text.len())];
    let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
    let num_lines = before.iter().filter(|&&byte| byte == b'\n').count() as u64;
    if num_lines == 0 { format!("column {column}") } else { format!("line {}, column {column}", line + num_lines) }
}

/// The byte offset of serde's line and column, both from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let lines = text.split_inclusive('\n').take(line.saturating_sub(1));
    lines.map(str::len).sum::<usize>() + column
}

/// The first Python literal outside strings that is not JSON, its JSON equivalent, and its offset.
fn python_word(text: &str) -> Option<(&'static str, &'static str, usize)> {
    const WORDS: [(&str, &str); 7] = [
        ("NaN", "null or a number"),
        ("nan", "null or a number"),
        ("-Infinity", "null or a number"),
        ("Infinity", "null or a number"),
        ("None", "null"),
        ("True", "true"),
        ("False", "false"),
    ];
    let mut depth = Depth::default();
    for (at, byte) in text.bytes().enumerate() {
        if !depth.in_string
            && let Some((word, expected)) =
                WORDS.iter().find(|(word, _)| text.as_bytes()[at..].starts_with(word.as_bytes()))
        {
            return Some((word, expected, at));
        }
        depth.pass(byte);
    }
    None
}

/// Tracks the nesting depth of brackets.
#[derive(Default)]
pub(super) struct Depth {
    pub(super) brackets: u64,
    pub(super) in_string: bool,
    escaped: bool,
}

impl Depth {
    /// Advances by one byte.
    pub(super) fn pass(&mut self, byte: u8) {
        if self.in_string {
            (self.in_string, self.escaped) = match byte {
                _ if self.escaped => (true, false),
                b'\\' => (true, true),
                b'"' => (false, false),
                _ => (true, false),
            };
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.brackets += 1,
            b'}' | b']' => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
    }
}

/// Whether a line begins an object that continues on the next line. A line break inside a string does not
/// count.
pub(super) fn opens_object(line: &[u8]) -> bool {
    let mut depth = Depth::default();
    line.iter().for_each(|byte| depth.pass(*byte));
    line.trim_ascii_start().first() == Some(&b'{') && depth.brackets > 0 && !depth.in_string
}

/// Whether a line is a complete object.
pub(super) fn is_object(line: &[u8]) -> bool {
    line.trim_ascii_start().first() == Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

/// The key under which an object has rows, a jq program that extracts them, and their number; `None` if the
/// object's keys are those of a row.
pub(super) fn rows_within(object: &[u8]) -> Option<(String, String, usize)> {
    const KEYS_OF_ROWS: [&str; 14] = [
        "messages",
        "conversations",
        "conversation",
        "prompt",
        "chosen",
        "response",
        "responses",
        "completion",
        "text",
        "instruction",
        "question",
        "query",
        "input",
        "tags",
    ];
    let Ok(Value::Object(object)) = serde_json::from_slice(object) else { return None };
    if object.keys().any(|key| KEYS_OF_ROWS.contains(&key.as_str())) {
        return None;
    }
    let lists = object.iter().filter_map(|(key, value)| Some((key, value.as_array()?)));
    let (key, rows) =
        lists.filter(|(_, list)| list.first().is_some_and(Value::is_object)).max_by_key(|(_, list)| list.len())?;
    let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !key.starts_with(|first: char| first.is_ascii_digit());
    let program = if is_plain { format!(".{key}[]") } else { format!(".[{}][]", Value::from(key.as_str())) };
    Some((clipped(key), program, rows.len()))
}

/// Data is untrusted: a message quotes little of it, on one line.
fn clipped(text: &str) -> String {
    let clipped: String = text.chars().filter(|char| !char.is_control()).take(40).collect();
    if clipped.len() < text.len() { format!("{clipped}…") } else { clipped }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(text.as_bytes(), 7).unwrap_err()
    }

    #[test]
    fn duplicate_keys_are_refused() {
        assert_eq!(
            refusal(r#"{"a": 1, "b": {"c": 1, "c": 2}}"#),
            "the key `c` twice in one object, expected every key once"
        );
        let value = parse(br#"{"a": {"c": [1, -2, 0.5, 18446744073709551615, true, null, "\u00e9"]}, "c": 2}"#, 1);
        let expected = serde_json::json!({"a": {"c": [1, -2, 0.5, u64::MAX, true, null, "é"]}, "c": 2});
        assert_eq!(value.unwrap(), expected);
    }

    #[test]
    fn python_literals_are_reported_with_their_column() {
        assert_eq!(refusal(r#"{"a": NaN}"#), "`NaN` at column 7 is not JSON, expected null or a number");
        assert_eq!(refusal(r#"{"é": -Infinity}"#), "`-Infinity` at column 7 is not JSON, expected null or a number");
        assert_eq!(
            refusal("{\n\"a\": [1,\n Infinity]}"),
            "`Infinity` at line 9, column 2 is not JSON, expected null or a number"
        );
        assert_eq!(refusal(r#"{"a": True}"#), "`True` at column 7 is not JSON, expected true");
        assert_eq!(refusal(r#"{"a": nan}"#), "`nan` at column 7 is not JSON, expected null or a number");
        // In a string they are ordinary text.
        assert_eq!(parse(br#"{"a": "NaN None True"}"#, 1).unwrap(), serde_json::json!({"a": "NaN None True"}));
        assert!(refusal(r#"{"a": "NaN", b}"#).starts_with("not JSON ("), "{}", refusal(r#"{"a": "NaN", b}"#));
    }

    #[test]
    fn near_misses_of_json_lines_are_explained() {
        assert!(refusal(r#"{"a": 1},"#).starts_with("a comma after the object, expected one object per line"));
        assert!(refusal(r#"{"a": 1}{"a": 2}"#).starts_with("several values on one line (another one at column 9)"));
        assert!(refusal("{\"a\": 1}\r{\"a\": 2}").starts_with("lines that end with a carriage return alone"));
        assert!(refusal("{'a': 1}").starts_with("keys in single quotes (a Python dict)"));
    }

    #[test]
    fn rows_within_an_object_are_found_by_their_key() {
        let found = |text: &str| rows_within(text.as_bytes());
        assert_eq!(found(r#"{"version": 1, "data": [{"q": 1}, {}]}"#), Some(("data".into(), ".data[]".into(), 2)));
        assert_eq!(found(r#"{"my rows": [{}]}"#), Some(("my rows".into(), r#".["my rows"][]"#.into(), 1)));
        // An object with the keys of a row is a row, whatever lists it has.
        assert_eq!(found(r#"{"messages": [{"role": "user"}]}"#), None);
        assert_eq!(found(r#"{"a": [1, 2], "b": []}"#), None);
    }
}

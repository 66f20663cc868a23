//! JSON as Python's `json.dumps` writes it, with Python's separators and floats, and non-ASCII text
//! unescaped: a function, and the filter `tojson` of Python's transformers.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// `value | tojson(indent=None, ensure_ascii=False)`; other arguments are refused.
pub(super) fn filter(value: Value, arguments: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let ensure_ascii = arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    arguments.assert_all_used()?;
    let mut bytes = Vec::new();
    let python = Python { indent, ensure_ascii, depth: 0, has_value: false };
    let fail = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    value.serialize(&mut Serializer::with_formatter(&mut bytes, python)).map_err(fail)?;
    Ok(String::from_utf8(bytes).expect("JSON is UTF-8"))
}

/// `json.dumps(value, ensure_ascii=False)`.
pub fn dumps(value: &serde_json::Value) -> String {
    let mut bytes = Vec::new();
    let python = Python { indent: None, ensure_ascii: false, depth: 0, has_value: false };
    value.serialize(&mut Serializer::with_formatter(&mut bytes, python)).expect("a JSON value can be written");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

struct Python {
    indent: Option<usize>,
    ensure_ascii: bool,
    depth: usize,
    has_value: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.new_line(out)?;
        }
        self.has_value = true;
        out.write_all(bracket)
    }

    fn comma<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        out.write_all(if self.indent.is_some() { b"," } else { b", " })
    }

    fn new_line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        match self.indent {
            None => Ok(()),
            Some(indent) => write!(out, "\n{}", " ".repeat(indent * self.depth)),
        }
    }
}

impl Formatter for Python {
    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            self.comma(out)?;
        }
        self.new_line(out)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            self.comma(out)?;
        }
        self.new_line(out)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ensure_ascii {
            return out.write_all(fragment.as_bytes());
        }
        for char in fragment.chars() {
            if (' '..='~').contains(&char) {
                write!(out, "{char}")?;
                continue;
            }
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// A float as Python's `repr` writes it: the shortest digits that round-trip, with an exponent below 1e-4 and
/// from 1e16 on.
pub fn float(value: f64) -> String {
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').expect("`e` was asked for");
    let exponent: i32 = exponent.parse().expect("an exponent is an integer");
    if (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Expected values: CPython 3.11, `json.dumps(value, ensure_ascii=False)` and with the named arguments.
    #[test]
    fn values_are_written_as_python_writes_them() {
        let value = json!({"b": [1, 2.0, -0.5, null, true], "a": {"é\n\u{7f}": "\"x\\/"}, "e": {}, "l": []});
        let written = |arguments: &[(&str, Value)]| {
            filter(Value::from_serialize(&value), arguments.iter().cloned().collect()).unwrap()
        };
        assert_eq!(
            written(&[]),
            "{\"b\": [1, 2.0, -0.5, null, true], \"a\": {\"é\\n\u{7f}\": \"\\\"x\\\\/\"}, \"e\": {}, \"l\": []}"
        );
        assert!(written(&[("ensure_ascii", Value::from(true))]).contains("\"\\u00e9\\n\\u007f\""));
        assert_eq!(
            written(&[("indent", Value::from(2))]),
            "{\n  \"b\": [\n    1,\n    2.0,\n    -0.5,\n    null,\n    true\n  ],\n  \"a\": {\n    \"é\\n\u{7f}\": \"\\\"x\\\\/\"\n  },\n  \"e\": {},\n  \"l\": []\n}"
        );
        let other: Kwargs = [("sort_keys", Value::from(true))].into_iter().collect();
        assert!(filter(Value::from(1), other).is_err());
    }

    /// Expected values: CPython 3.11's `repr`.
    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (-2.0, "-2.0"),
            (0.1, "0.1"),
            (1e300, "1e+300"),
            (0.0, "0.0"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }
}

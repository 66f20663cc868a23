//! The input of a call, as models write it: JSON5 (single quotes, trailing commas, comments).

use std::collections::BTreeMap;
use std::fmt;

use align_text::template::python_json;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Lists and objects within each other; more is refused, because a model writes any text.
const MAX_DEPTH: usize = 128;

/// A JSON5 value. Of two equal keys of an object the last one counts, as in Python and JavaScript.
#[derive(Debug, Clone, PartialEq)]
pub enum Json5 {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number, as it is written in decimal.
    Integer(String),
    /// Any other number; JSON5 has NaN and infinities.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json5>),
    /// An object, by key.
    Object(BTreeMap<String, Json5>),
}

impl Json5 {
    /// Reads a text.
    ///
    /// # Errors
    /// What is wrong with it, as one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        json5::from_str::<Whole>(text).map(|Whole(value)| value).map_err(|error| error.to_string())
    }

    /// `json.dumps(value, ensure_ascii=False, sort_keys=True)` of Python.
    pub fn sorted(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Json5::Null => out.push_str("null"),
            Json5::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Json5::Integer(digits) => out.push_str(digits),
            Json5::Float(number) if number.is_nan() => out.push_str("NaN"),
            Json5::Float(number) if number.is_infinite() => {
                out.push_str(if *number > 0.0 { "Infinity" } else { "-Infinity" });
            }
            Json5::Float(number) => out.push_str(&python_json::float(*number)),
            Json5::Text(text) => out.push_str(&quoted(text)),
            Json5::List(values) => {
                out.push('[');
                for (index, value) in values.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    value.write(out);
                }
                out.push(']');
            }
            Json5::Object(values) => {
                out.push('{');
                for (index, (key, value)) in values.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    out.push_str(&quoted(key));
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// When it has NaN, an infinity or a whole number of more than 64 bits, which JSON's readers cannot hold.
    pub fn to_json(&self) -> Result<Value, String> {
        Ok(match self {
            Json5::Null => Value::Null,
            Json5::Bool(truth) => Value::Bool(*truth),
            Json5::Integer(digits) => Value::Number(
                digits
                    .parse::<i64>()
                    .map(Number::from)
                    .or_else(|_| digits.parse::<u64>().map(Number::from))
                    .map_err(|_| format!("the number {digits} has more than 64 bits"))?,
            ),
            Json5::Float(number) => {
                Value::Number(Number::from_f64(*number).ok_or_else(|| format!("{number} is not a number of JSON"))?)
            }
            Json5::Text(text) => Value::String(text.clone()),
            Json5::List(values) => Value::Array(values.iter().map(Json5::to_json).collect::<Result<_, _>>()?),
            Json5::Object(values) => {
                let pairs = values.iter().map(|(key, value)| Ok((key.clone(), value.to_json()?)));
                Value::Object(pairs.collect::<Result<Map<_, _>, String>>()?)
            }
        })
    }
}

/// A string of JSON. Python and serde_json escape the same characters.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A text that is one value.
struct Whole(Json5);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Depth(MAX_DEPTH).deserialize(deserializer).map(Self)
    }
}

/// Reads a value that may have this many more levels.
#[derive(Clone, Copy)]
struct Depth(usize);

impl Depth {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Depth).ok_or_else(|| E::custom(format!("more than {MAX_DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Json5;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json5, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Json5;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Json5, E> {
        Ok(Json5::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json5, E> {
        Ok(Json5::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json5, E> {
        Ok(Json5::Integer(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json5, E> {
        Ok(Json5::Integer(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json5, E> {
        Ok(Json5::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json5, E> {
        Ok(Json5::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json5, A::Error> {
        let (inner, mut values) = (self.inner()?, Vec::new());
        while let Some(value) = list.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Json5::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json5, A::Error> {
        let (inner, mut values) = (self.inner()?, BTreeMap::new());
        while let Some(key) = object.next_key::<String>()? {
            values.insert(key, object.next_value_seed(inner)?);
        }
        Ok(Json5::Object(values))
    }
}

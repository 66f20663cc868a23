//! The normalised form of texts and their words, by which texts are compared.

use align_data::holds_text;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Normalises a text: Unicode NFKC, lower case, and white space collapsed to single spaces and trimmed.
pub fn normalized(text: &str) -> String {
    let folded =
        if text.is_ascii() { text.to_ascii_lowercase() } else { text.nfkc().collect::<String>().to_lowercase() };
    let mut result = String::with_capacity(folded.len());
    for word in folded.split_whitespace() {
        if !result.is_empty() {
            result.push(' ');
        }
        result.push_str(word);
    }
    result
}

/// The words of a text by Unicode's rules (UAX #29) that have a letter or digit: no punctuation, and single
/// characters in scripts without spaces.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.unicode_words()
}

/// The texts that identify a row: all strings, at any depth, under the keys that stages read as text. Other
/// keys (such as an id or a source) are ignored.
///
/// # Errors
/// A message if the row has no text.
pub fn content(row: &Value) -> Result<Vec<&str>, String> {
    let mut found = Vec::new();
    for (key, value) in row.as_object().into_iter().flatten() {
        if holds_text(key) {
            collect(value, &mut found);
        }
    }
    if found.iter().all(|text| text.trim().is_empty()) {
        return Err("a row without text, expected `text`, `messages`, `prompt` or another shape of a stage".to_owned());
    }
    Ok(found)
}

/// Every string in a row, at any depth and under any key.
pub fn strings(row: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    collect(row, &mut found);
    found
}

fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(values) => values.values().for_each(|value| collect(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn normalising_removes_width_ligatures_case_and_white_space() {
        for (text, expected) in [
            ("  A\tb\r\n\u{3000}c ", "a b c"),
            ("ＡＢＣ１２３", "abc123"),
            ("ﬁne ①", "fine 1"),
            ("e\u{301}", "é"),
            ("ΟΔΟΣ", "οδος"),
            ("No-break\u{a0}space", "no-break space"),
            (" \n", ""),
        ] {
            assert_eq!(normalized(text), expected);
        }
    }

    #[test]
    fn words_leave_punctuation_out() {
        let found = |text| words(text).collect::<Vec<_>>();
        assert_eq!(found("it's 3.14, (not) “pi”…!"), ["it's", "3.14", "not", "pi"]);
        assert_eq!(found("我爱你 rust"), ["我", "爱", "你", "rust"]);
        assert!(found("!? …").is_empty());
    }

    #[test]
    fn rows_are_identified_by_the_keys_that_stages_read() {
        let row = json!({
            "id": "7", "source": "web", "scores": [1, 2], "prompt": [{ "role": "user", "content": "q" }],
            "responses": ["a", [{ "from": "gpt", "value": "b" }]],
        });
        assert_eq!(content(&row).unwrap(), ["user", "q", "a", "gpt", "b"]);
        assert_eq!(strings(&row), ["7", "web", "user", "q", "a", "gpt", "b"]);
        for none in [json!({ "id": "7" }), json!({ "text": " " }), json!(["text"])] {
            assert!(content(&none).unwrap_err().starts_with("a row without text, expected `text`"), "{none}");
        }
    }
}

//! Numbers. Sources: the published scripts of Qwen (`eval/evaluate_gsm8k.py`, `eval/evaluate_chat_gsm8k.py`,
//! Qwen-Agent's code interpreter benchmark) and OpenCompass (`gsm8k_postprocess`).

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern::{compile, last_match};

static DIGITS: LazyLock<Regex> = LazyLock::new(|| compile(r"[0-9]+"));
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| compile(r"([+-])?(?=([0-9]|\.[0-9]))(0|([1-9](\d{0,2}(,\d{3})*)|\d*))?(\.\d*)?(?=\D|\z)"));
static SPACED: LazyLock<Regex> = LazyLock::new(|| {
    compile(r"(?<=(\s|[\$%#{]))([+-])?(?=(\S))(0|([1-9](\d*|\d{0,2}(,\d{3})*)))?(\.\d*[1-9])?(?=(\s|[.,}]|\z))")
});
static PLAIN: LazyLock<Regex> = LazyLock::new(|| compile(r"\-?\d+\.\d+|\-?\d+"));

/// The last run of digits: 80 of 1,080, 5 of 0.5, and 3 of −3.
pub(super) fn last_digits(text: &str) -> Option<String> {
    last_match(&DIGITS, text).map(str::to_owned)
}

/// The last number, without thousands separators.
pub(super) fn last_number(text: &str) -> Option<String> {
    last_match(&NUMBER, text).map(without_separators)
}

/// The last number after a space or `$`, `%`, `#`, `{`.
pub(super) fn spaced_number(text: &str) -> Option<String> {
    // Line breaks are no white space here: the published script writes them as a backslash and an n.
    let text = text.trim_matches('.').replace('\n', "\\n");
    last_match(&SPACED, &text).map(without_separators).filter(|number| !number.is_empty())
}

/// The last number before the next `Question:`.
pub(super) fn number_before_question(text: &str) -> Option<String> {
    let text = text.split("Question:").next().unwrap_or_default();
    last_match(&PLAIN, text).map(str::to_owned)
}

fn without_separators(number: &str) -> String {
    number.replace([',', '+'], "")
}

//! Answers in words, of BBH. Source: OpenCompass (`bbh_mcq_postprocess`, `bbh_freeform_postprocess`).

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern::{compile, first_group, replace_all};

static IN_BRACKETS: LazyLock<Regex> = LazyLock::new(|| compile(r"\(([A-Z])\)*"));
static CAPITAL: LazyLock<Regex> = LazyLock::new(|| compile(r"([A-Z])"));
static ANSWER_IS: LazyLock<Regex> = LazyLock::new(|| compile(r"(?i)answer is\s*:?\s*"));
static BOLD: LazyLock<Regex> = LazyLock::new(|| compile(r"\*\*(.*?)\*\*"));
static YES_NO: LazyLock<Regex> = LazyLock::new(|| compile(r"(?i)^(yes|no|true|false)\b"));
static LIST_OF_NUMBERS: LazyLock<Regex> = LazyLock::new(|| compile(r"\d\s*,\s*\d"));
static COMMA: LazyLock<Regex> = LazyLock::new(|| compile(r"\s*,\s*"));
static SPACE: LazyLock<Regex> = LazyLock::new(|| compile(r"\s+"));

/// The letter after the first "answer is ": in brackets, else the first capital; without a letter, the words.
pub(super) fn option(text: &str) -> Option<String> {
    let answer = text.split("answer is ").nth(1).map_or(text, str::trim);
    let letter = first_group(&IN_BRACKETS, answer).or_else(|| first_group(&CAPITAL, answer));
    Some(letter.unwrap_or(answer).to_owned())
}

/// The first line after the last "answer is", without full stop and emphasis, and with single spaces for
/// commas. Yes, no, true and false are capitalised.
pub(super) fn answer_is(text: &str) -> Option<String> {
    let start = ANSWER_IS.find_iter(text).map_while(Result::ok).last().map_or(0, |found| found.end());
    let answer = if start == 0 { text } else { text[start..].trim() };
    let mut answer = answer.split('\n').next().unwrap_or_default().trim();
    answer = answer.strip_suffix('.').map_or(answer, str::trim);
    answer = first_group(&BOLD, answer).map_or(answer, str::trim);
    if let Some(word) = first_group(&YES_NO, answer) {
        let (first, rest) = word.split_at(1);
        return Some(first.to_uppercase() + &rest.to_lowercase());
    }
    let answer = match LIST_OF_NUMBERS.is_match(answer) {
        Ok(true) => answer.to_owned(),
        _ => replace_all(&COMMA, answer, " "),
    };
    Some(replace_all(&SPACE, &answer, " ").trim().to_owned())
}

//! Answers to problems of MATH, as text in one form and as exact values.
//!
//! The normalisation is that of Minerva (Lewkowycz et al. 2022, appendix D.1), with the corrections that
//! lm-evaluation-harness 0.4.13 made to it: units are words of their own or glued to their surroundings,
//! never parts of LaTeX commands; roots keep their index; only separators of thousands are dropped.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern::{compile, first_group, replace_all};

/// Texts and what replaces them, in this order.
const SUBSTITUTIONS: [(&str, &str); 10] = [
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
];
/// Units and typesetting without meaning, in this order.
const REMOVED: [&str; 40] = [
    "square",
    "ways",
    "integers",
    "dollars",
    "mph",
    "inches",
    "ft",
    "hours",
    "km",
    "units",
    "\\ldots",
    "sue",
    "points",
    "feet",
    "minutes",
    "digits",
    "cents",
    "degrees",
    "cm",
    "gm",
    "pounds",
    "meters",
    "meals",
    "edges",
    "students",
    "childrentickets",
    "multiples",
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    "\\mathrm{th}",
    "^\\circ",
    "^{\\circ}",
    "\\;",
    ",\\!",
    "{,}",
];
/// The end of that list.
const REMOVED_LAST: [&str; 2] = ["\"", "\\dots"];

static UNIT_WORDS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    removed().filter(|text| is_word(text)).map(|word| compile(&format!(r"(?<!\\)\b{word}\b"))).collect()
});
static COMMAND: LazyLock<Regex> = LazyLock::new(|| compile(r"\\[a-zA-Z]+"));
/// Patterns and what replaces them, in this order: what is inside `$…$`, text, bold, overline, a box; then
/// fractions and roots without braces.
static REWRITES: LazyLock<[(Regex, &str); 8]> = LazyLock::new(|| {
    [
        (r"(.*?)(\$)(.*?)(\$)(.*)", "$$${3}$$"),
        (r"(\\text\{)(.*?)(\})", "${2}"),
        (r"(\\textbf\{)(.*?)(\})", "${2}"),
        (r"(\\overline\{)(.*?)(\})", "${2}"),
        (r"(\\boxed\{)(.*)(\})", "${2}"),
        (r"(frac)([^{])(.)", "frac{${2}}{${3}}"),
        (r"(sqrt)(\[[^\]]*\])(\w)", "${1}${2}{${3}}"),
        (r"(sqrt)(?!\[)([^{])", "sqrt{${2}}"),
    ]
    .map(|(pattern, replacement)| (compile(pattern), replacement))
});
static THOUSANDS: LazyLock<Regex> = LazyLock::new(|| compile(r"\A-?\d{1,3}(,\d{3})+\z"));
static FINAL_ANSWER: LazyLock<Regex> =
    LazyLock::new(|| compile(r"Final Answer: The final answer is(.*?). I hope it is correct."));
static SENTENCE: LazyLock<Regex> = LazyLock::new(|| compile(r"(?i)final answer|answer is"));
static FRACTION: LazyLock<Regex> = LazyLock::new(|| compile(r"\A([+-]?)\\frac\{([^{}]+)\}\{([^{}]+)\}\z"));

fn removed() -> impl Iterator<Item = &'static str> {
    REMOVED.into_iter().chain(REMOVED_LAST)
}

fn is_word(text: &str) -> bool {
    text.chars().all(char::is_alphabetic)
}

/// The text of `Final Answer: The final answer is …. I hope it is correct.`, normalised. The closing words
/// may be missing: generation may stop before them.
pub(super) fn final_answer(text: &str) -> Option<String> {
    first_group(&FINAL_ANSWER, &format!("{text}I hope it is correct.")).map(|answer| normalize(answer.trim()))
}

/// The last `\boxed{…}`; else the first sentence with "final answer" or "answer is"; normalised.
pub(super) fn boxed_or_sentence(text: &str) -> Option<String> {
    if let Some(answer) = boxed(text) {
        return Some(normalize(answer));
    }
    let sentence = text.split('.').find(|sentence| SENTENCE.is_match(sentence).unwrap_or(false))?;
    let end = SENTENCE.find_iter(sentence).map_while(Result::ok).last()?.end();
    let answer = sentence[end..].trim().trim_start_matches(':').trim();
    Some(normalize(answer.strip_prefix("is ").unwrap_or(answer)))
}

/// What is inside the last `\boxed{…}`, `\boxed …` or `\fbox{…}`.
pub(crate) fn boxed(text: &str) -> Option<&str> {
    if let Some((_, last)) = text.rsplit_once("\\boxed ") {
        return last.split('$').next();
    }
    let (start, command) = match text.rfind("\\boxed") {
        Some(start) => (start, "\\boxed{"),
        None => (text.rfind("\\fbox")?, "\\fbox{"),
    };
    let inside = text[start..].strip_prefix(command)?;
    let mut depth = 1;
    for (at, char) in inside.char_indices() {
        depth += match char {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some(&inside[..at]);
        }
    }
    None
}

/// An answer in Minerva's normal form.
pub(crate) fn normalize(answer: &str) -> String {
    let mut answer = answer.rsplit('=').next().unwrap_or_default().to_owned();
    for word in UNIT_WORDS.iter() {
        answer = replace_all(word, &answer, "");
    }
    for (before, after) in SUBSTITUTIONS {
        answer = answer.replace(before, after);
    }
    for text in removed() {
        answer = if is_word(text) { without_outside_commands(&answer, text) } else { answer.replace(text, "") };
    }
    for (pattern, replacement) in REWRITES.iter() {
        answer = replace_all(pattern, &answer, replacement);
    }
    answer = answer.replace('$', "");
    if THOUSANDS.is_match(&answer).unwrap_or(false) {
        answer = answer.replace(',', "");
    }
    answer
}

/// The text without `word`, which is kept inside LaTeX commands.
fn without_outside_commands(text: &str, word: &str) -> String {
    let (mut result, mut end) = (String::new(), 0);
    for command in COMMAND.find_iter(text).map_while(Result::ok) {
        result += &text[end..command.start()].replace(word, "");
        result += command.as_str();
        end = command.end();
    }
    result + &text[end..].replace(word, "")
}

/// Whether two normalised answers are the same: as texts, apart from the size of fractions and brackets, or
/// as exact rational numbers. There is no computer algebra: `\sqrt{4}` and `2` are different answers.
pub(crate) fn is_same_value(left: &str, right: &str) -> bool {
    let (left, right) = (without_sizes(left), without_sizes(right));
    if left.is_empty() || right.is_empty() {
        return false;
    }
    left == right || rational(&left).is_some_and(|left| rational(&right) == Some(left))
}

fn without_sizes(answer: &str) -> String {
    let answer = answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac");
    ["(", ")", "[", "]", "\\{", "\\}", "|"].iter().fold(answer, |answer, bracket| {
        answer.replace(&format!("\\left{bracket}"), bracket).replace(&format!("\\right{bracket}"), bracket)
    })
}

/// The value of an integer, a decimal, or a fraction of those, in lowest terms with a positive denominator.
fn rational(text: &str) -> Option<(i128, i128)> {
    let fraction = FRACTION.captures(text).ok().flatten();
    let (sign, above, below) = match &fraction {
        Some(found) => (found.get(1)?.as_str(), found.get(2)?.as_str(), found.get(3)?.as_str()),
        None => text.split_once('/').map_or(("", text, "1"), |(above, below)| ("", above, below)),
    };
    let ((above_num, above_den), (below_num, below_den)) = (decimal(above.trim())?, decimal(below.trim())?);
    let num = above_num.checked_mul(below_den)?.checked_mul(if sign == "-" { -1 } else { 1 })?;
    let den = above_den.checked_mul(below_num)?;
    if den == 0 {
        return None;
    }
    let divisor = common_divisor(num, den) * den.signum();
    Some((num / divisor, den / divisor))
}

/// The value of a decimal: its digits over a power of ten.
fn decimal(text: &str) -> Option<(i128, i128)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (digits.is_empty() && part.is_empty()) || !is_number(digits) || !is_number(part) {
        return None;
    }
    let value: i128 = format!("{digits}{part}").parse().ok()?;
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    Some((value * sign, 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?))
}

fn common_divisor(left: i128, right: i128) -> i128 {
    if right == 0 { left.abs().max(1) } else { common_divisor(right, left % right) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples in appendix D.1 of the paper and in comments of lm-evaluation-harness; the others by hand.
    #[test]
    fn normal_forms() {
        for (answer, expected) in [
            ("x = 5", "5"),
            ("$\\frac12$", "\\frac{1}{2}"),
            ("\\sqrt2", "\\sqrt{2}"),
            ("\\sqrt[3]8", "\\sqrt[3]{8}"),
            ("10,\\!000", "10000"),
            ("100,000", "100000"),
            ("0,1", "0,1"),
            ("12 \\text{ inches}", "12"),
            ("2\\pi cm", "2\\pi"),
            ("\\left(3, \\frac{\\pi}{2}\\right)", "\\left(3,\\frac{\\pi}{2}\\right)"),
            ("90^\\circ", "90"),
            ("the answer is $\\text{Evelyn}$.", "Evelyn"),
            ("\\boxed{[2,5)}", "[2,5)"),
            ("\\$32,\\!348", "32348"),
        ] {
            assert_eq!(normalize(answer), expected, "{answer}");
        }
    }

    #[test]
    fn values_are_compared_exactly() {
        for (left, right) in
            [("0.5", "\\frac{1}{2}"), ("1/2", "\\dfrac{2}{4}"), ("-\\frac{2}{3}", "\\frac{-2}{3}"), (".25", "0.250")]
        {
            assert!(is_same_value(left, right), "{left} {right}");
        }
        let third = "0.333333333333333333333333";
        for (left, right) in [("", ""), (third, "1/3"), ("2", "\\sqrt{4}"), ("1/0", "2/0"), ("-", "-0")] {
            assert!(!is_same_value(left, right), "{left} {right}");
        }
    }

    #[test]
    fn answers_in_boxes_and_sentences() {
        assert_eq!(boxed("so $\\boxed{\\frac{1}{2}}$ and $\\boxed{3}$"), Some("3"));
        assert_eq!(boxed("so $\\boxed{\\frac{1}{2}}$."), Some("\\frac{1}{2}"));
        assert_eq!(boxed("$\\boxed 7$ is"), Some("7"));
        assert_eq!(boxed("$\\boxed{7$ is"), None);
        let whole = "We get 4.\nFinal Answer: The final answer is $\\frac12$. I hope it is correct.";
        assert_eq!(final_answer(whole).as_deref(), Some("\\frac{1}{2}"));
        assert_eq!(final_answer("Final Answer: The final answer is $7$. ").as_deref(), Some("7"));
        assert_eq!(final_answer("The answer is 7."), None);
        assert_eq!(boxed_or_sentence("So. The answer is $7$. Yes").as_deref(), Some("7"));
        assert_eq!(boxed_or_sentence("It is 7."), None);
    }
}

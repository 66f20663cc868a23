//! Letters of choices. Sources: the published scripts of Qwen (`eval/evaluate_chat_{mmlu,ceval}.py`) and
//! OpenCompass (`first_option_postprocess`).
//!
//! Qwen's scripts guess when no pattern matches: the choice whose text is most similar to the answer. Here
//! such an answer has no letter.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern::{compile, compile_all, first_group};

static MMLU: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    compile_all([
        r"(?:(?:[Cc]hoose)|(?:(?:[Aa]nswer|[Cc]hoice)(?![^ABCD]{0,20}?(?:n't|not))[^ABCD]{0,10}?\b(?:|is|:|be))\b)[^ABCD]{0,20}?\b(A|B|C|D)\b",
        r"\b(A|B|C|D)\b(?![^ABCD]{0,8}?(?:n't|not)[^ABCD]{0,5}?(?:correct|right))[^ABCD]{0,10}?\b(?:correct|right)\b",
        r"^(A|B|C|D)(?:\.|,|:|\n?\z)",
        r"(?<![a-zA-Z])(A|B|C|D)(?![a-zA-Z=])",
    ])
});

static CEVAL: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    compile_all([
        r"(?:(?:选|选择|选定)[：:]?\s*|(?:(?:答案|选项)(?![^ABCD]{0,10}?(?:不|非)[^ABCD]{0,10}?(?:是|选|为|：|:|】))[^ABCD]{0,10}?(?:是|选|为|：|:|】))[^ABCD]{0,10}?)(A|B|C|D)(?:选项)?(?:\)|。|\.|，|,|．|、|A|B|C|D|\n?\z|：|:|\)|）)",
        r"(A|B|C|D)(?:选?项)?(?![^ABCD]{0,4}?(?:不|非)[^ABCD]{0,4}?(?:正确|对[的，。：]|符合))[^ABCD]{0,4}?(?:正确|对[的，。：]|符合)",
        r"^[\(（]?(A|B|C|D)(?:。|\)|）|\.|，|,|．|：|:|\n?\z)",
        r"(?<![a-zA-Z])(A|B|C|D)(?![a-zA-Z=])",
    ])
});

/// In the order in which they are tried. The text has no white space around it.
static FIRST_OPTION: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"答案是?\s*([ABCD])",
        r"答案是?\s*：\s*([ABCD])",
        r"答案是?\s*:\s*([ABCD])",
        r"答案选项应?该?是\s*([ABCD])",
        r"答案选项应?该?为\s*([ABCD])",
        r"答案应该?是\s*([ABCD])",
        r"答案应该?选\s*([ABCD])",
        r"答案选项为?\s*：\s*([ABCD])",
        r"答案选项为?\s+\(?\*?\*?([ABCD])\*?\*?\)?",
        r"答案选项是?\s*:\s*([ABCD])",
        r"答案为\s*([ABCD])",
        r"答案选\s*([ABCD])",
        r"选择?\s*([ABCD])",
        // One pattern in the published list, too.
        r"故选?\s*([ABCD])只有选?项?\s?([ABCD])\s?是?对",
        r"只有选?项?\s?([ABCD])\s?是?错",
        r"只有选?项?\s?([ABCD])\s?不?正确",
        r"只有选?项?\s?([ABCD])\s?错误",
        r"说法不?对选?项?的?是\s?([ABCD])",
        r"说法不?正确选?项?的?是\s?([ABCD])",
        r"说法错误选?项?的?是\s?([ABCD])",
        r"([ABCD])\s?是正确的",
        r"([ABCD])\s?是正确答案",
        r"选项\s?([ABCD])\s?正确",
        r"所以答\s?([ABCD])",
        r"所以\s?([ABCD][.。$]?\z)",
        r"所有\s?([ABCD][.。$]?\z)",
        r"[\s，：:,]([ABCD])[。，,\.]?\z",
        r"[\s，,：:][故即]([ABCD])[。\.]?\z",
        r"[\s，,：:]因此([ABCD])[。\.]?\z",
        r"[是为。]\s?([ABCD])[。\.]?\z",
        r"因此\s?([ABCD])[。\.]?\z",
        r"显然\s?([ABCD])[。\.]?\z",
        r"答案是\s?(\S+)(?:。|\z)",
        r"答案应该是\s?(\S+)(?:。|\z)",
        r"答案为\s?(\S+)(?:。|\z)",
        r"(?i)ANSWER\s*:\s*([ABCD])",
        r"[Tt]he answer is:?\s+\(?([ABCD])\)?",
        r"[Tt]he answer is:?\s+\(?\*?\*?([ABCD])\*?\*?\)?",
        r"[Tt]he answer is option:?\s+\(?([ABCD])\)?",
        r"[Tt]he correct answer is:?\s+\(?([ABCD])\)?",
        r"[Tt]he correct answer is option:?\s+\(?([ABCD])\)?",
        r"[Tt]he correct answer is:?.*?boxed\{([ABCD])\}",
        r"[Tt]he correct option is:?.*?boxed\{([ABCD])\}",
        r"[Tt]he correct answer option is:?.*?boxed\{([ABCD])\}",
        r"[Tt]he answer to the question is:?\s+\(?([ABCD])\)?",
        r"^选项\s?([ABCD])",
        r"^([ABCD])\s?选?项",
        r"(\s|^)[ABCD][\s。，,：:\.$]",
        r"1.\s?(.*?)\z",
        r"1.\s?([ABCD])[.。$]?\z",
        r"([ABCD]):",
        r"([ABCD])",
    ]
    .into_iter()
    .map(|pattern| compile(&format!("(?s){pattern}")))
    .collect()
});

/// Choices with their letters, longest text first; `ending` is dropped from the texts.
fn longest_first(choices: &[String], ending: char) -> Vec<(char, &str)> {
    let mut choices: Vec<(char, &str)> = ('A'..).zip(choices.iter().map(String::as_str)).collect();
    choices.sort_by_key(|(_, text)| std::cmp::Reverse(text.chars().count()));
    choices.iter_mut().for_each(|(_, text)| *text = text.trim_end_matches(ending));
    choices.retain(|(_, text)| !text.is_empty());
    choices
}

fn first_letter(patterns: &[Regex], text: &str) -> Option<String> {
    patterns.iter().find_map(|pattern| first_group(pattern, text)).map(str::to_owned)
}

/// Texts of choices become letters, whatever their case; then the first pattern that matches.
pub(super) fn qwen_mmlu(text: &str, choices: &[String]) -> Option<String> {
    let text = longest_first(choices, '.').into_iter().fold(text.to_owned(), |text, (letter, choice)| {
        let choice = compile(&format!("(?i){}", fancy_regex::escape(choice)));
        super::replace_all(&choice, &text, &letter.to_string())
    });
    first_letter(&*MMLU, &text)
}

/// The question's last sentence is replaced: what is before its gap by "the answer is", what is after it by
/// nothing. Texts of choices become letters; then the first pattern that matches.
pub(super) fn qwen_ceval(text: &str, question: &str, choices: &[String]) -> Option<String> {
    let sentence = question.trim_end_matches('。').rsplit('。').next().unwrap_or_default();
    let mut text = text.to_owned();
    let (before, after) =
        (sentence.split('_').next().unwrap_or_default(), sentence.rsplit('_').next().unwrap_or_default());
    for (part, replacement) in [(before, "答案是"), (after, "")] {
        if part.trim().chars().count() > 4 {
            text = text.replace(part, replacement);
        }
    }
    for (letter, choice) in longest_first(choices, '。') {
        text = text.replace(choice, &letter.to_string());
    }
    first_letter(&*CEVAL, &text)
}

/// The first pattern whose match holds a letter: that letter, A before B.
pub(super) fn first_option(text: &str) -> Option<String> {
    let text = text.trim();
    FIRST_OPTION.iter().find_map(|pattern| {
        let captures = pattern.captures(text).ok().flatten()?;
        let group = captures.get(1).filter(|group| !group.as_str().is_empty()).or(captures.get(0))?;
        ["A", "B", "C", "D"].into_iter().find(|letter| group.as_str().contains(letter)).map(str::to_owned)
    })
}

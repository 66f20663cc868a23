//! Numbers in answers.

use std::sync::LazyLock;

use fancy_regex::Regex;

/// The last number of a text, by the pattern of QwenLM/Qwen-Agent's benchmark. It finds no number at the end
/// of a line that is not the last, takes `1,234` as 1, and finds nothing where the last match is empty or a
/// sign alone.
pub fn last_number(text: &str) -> Option<f64> {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        let pattern =
            r"(?<=(\s|[\$%#{]))([+-])?(?=(\S))(0|([1-9](\d*|\d{0,2}(,\d{3})*)))?(\.\d*[1-9])?(?=(\s|[.,}]|$))";
        fancy_regex::RegexBuilder::new(pattern).backtrack_limit(100_000_000).build().expect("a constant pattern")
    });
    let text = text.trim_matches('.').replace('\n', "\\n");
    let last = NUMBER.find_iter(&text).filter_map(std::result::Result::ok).last()?;
    last.as_str().replace([',', '+'], "").parse().ok()
}

/// The last number of a text, with or without separators of thousands.
pub fn plain_number(text: &str) -> Option<f64> {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?<![\d.])-?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?").expect("a constant pattern"));
    let last = NUMBER.find_iter(text).filter_map(std::result::Result::ok).last()?;
    last.as_str().replace(',', "").parse().ok()
}

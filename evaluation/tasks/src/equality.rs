//! When an answer equals the right one.

use std::sync::LazyLock;

use fancy_regex::Regex;

use crate::extract::{compile, is_same_value, replace_all};

/// When an answer equals the right one.
#[derive(Debug, Clone, PartialEq)]
pub enum Equality {
    /// The same text.
    Text,
    /// The same text whatever its case.
    FoldedText,
    /// The same text after lm-evaluation-harness' clean-up for GSM8K: without commas and `$`, without what is
    /// before the last `#### `, without a full stop at the end, and whatever its case.
    Gsm8k,
    /// Numbers that differ by at most `tolerance`.
    Number {
        /// The largest difference.
        tolerance: f64,
    },
    /// The same value, both in Minerva's normal form.
    Value,
}

/// What does not count, in this order.
static GSM8K: LazyLock<[Regex; 4]> = LazyLock::new(|| [",", r"\$", r"(?s).*#### ", r"\.(?=\n?\z)"].map(compile));

impl Equality {
    /// Whether `answer` equals `gold`.
    pub fn holds(&self, answer: &str, gold: &str) -> bool {
        match self {
            Self::Text => answer == gold,
            Self::FoldedText => answer.to_lowercase() == gold.to_lowercase(),
            Self::Gsm8k => gsm8k(answer) == gsm8k(gold),
            Self::Number { tolerance } => match (number(answer), number(gold)) {
                (Some(answer), Some(gold)) => (answer - gold).abs() <= *tolerance,
                _ => false,
            },
            Self::Value => is_same_value(answer, gold),
        }
    }
}

fn gsm8k(text: &str) -> String {
    GSM8K.iter().fold(text.to_owned(), |text, pattern| replace_all(pattern, &text, "")).to_lowercase()
}

/// A finite number; thousands may be separated by commas.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.trim().replace(',', "").parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equalities() {
        assert!(Equality::Text.holds("(A)", "(A)") && !Equality::Text.holds("a", "A"));
        assert!(Equality::FoldedText.holds("valid", "Valid"));
        let number = Equality::Number { tolerance: 1e-4 };
        assert!(number.holds("18.0", "18") && number.holds("1,080", "1080") && !number.holds("18.001", "18"));
        assert!(!number.holds("inf", "inf") && !number.holds("", ""));
        assert!(Equality::Value.holds("0.5", "\\frac{1}{2}"));
    }

    /// By hand, from the definition of lm-evaluation-harness' task.
    #[test]
    fn gsm8k_compares_what_is_after_the_marks() {
        let gold = "She makes 9 * 2 = $<<9*2=18>>18.\n#### 1,018";
        for answer in ["1018", "1,018", "$1,018.", "so #### 1018"] {
            assert!(Equality::Gsm8k.holds(answer, gold), "{answer}");
        }
        assert!(!Equality::Gsm8k.holds("1018.0", gold));
    }
}

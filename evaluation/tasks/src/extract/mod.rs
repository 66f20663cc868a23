//! What is taken from an answer: a file for each kind.
//!
//! The patterns are those of the published scripts. `$` is written `\z` where answers have no line break at
//! their end, as Python's `$` also matches before one.

mod code;
mod free_form;
mod letters;
mod math;
mod numbers;
mod pattern;
#[cfg(test)]
mod tests;

pub use code::Code;
pub use pattern::{Pattern, Which};

pub(crate) use math::{boxed, is_same_value, normalize};
pub(crate) use pattern::{compile, replace_all};

/// What is taken from a text answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Extractor {
    /// All of it.
    Text,
    /// A match of a pattern.
    Pattern(Pattern),
    /// The letter of Qwen's evaluation of chat models on MMLU; the texts of choices count as their letters.
    QwenMmlu {
        /// The texts of the choices.
        choices: Vec<String>,
    },
    /// The letter of Qwen's evaluation of chat models on C-Eval; the question's words before the gap count as
    /// "the answer is".
    QwenCeval {
        /// The question.
        question: String,
        /// The texts of the choices.
        choices: Vec<String>,
    },
    /// OpenCompass' first option, A to D.
    FirstOption,
    /// The first capital letter.
    FirstCapital,
    /// The last run of digits: Qwen's evaluation of base models on GSM8K.
    LastDigits,
    /// The last number, with sign, thousands separators and decimals: Qwen's evaluation of chat models.
    LastNumber,
    /// The last number after a space or `$`, `%`, `#`, `{`: Qwen's evaluation of the code interpreter.
    SpacedNumber,
    /// The last number before the next `Question:`: OpenCompass.
    NumberBeforeQuestion,
    /// The letter of a BBH set with choices: OpenCompass.
    BbhOption,
    /// The words after the last "answer is": OpenCompass.
    AnswerIs,
    /// The text of `Final Answer: The final answer is …. I hope it is correct.`, normalised: Minerva.
    FinalAnswer,
    /// The last `\boxed{…}`; else the first sentence with "final answer" or "answer is"; normalised.
    Boxed,
}

/// The names of extractors that need nothing of the question, for a user's own task.
pub const NAMES: [(&str, Extractor); 11] = [
    ("text", Extractor::Text),
    ("first-option", Extractor::FirstOption),
    ("first-capital", Extractor::FirstCapital),
    ("last-digits", Extractor::LastDigits),
    ("last-number", Extractor::LastNumber),
    ("spaced-number", Extractor::SpacedNumber),
    ("number-before-question", Extractor::NumberBeforeQuestion),
    ("bbh-option", Extractor::BbhOption),
    ("answer-is", Extractor::AnswerIs),
    ("final-answer", Extractor::FinalAnswer),
    ("boxed", Extractor::Boxed),
];

impl Extractor {
    /// What is taken from `text`; `None` when it holds no answer.
    pub fn extract(&self, text: &str) -> Option<String> {
        match self {
            Self::Text => Some(text.to_owned()),
            Self::Pattern(pattern) => pattern.extract(text),
            Self::QwenMmlu { choices } => letters::qwen_mmlu(text, choices),
            Self::QwenCeval { question, choices } => letters::qwen_ceval(text, question, choices),
            Self::FirstOption => letters::first_option(text),
            Self::FirstCapital => text.chars().find(|char| char.is_uppercase()).map(String::from),
            Self::LastDigits => numbers::last_digits(text),
            Self::LastNumber => numbers::last_number(text),
            Self::SpacedNumber => numbers::spaced_number(text),
            Self::NumberBeforeQuestion => numbers::number_before_question(text),
            Self::BbhOption => free_form::option(text),
            Self::AnswerIs => free_form::answer_is(text),
            Self::FinalAnswer => math::final_answer(text),
            Self::Boxed => math::boxed_or_sentence(text),
        }
    }
}

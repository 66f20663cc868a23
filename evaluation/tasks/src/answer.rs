//! A model's answer, and what its scoring returns.

use std::collections::BTreeMap;

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To a choice: one for each continuation.
    Choice(Vec<Continuation>),
    /// To a question that asks for a text: the text, without the stop text.
    Text(String),
}

/// How probable a continuation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Continuation {
    /// ln p of the whole continuation after the prompt.
    pub logprob: f64,
    /// Whether each of its tokens is the most probable one.
    pub is_greedy: bool,
}

/// What is known about one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The answer is known to be right or wrong.
    Scored(Scored),
    /// A program decides: the answer passes when the program runs to its end.
    Program {
        /// The extracted code, as it is shown; `None`: the answer contains none, and is wrong.
        answer: Option<String>,
        /// The whole program: Python source.
        program: String,
        /// Wall-clock limit in seconds.
        seconds: f64,
    },
}

/// The scores of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// What was taken from the answer; `None` when nothing was found.
    pub answer: Option<String>,
    /// By name, those of the task's metrics.
    pub metrics: BTreeMap<String, f64>,
}

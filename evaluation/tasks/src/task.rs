//! A task in memory: its questions as prompts, and how answers to them are scored.

use align_text::chatml::Message;

pub use crate::answer::{Answer, Continuation, Scored, Verdict};
pub use crate::judge::Judge;

/// A benchmark, ready to be put to a model.
#[derive(Debug, Clone)]
pub struct Task {
    /// As in `--task`: `mmlu`, or the name of a user's own task.
    pub name: String,
    /// The number of worked examples before each question.
    pub shots: usize,
    /// In the order of the benchmark's files.
    pub subjects: Vec<Subject>,
    /// The names of the metrics of its items; the first is the one that tables show.
    pub metrics: Vec<String>,
    /// How the subjects' means become one number.
    pub average: Average,
    /// Named groups of subjects, in the order of the report's tables; a subject may be in several.
    pub categories: Vec<Category>,
}

impl Task {
    /// The maximum length of an answer, in tokens; 0 if all answers are choices.
    pub fn longest_answer(&self) -> usize {
        let items = self.subjects.iter().flat_map(|part| &part.items);
        let length = |item: &Item| match item.ask {
            Ask::Generate { max_tokens, .. } => max_tokens,
            Ask::Choose(_) => 0,
        };
        items.map(length).max().unwrap_or(0)
    }

    /// Whether answers are programs, which have to be executed.
    pub fn runs_programs(&self) -> bool {
        self.subjects.iter().flat_map(|part| &part.items).any(|item| matches!(item.judge, Judge::Program(_)))
    }
}

/// A name longer than this is shortened where people read it.
const LONGEST_NAME: usize = 40;

/// A task's name as tables and progress bars show it: of one with many parts, the first and the number of
/// others.
pub fn short_name(name: &str) -> String {
    match name.split_once('+') {
        Some((first, others)) if name.chars().count() > LONGEST_NAME => {
            format!("{first} and {} more", others.split('+').count())
        }
        _ => name.to_owned(),
    }
}

/// A part of a task that has a mean of its own; tasks without parts have one subject.
#[derive(Debug, Clone)]
pub struct Subject {
    /// As in the benchmark's files.
    pub name: String,
    /// Its questions, in file order.
    pub items: Vec<Item>,
}

/// How the means of subjects are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// Over all questions.
    Micro,
    /// Over subjects: each counts the same.
    Macro,
}

/// A group of subjects with a mean of its own, averaged like the task.
#[derive(Debug, Clone)]
pub struct Category {
    /// As the report's table names it.
    pub name: String,
    /// Names of subjects.
    pub subjects: Vec<String>,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Item {
    /// Unique in the task, and the same whatever `--limit` and order are: `SUBJECT/ROW`, or the row's own id.
    pub id: String,
    /// What the model reads.
    pub prompt: Prompt,
    /// What the model does.
    pub ask: Ask,
    /// How its answer is scored.
    pub judge: Judge,
}

/// What the model reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text to continue.
    Text(String),
    /// A dialogue to answer.
    Chat {
        /// With the worked examples as turns; the last turn is a user's. A system turn, if any, comes first.
        messages: Vec<Message>,
        /// The beginning of the answer, which the model continues.
        prefix: String,
    },
}

/// What the model does with the prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Computes the log-probability of each of these continuations.
    Choose(Vec<String>),
    /// Writes a text, greedily.
    Generate {
        /// The text ends before the first occurrence of any of these.
        stops: Vec<String>,
        /// Its maximum length in tokens.
        max_tokens: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_parts_the_first_is_named() {
        let many = ["abstract_algebra"; 18].join("+");
        assert_eq!(short_name(&format!("mmlu/{many}")), "mmlu/abstract_algebra and 17 more");
        assert_eq!(short_name("mmlu/virology+anatomy"), "mmlu/virology+anatomy");
    }
}

//! Questions with four choices, in CSV files.

use std::path::Path;

use align_core::error::{Problem, Problems, Result};

use crate::files::{self, Columns};

/// The letters of the choices.
pub(super) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// A question with four choices.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// The index of its row.
    pub(super) index: usize,
    /// The question's text.
    pub(super) text: String,
    /// The texts of the choices.
    pub(super) choices: Vec<String>,
    /// The index of the right one.
    pub(super) gold: usize,
}

impl Question {
    /// `A. …` to `D. …`, each after `before` and before `after`.
    pub(super) fn listed(&self, before: &str, after: &str) -> String {
        LETTERS.iter().zip(&self.choices).map(|(letter, choice)| format!("{before}{letter}. {choice}{after}")).collect()
    }

    /// The letter of the right choice.
    pub(super) fn letter(&self) -> &'static str {
        LETTERS[self.gold]
    }
}

/// Reads questions: columns question, A, B, C, D, answer.
///
/// # Errors
/// For every row that is not one.
pub(super) fn read(file: &Path, columns: Columns) -> Result<Vec<Question>> {
    let (mut questions, mut problems) = (Vec::new(), Problems::new());
    for row in files::csv(file, columns)? {
        let [text, a, b, c, d, answer] = <[String; 6]>::try_from(row.value).expect("six columns");
        if text.trim().is_empty() {
            problems.push_problem(Problem::of_row(&row.location, "the question is empty, expected text"));
        }
        match LETTERS.iter().position(|letter| *letter == answer.trim()) {
            Some(gold) => questions.push(Question { index: row.index, text, choices: vec![a, b, c, d], gold }),
            None => {
                let what = format!("the answer is `{answer}`, expected A, B, C or D");
                problems.push_problem(Problem::of_row(&row.location, what));
            }
        }
    }
    problems.into_result()?;
    Ok(questions)
}

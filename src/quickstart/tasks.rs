//! The quickstart's small Table 5: tasks about its world, which `align eval tasks` puts to its models.
//!
//! The tasks are a user's own: configs/quickstart/tasks/*.toml, with rows made here of held-out questions.

use std::path::Path;

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};
use align_datasets::world::{Ask, Language, Question};
use serde_json::{Value, json};

/// Name and definition of each task.
const TASKS: [(&str, &str); 4] = [
    ("facts", include_str!("../../configs/quickstart/tasks/facts.toml")),
    ("facts-zh", include_str!("../../configs/quickstart/tasks/facts-zh.toml")),
    ("sums", include_str!("../../configs/quickstart/tasks/sums.toml")),
    ("belongings", include_str!("../../configs/quickstart/tasks/belongings.toml")),
];

/// Writes the tasks and their rows; returns the paths of the definitions.
pub(super) fn write(folder: &Path, prompts: &[String]) -> Result<Vec<String>> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let questions: Vec<Question> = prompts.iter().filter_map(|prompt| Question::parse(prompt)).collect();
    let mut paths = Vec::new();
    for (name, definition) in TASKS {
        let rows = questions.iter().filter(|question| task_of(question) == Some(name)).map(|question| row(question));
        let lines: String = rows.map(|row| format!("{row}\n")).collect();
        write_atomic(&folder.join(format!("{name}.jsonl")), lines.as_bytes())?;
        let path = folder.join(format!("{name}.toml"));
        write_atomic(&path, definition.as_bytes())?;
        paths.push(path.display().to_string());
    }
    Ok(paths)
}

/// The task that a question belongs to.
fn task_of(question: &Question) -> Option<&'static str> {
    match (question.ask, question.language) {
        (Ask::Capital(_) | Ask::Continent(_) | Ask::Colour(_) | Ask::Legs(_), Language::English) => Some("facts"),
        (Ask::Capital(_) | Ask::Continent(_) | Ask::Colour(_) | Ask::Legs(_), Language::Chinese) => Some("facts-zh"),
        (Ask::Sum(..), Language::English) => Some("sums"),
        (Ask::Belonging(..), Language::English) => Some("belongings"),
        (Ask::Sum(..) | Ask::Belonging(..), Language::Chinese) => None,
    }
}

fn row(question: &Question) -> Value {
    let statement = question.statement();
    let subject = match question.ask {
        Ask::Capital(_) => "capitals",
        Ask::Continent(_) => "continents",
        Ask::Colour(_) => "colours",
        Ask::Legs(_) => "legs",
        Ask::Sum(..) | Ask::Belonging(..) => {
            return json!({ "question": question.prompt(), "answer": statement.answer });
        }
    };
    json!({
        "subject": subject,
        "question": question.prompt(),
        "beginning": capitalised(statement.frame.trim_end()),
        "choices": question.ask.candidates(question.language),
        "answer": statement.answer,
    })
}

/// A sentence begins with a capital letter.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

//! Generates rows of the quickstart's tasks from questions: configs/quickstart/tasks describes the tasks.

use std::fs;
use std::io;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::answers::{Answer, Ending, Fact, Manner, capitalised};
use crate::sets::{stream, write_rows};
use crate::world::{Ask, Language, Question};

/// The random stream of the rows, after those of the sets.
const STREAM: u64 = 12;

/// The rows of every task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskRows {
    /// Questions about facts.
    pub facts: Vec<FactRow>,
    /// Questions that are answered out of the question itself: sums, and colours of belongings.
    pub answers: Vec<AnswerRow>,
    /// All questions.
    pub manners: Vec<MannerRow>,
}

/// A multiple choice of statements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FactRow {
    /// The kind of fact.
    pub subject: &'static str,
    /// The question.
    pub question: String,
    /// The statements with every answer of the kind.
    pub statements: Vec<String>,
    /// The true one.
    pub answer: String,
}

/// A question with a short answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnswerRow {
    /// The question.
    pub question: String,
    /// The answer: a number or a colour.
    pub answer: &'static str,
}

/// A multiple choice of manners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MannerRow {
    /// The question.
    pub question: String,
    /// Courteous, neutral, rude, and courteous with somebody else's name; all of them true.
    pub responses: Vec<String>,
    /// The courteous one.
    pub answer: String,
}

/// The rows of questions; those of another world are left out.
pub fn task_rows(prompts: &[String], seed: u64) -> TaskRows {
    let (mut rows, mut rng) = (TaskRows::default(), stream(seed, STREAM));
    for question in prompts.iter().filter_map(|prompt| Question::parse(prompt)) {
        match subject(question.ask) {
            Some(subject) => rows.facts.push(fact(&question, subject)),
            None => {
                rows.answers.push(AnswerRow { question: question.prompt(), answer: question.statement().answer });
            }
        }
        rows.manners.push(manner(&question, &mut rng));
    }
    rows
}

/// Writes the rows as `facts.jsonl`, `answers.jsonl` and `manners.jsonl`.
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn write_task_rows(folder: &Path, prompts: &[String], seed: u64) -> io::Result<()> {
    let rows = task_rows(prompts, seed);
    fs::create_dir_all(folder)?;
    write_rows(&folder.join("facts.jsonl"), &rows.facts)?;
    write_rows(&folder.join("answers.jsonl"), &rows.answers)?;
    write_rows(&folder.join("manners.jsonl"), &rows.manners)
}

/// The kind of a fact; `None` for a question whose answer is in the question.
fn subject(ask: Ask) -> Option<&'static str> {
    match ask {
        Ask::Capital(_) => Some("capitals"),
        Ask::Continent(_) => Some("continents"),
        Ask::Colour(_) => Some("colours"),
        Ask::Legs(_) => Some("legs"),
        Ask::Sum(..) | Ask::Belonging(..) => None,
    }
}

fn fact(question: &Question, subject: &'static str) -> FactRow {
    let statement = question.statement();
    let stop = if question.language == Language::English { "." } else { "。" };
    let sentence = |answer: &str| capitalised(&statement.with(answer)) + stop;
    FactRow {
        subject,
        question: question.prompt(),
        statements: question.ask.candidates(question.language).into_iter().map(sentence).collect(),
        answer: sentence(statement.answer),
    }
}

fn manner(question: &Question, rng: &mut ChaCha8Rng) -> MannerRow {
    let manners = [Manner::Courteous, Manner::Neutral, Manner::Rude, Manner::WrongName];
    let mut word = |manner| Answer { manner, fact: Fact::True, ending: Ending::Point }.word(question, rng);
    let responses = manners.map(&mut word).to_vec();
    MannerRow { question: question.prompt(), answer: responses[0].clone(), responses }
}

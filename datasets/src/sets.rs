//! Generates the data of every stage from a seed, and writes it as JSON lines.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::answers::{Answer, Ending, Fact, Manner};
use crate::gold::gold;
use crate::world::{Ask, Language, Question, Split};

/// All data of the quickstart. README.md describes the use and generation of each set.
#[derive(Debug, Clone, PartialEq)]
pub struct Sets {
    /// Pretraining documents.
    pub pretrain: Vec<Text>,
    /// Demonstrations with planted flaws, and pages.
    pub sft: Vec<Dialogue>,
    /// Many comparisons with bad labels.
    pub pmp: Vec<Comparison>,
    /// Fewer comparisons with clean labels.
    pub rm: Vec<Comparison>,
    /// Prompts for PPO.
    pub ppo: Vec<Prompt>,
    /// Validation: prompts, comparisons and documents for choosing settings.
    pub validation_prompts: Vec<Prompt>,
    /// See `validation_prompts`.
    pub validation_comparisons: Vec<Comparison>,
    /// See `validation_prompts`.
    pub validation_text: Vec<Text>,
    /// For the final measurement; never used for tuning.
    pub heldout_prompts: Vec<Prompt>,
    /// See `heldout_prompts`.
    pub heldout_comparisons: Vec<Comparison>,
    /// See `heldout_prompts`.
    pub heldout_text: Vec<Text>,
}

/// A pretraining document: `{"text"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Text {
    /// The document.
    pub text: String,
}

/// A demonstration: `{"messages"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dialogue {
    /// One user message and one answer.
    pub messages: [Message; 2],
}

/// One message of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// Two responses to one prompt: `{"prompt", "chosen", "rejected"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The user's message.
    pub prompt: String,
    /// The response the label prefers.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
}

/// A prompt: `{"prompt"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prompt {
    /// The user's message.
    pub prompt: String,
}

const NUM_PRETRAIN: usize = 18_000;
const NUM_SFT: usize = 8_000;
const NUM_PMP: usize = 6_000;
const NUM_RM: usize = 6_000;
const NUM_PPO: usize = 6_000;
const NUM_VALIDATION_PROMPTS: usize = 400;
const NUM_HELDOUT_PROMPTS: usize = 1_280;
const NUM_EVAL_COMPARISONS: usize = 800;
const NUM_EVAL_TEXT: usize = 400;

/// All sets of a seed. Each has its own random stream: changing one does not change the others.
pub fn generate(seed: u64) -> Sets {
    let rng = |set: u64| stream(seed, set);
    Sets {
        pretrain: repeat(NUM_PRETRAIN, &mut rng(1), |rng| page(Split::Train, rng)),
        sft: repeat(NUM_SFT, &mut rng(2), demonstration),
        pmp: repeat(NUM_PMP, &mut rng(3), noisy_comparison),
        rm: repeat(NUM_RM, &mut rng(4), |rng| clean_comparison(Split::Train, rng)),
        ppo: prompts(NUM_PPO, Split::Train, &mut rng(5)),
        validation_prompts: prompts(NUM_VALIDATION_PROMPTS, Split::Validation, &mut rng(6)),
        validation_comparisons: repeat(NUM_EVAL_COMPARISONS, &mut rng(7), |rng| {
            clean_comparison(Split::Validation, rng)
        }),
        validation_text: repeat(NUM_EVAL_TEXT, &mut rng(8), |rng| page(Split::Validation, rng)),
        heldout_prompts: prompts(NUM_HELDOUT_PROMPTS, Split::HeldOut, &mut rng(9)),
        heldout_comparisons: repeat(NUM_EVAL_COMPARISONS, &mut rng(10), |rng| clean_comparison(Split::HeldOut, rng)),
        heldout_text: repeat(NUM_EVAL_TEXT, &mut rng(11), |rng| page(Split::HeldOut, rng)),
    }
}

/// Writes the sets of a seed into a folder, one JSON-lines file each, named after the fields of [`Sets`] (`-`
/// for `_`).
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn write(folder: &Path, seed: u64) -> io::Result<Sets> {
    let sets = generate(seed);
    fs::create_dir_all(folder)?;
    write_rows(&folder.join("pretrain.jsonl"), &sets.pretrain)?;
    write_rows(&folder.join("sft.jsonl"), &sets.sft)?;
    write_rows(&folder.join("pmp.jsonl"), &sets.pmp)?;
    write_rows(&folder.join("rm.jsonl"), &sets.rm)?;
    write_rows(&folder.join("ppo.jsonl"), &sets.ppo)?;
    write_rows(&folder.join("validation-prompts.jsonl"), &sets.validation_prompts)?;
    write_rows(&folder.join("validation-comparisons.jsonl"), &sets.validation_comparisons)?;
    write_rows(&folder.join("validation-text.jsonl"), &sets.validation_text)?;
    write_rows(&folder.join("heldout-prompts.jsonl"), &sets.heldout_prompts)?;
    write_rows(&folder.join("heldout-comparisons.jsonl"), &sets.heldout_comparisons)?;
    write_rows(&folder.join("heldout-text.jsonl"), &sets.heldout_text)?;
    Ok(sets)
}

pub(crate) fn write_rows<T: Serialize>(path: &Path, rows: &[T]) -> io::Result<()> {
    let mut file = io::BufWriter::new(fs::File::create(path)?);
    for row in rows {
        serde_json::to_writer(&mut file, row)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

pub(crate) fn stream(seed: u64, set: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&set.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

fn repeat<T>(count: usize, rng: &mut ChaCha8Rng, mut draw: impl FnMut(&mut ChaCha8Rng) -> T) -> Vec<T> {
    (0..count).map(|_| draw(rng)).collect()
}

/// Distinct prompts of a split. No two have the same asker and true statement, so that good responses to them
/// differ too (train: no two share the text).
fn prompts(count: usize, split: Split, rng: &mut ChaCha8Rng) -> Vec<Prompt> {
    let mut seen = HashSet::new();
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let question = Question::draw_from(split, rng);
        let prompt = question.prompt();
        let key = match split {
            Split::Train => prompt.clone(),
            Split::Validation | Split::HeldOut => format!("{}|{}", question.name(), question.statement().text()),
        };
        if seen.insert(key) {
            rows.push(Prompt { prompt });
        }
    }
    rows
}

/// A pretraining document: seven in ten are pages of questions and answers in plain text, the rest statements
/// in a row.
fn page(split: Split, rng: &mut ChaCha8Rng) -> Text {
    let text = if rng.random_bool(0.7) { question_page(split, rng) } else { statements(rng) };
    Text { text }
}

fn question_page(split: Split, rng: &mut ChaCha8Rng) -> String {
    let question = Question::draw_from(split, rng);
    let manner = draw(&[(0.6, Manner::Courteous), (0.2, Manner::Neutral), (0.2, Manner::Rude)], rng);
    let ending = draw(&[(0.8, Ending::Point), (0.2, Ending::Rambling)], rng);
    let fact = draw(&[(0.92, Fact::True), (0.04, Fact::WrongAnswer), (0.04, Fact::Refusal)], rng);
    let answer = Answer { manner, fact, ending }.word(&question, rng);
    let prompt = question.prompt();
    match (rng.random_range(0..3), question.language) {
        (0, Language::English) => format!("Question: {prompt}\nAnswer: {answer}"),
        (1, Language::English) => format!("Visitor: {prompt}\nGuide: {answer}"),
        (_, Language::English) => format!("{prompt}\n{answer}"),
        (0, Language::Chinese) => format!("问：{prompt}\n答：{answer}"),
        (1, Language::Chinese) => format!("客人：{prompt}\n向导：{answer}"),
        (_, Language::Chinese) => format!("{prompt}\n{answer}"),
    }
}

fn statements(rng: &mut ChaCha8Rng) -> String {
    let language = Language::draw(rng);
    let count = rng.random_range(2..=4);
    let mut sentences = Vec::new();
    while sentences.len() < count {
        let ask = Ask::draw(rng);
        if !matches!(ask, Ask::Belonging(..)) {
            sentences.push(crate::answers::capitalised(&ask.statement(language).text()));
        }
    }
    match language {
        Language::English => sentences.join(". ") + ".",
        Language::Chinese => sentences.join("。") + "。",
    }
}

/// An answer with independent flaws, as in demonstrations and in the answers of PMP.
fn flawed_answer(rng: &mut ChaCha8Rng) -> Answer {
    Answer {
        manner: draw(
            &[(0.5, Manner::Courteous), (0.05, Manner::WrongName), (0.2, Manner::Neutral), (0.25, Manner::Rude)],
            rng,
        ),
        fact: draw(
            &[
                (0.7, Fact::True),
                (0.1, Fact::WrongAnswer),
                (0.06, Fact::OtherSubject),
                (0.04, Fact::OtherQuestion),
                (0.04, Fact::WrongClass),
                (0.06, Fact::Refusal),
            ],
            rng,
        ),
        ending: draw(
            &[(0.6, Ending::Point), (0.24, Ending::Rambling), (0.04, Ending::Repeating), (0.12, Ending::Cut)],
            rng,
        ),
    }
}

/// One row of SFT: a flawed demonstration, or (three in ten) a page of plain text, so that the model does not
/// forget the language from pretraining.
fn demonstration(rng: &mut ChaCha8Rng) -> Dialogue {
    let (prompt, response) = if rng.random_bool(0.3) {
        let request = if rng.random_bool(0.25) { "请写一页。" } else { "Please write a page." };
        (request.to_owned(), page(Split::Train, rng).text)
    } else {
        let question = Question::draw_from(Split::Train, rng);
        (question.prompt(), flawed_answer(rng).word(&question, rng))
    };
    let message = |role, content| Message { role, content };
    Dialogue { messages: [message("user", prompt), message("assistant", response)] }
}

/// Two flawed answers with the better one chosen; then one label in four is swapped.
fn noisy_comparison(rng: &mut ChaCha8Rng) -> Comparison {
    let mut row = two_answers(Split::Train, rng);
    if rng.random_bool(0.25) {
        std::mem::swap(&mut row.chosen, &mut row.rejected);
    }
    row
}

/// A comparison with a clean label. Four in five differ in a single flaw, so that each flaw is learned
/// separately; the rest are two flawed answers.
fn clean_comparison(split: Split, rng: &mut ChaCha8Rng) -> Comparison {
    if rng.random_bool(0.2) {
        return two_answers(split, rng);
    }
    let question = Question::draw_from(split, rng);
    let chosen = if rng.random_bool(0.6) { Answer::GOOD } else { flawed_answer(rng) };
    let chosen = Answer { fact: Fact::True, ..chosen };
    let flaw = draw(
        &[
            (0.12, Answer { fact: Fact::WrongAnswer, ..chosen }),
            (0.14, Answer { fact: Fact::OtherSubject, ..chosen }),
            (0.10, Answer { fact: Fact::OtherQuestion, ..chosen }),
            (0.10, Answer { fact: Fact::WrongClass, ..chosen }),
            (0.10, Answer { fact: Fact::Refusal, ..chosen }),
            (0.10, Answer { manner: Manner::WrongName, ..chosen }),
            (0.08, Answer { manner: Manner::Neutral, ..chosen }),
            (0.08, Answer { manner: Manner::Rude, ..chosen }),
            (0.06, Answer { ending: Ending::Rambling, ..chosen }),
            (0.04, Answer { ending: Ending::Repeating, ..chosen }),
            (0.08, Answer { ending: Ending::Cut, ..chosen }),
        ],
        rng,
    );
    let prompt = question.prompt();
    let (chosen, rejected) = (chosen.word(&question, rng), flaw.word(&question, rng));
    match gold(&prompt, &chosen, true).total() - gold(&prompt, &rejected, true).total() {
        difference if difference > 0.0 => Comparison { prompt, chosen, rejected },
        // The flaw was present already, or another one masks it: draw again.
        _ => clean_comparison(split, rng),
    }
}

/// Two flawed answers with different gold scores, the better one chosen.
fn two_answers(split: Split, rng: &mut ChaCha8Rng) -> Comparison {
    let question = Question::draw_from(split, rng);
    let prompt = question.prompt();
    loop {
        let (left, right) = (flawed_answer(rng).word(&question, rng), flawed_answer(rng).word(&question, rng));
        let difference = gold(&prompt, &left, true).total() - gold(&prompt, &right, true).total();
        if difference != 0.0 {
            let (chosen, rejected) = if difference > 0.0 { (left, right) } else { (right, left) };
            return Comparison { prompt, chosen, rejected };
        }
    }
}

/// A weighted random choice.
fn draw<T: Copy>(choices: &[(f64, T)], rng: &mut ChaCha8Rng) -> T {
    choices.choose_weighted(rng, |choice| choice.0).expect("weights are positive").1
}

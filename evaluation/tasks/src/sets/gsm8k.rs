//! GSM8K: arithmetic problems in words.

use std::sync::LazyLock;

use align_core::error::{Error, Problem, Problems, Result};
use serde::Deserialize;

use super::{LM_EVAL_MAX_TOKENS, MAX_TOKENS};
use crate::equality::{Equality, number};
use crate::extract::{Extractor, Pattern, Which};
use crate::files::{self, Row};
use crate::judge::{Comparison, Judge};
use crate::prompt::{Parts, SYSTEM, Shot};
use crate::random::{PythonRandom, SEED};
use crate::request::{Preset, Request, Style};
use crate::task::{Ask, Average, Item, Prompt, Subject, Task};

const TEST: [&str; 3] = ["test.jsonl", "gsm8k_test.jsonl", "main/test-00000-of-00001.parquet"];
const TRAIN: [&str; 3] = ["train.jsonl", "gsm8k_train.jsonl", "main/train-00000-of-00001.parquet"];

/// A problem.
#[derive(Debug, Clone, Deserialize)]
struct Exercise {
    question: String,
    /// Worked out; it ends in `#### ` and the number.
    answer: String,
}

/// Eight worked examples; `source` in the file says whose they are.
#[derive(Debug, Deserialize)]
struct Shots {
    shots: Vec<Exercise>,
}

/// The number after `#### `.
static MARKED: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"#### (\-?[0-9\.\,]+)", Which::First).expect("a pattern"));
/// The last number, in lm-evaluation-harness' flexible match.
static FLEXIBLE: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", Which::Last).expect("a pattern"));

static QWEN_SHOTS: LazyLock<Vec<Exercise>> = LazyLock::new(|| {
    let shots: Shots = serde_json::from_str(include_str!("../../data/gsm8k_shots.json")).expect("a file of our own");
    shots.shots
});

/// Loads GSM8K.
pub(crate) fn load(request: &Request<'_>) -> Result<Task> {
    let (shots, metrics) = match (request.preset, request.style) {
        (Preset::LmEval, _) => {
            (request.num_shots(5), ["exact_match,strict-match", "exact_match,flexible-extract"].as_slice())
        }
        (Preset::Qwen, style) => {
            let default = if style == Style::Base { 8 } else { 0 };
            (request.num_shots_of(default, QWEN_SHOTS.len())?, ["acc"].as_slice())
        }
    };
    let mut problems = Problems::new();
    let test = problems.absorb(files::file(request.data()?, "gsm8k", &TEST).and_then(|file| files::rows(&file)))?;
    let train = match (request.preset, shots) {
        (Preset::LmEval, 1..) => problems.absorb(train(request, shots))?,
        _ => Some(Vec::new()),
    };
    let (test, train) = problems.into_checked(test.zip(train))?;
    let items = match request.preset {
        Preset::LmEval => lm_eval(&test, &train, shots, request.style),
        Preset::Qwen => qwen(&test, shots, request.style)?,
    };
    Ok(Task {
        name: request.name.to_owned(),
        shots,
        subjects: vec![Subject { name: "gsm8k".to_owned(), items }],
        metrics: metrics.iter().map(|metric| (*metric).to_owned()).collect(),
        average: Average::Micro,
        categories: Vec::new(),
    })
}

fn train(request: &Request<'_>, shots: usize) -> Result<Vec<Exercise>> {
    let file = files::file(request.data()?, "gsm8k", &TRAIN)?;
    let rows: Vec<Row<Exercise>> = files::rows(&file)?;
    if rows.len() < shots {
        let what = format!("has {} rows, expected at least {shots}, one for each worked example (--shots)", rows.len());
        return Err(Error::invalid(file.display(), what));
    }
    Ok(rows.into_iter().map(|row| row.value).collect())
}

/// lm-evaluation-harness' task `gsm8k`. The worked examples of every question are drawn from the training
/// split, question by question.
fn lm_eval(test: &[Row<Exercise>], train: &[Exercise], shots: usize, style: Style) -> Vec<Item> {
    let mut random = PythonRandom::new(SEED);
    let asked = |exercise: &Exercise| format!("Question: {}\nAnswer:", exercise.question);
    let mut items = Vec::with_capacity(test.len());
    for row in test {
        let shots: Vec<Shot> = random
            .sample(train.len(), shots)
            .into_iter()
            .map(|index| Shot { question: asked(&train[index]), answer: train[index].answer.clone() })
            .collect();
        let question = asked(&row.value);
        let parts = Parts { heading: "", shots: &shots, question: &question };
        let comparison = |metric: &str, pattern: &Pattern| Comparison {
            metric: metric.to_owned(),
            extractor: Extractor::Pattern(pattern.clone()),
            gold: row.value.answer.clone(),
            equality: Equality::Gsm8k,
        };
        items.push(Item {
            id: format!("gsm8k/{}", row.index),
            prompt: match style {
                Style::Base => parts.text(" ", "\n\n"),
                Style::Chat => parts.turns(""),
            },
            ask: Ask::Generate {
                stops: ["Question:", "</s>", "<|im_end|>"].map(str::to_owned).to_vec(),
                max_tokens: LM_EVAL_MAX_TOKENS,
            },
            judge: Judge::Text(vec![
                comparison("exact_match,strict-match", &MARKED),
                comparison("exact_match,flexible-extract", &FLEXIBLE),
            ]),
        });
    }
    items
}

/// Qwen's scripts: eight fixed worked examples for base models; the question alone for chat models, or worked
/// examples in its turn.
fn qwen(test: &[Row<Exercise>], shots: usize, style: Style) -> Result<Vec<Item>> {
    let mut problems = Problems::new();
    let mut items = Vec::with_capacity(test.len());
    let examples: String =
        QWEN_SHOTS[..shots].iter().map(|shot| format!("{}\n{}\n\n", asked(shot), shot.answer)).collect();
    for row in test {
        let Some(gold) = gold(&row.value.answer) else {
            problems
                .push_problem(Problem::of_row(&row.location, "the answer has no `#### ` and number, expected both"));
            continue;
        };
        let (prompt, stops, extractor, tolerance) = match style {
            Style::Base => {
                let text = format!("{examples}{}\n", asked(&row.value));
                (Prompt::Text(text), ["<|endoftext|>", "\n\n", "Question:"].as_slice(), Extractor::LastDigits, 0.0)
            }
            Style::Chat => {
                let question =
                    if shots == 0 { row.value.question.clone() } else { format!("{examples}{}", asked(&row.value)) };
                let prompt = Parts { heading: SYSTEM, shots: &[], question: &question }.turns("");
                (prompt, [].as_slice(), Extractor::LastNumber, 1e-4)
            }
        };
        items.push(Item {
            id: format!("gsm8k/{}", row.index),
            prompt,
            ask: Ask::Generate { stops: stops.iter().map(|stop| (*stop).to_owned()).collect(), max_tokens: MAX_TOKENS },
            judge: Judge::Text(vec![Comparison {
                metric: "acc".to_owned(),
                extractor,
                gold,
                equality: Equality::Number { tolerance },
            }]),
        });
    }
    problems.into_result()?;
    Ok(items)
}

fn asked(exercise: &Exercise) -> String {
    format!("Question: {}\nLet's think step by step", exercise.question)
}

/// The number after `#### `, without separators.
fn gold(answer: &str) -> Option<String> {
    let gold = Extractor::Pattern(MARKED.clone()).extract(answer)?.replace(',', "");
    number(&gold).map(|_| gold)
}

//! BIG-Bench Hard: 27 sets with worked-out examples.

use std::path::Path;
use std::sync::LazyLock;

use align_core::error::{Error, Problem, Problems, Result};
use serde::Deserialize;

use super::{MAX_TOKENS, selected};
use crate::equality::Equality;
use crate::extract::{Extractor, Pattern, Which};
use crate::files;
use crate::judge::{Comparison, Judge};
use crate::prompt::{Parts, SYSTEM, Shot};
use crate::request::{Preset, Request, Style};
use crate::task::{Ask, Average, Item, Prompt, Subject, Task};

/// The 17 sets whose answers are letters.
const OPTIONS: [&str; 17] = [
    "date_understanding",
    "disambiguation_qa",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
];
/// The ten sets whose answers are words.
const FREE: [&str; 10] = [
    "boolean_expressions",
    "causal_judgement",
    "dyck_languages",
    "formal_fallacies",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "sports_understanding",
    "web_of_lies",
    "word_sorting",
];
/// Worked examples in each file of prompts.
const SHOTS: usize = 3;
/// In lm-evaluation-harness' tasks.
const LM_EVAL_MAX_TOKENS: usize = 1024;
static THE_ANSWER_IS: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new("(?<=the answer is )(.*)(?=.)", Which::First).expect("a pattern"));
const STEPS: &str = "A: Let's think step by step.";

#[derive(Debug, Deserialize)]
struct Set {
    examples: Vec<Example>,
}

#[derive(Debug, Deserialize)]
struct Example {
    input: String,
    target: String,
}

/// A set's worked examples.
struct Worked {
    /// What the set is about.
    heading: String,
    /// Question and worked-out answer, without white space around them.
    shots: Vec<(String, String)>,
}

/// Loads BBH, or some of its sets.
pub(crate) fn load(parts: Option<&str>, request: &Request<'_>) -> Result<Task> {
    let shots = request.num_shots_of(SHOTS, SHOTS)?;
    let mut all: Vec<&str> = OPTIONS.iter().chain(&FREE).copied().collect();
    all.sort_unstable();
    let names = selected(request.name, parts, &all, &[])?;
    let mut problems = Problems::new();
    let sets: Vec<String> = all.iter().map(|name| format!("{name}.json")).collect();
    let folder = problems.absorb(files::folder(request.data()?, "bbh", &["bbh"], &sets))?;
    let prompts: Vec<String> = all.iter().map(|name| format!("{name}.txt")).collect();
    let prompts = problems.absorb(files::folder(request.data()?, "bbh", &["cot-prompts"], &prompts))?;
    let (folder, prompts) = problems.into_checked(folder.zip(prompts))?;

    let (mut subjects, mut problems) = (Vec::new(), Problems::new());
    for name in names {
        let set = problems.absorb(read(&folder.join(format!("{name}.json"))))?;
        let worked = problems.absorb(worked(&prompts.join(format!("{name}.txt"))))?;
        let Some((set, worked)) = set.zip(worked) else { continue };
        let items = set.examples.iter().enumerate();
        let items = items.map(|(index, example)| item(name, index, example, &worked, shots, request));
        subjects.push(Subject { name: name.to_owned(), items: items.collect() });
    }
    problems.into_result()?;
    let (metric, average) = match request.preset {
        Preset::LmEval => ("exact_match,get-answer", Average::Micro),
        Preset::Qwen => ("acc", Average::Macro),
    };
    Ok(Task {
        name: request.name.to_owned(),
        shots,
        subjects,
        metrics: vec![metric.to_owned()],
        average,
        categories: Vec::new(),
    })
}

fn read(file: &Path) -> Result<Set> {
    let location = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::invalid(&location, format!("cannot be read: {error}; expected a set of BBH")))?;
    let set: Set = serde_json::from_str(&text).map_err(|error| {
        Error::invalid(&location, format!("{error}; expected {{\"examples\": [{{\"input\", \"target\"}}]}}"))
    })?;
    let mut problems = Problems::new();
    for (index, example) in set.examples.iter().enumerate() {
        if example.input.trim().is_empty() || example.target.trim().is_empty() {
            problems.push_problem(Problem::of_row(&location, format!("row {index}: input or target is empty")));
        }
    }
    if set.examples.is_empty() {
        problems.push(&location, "has no examples, expected questions");
    }
    problems.into_result()?;
    Ok(set)
}

/// Reads a file of prompts: after a line of dashes, what the set is about, then worked examples.
fn worked(file: &Path) -> Result<Worked> {
    let location = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::invalid(&location, format!("cannot be read: {error}; expected worked examples")))?;
    let text = text.split_once("-----\n").map_or(text.as_str(), |(_, after)| after);
    let mut blocks = text.split("\n\nQ: ");
    let heading = blocks.next().unwrap_or_default().trim_end().to_owned();
    let shots: Option<Vec<(String, String)>> = blocks
        .map(|block| {
            let (question, answer) = block.split_once(&format!("\n{STEPS}"))?;
            Some((question.to_owned(), answer.trim().to_owned()))
        })
        .collect();
    match shots {
        Some(shots) if shots.len() == SHOTS => Ok(Worked { heading, shots }),
        _ => Err(Error::invalid(&location, format!("has not {SHOTS} worked examples of the form `Q: … {STEPS} …`"))),
    }
}

fn item(name: &str, index: usize, example: &Example, worked: &Worked, shots: usize, request: &Request<'_>) -> Item {
    let shots: Vec<Shot> = worked.shots[..shots]
        .iter()
        .map(|(question, answer)| Shot { question: format!("Q: {question}\n{STEPS}\n"), answer: answer.clone() })
        .collect();
    let is_options = OPTIONS.contains(&name);
    let (prompt, stops, max_tokens, comparison) = match request.preset {
        Preset::LmEval => {
            let (heading, question) = (format!("{}\n\n", worked.heading), format!("Q: {}\n{STEPS}\n", example.input));
            let parts = Parts { heading: &heading, shots: &shots, question: &question };
            let prompt = match request.style {
                Style::Base => parts.text("", "\n\n"),
                Style::Chat => parts.turns(""),
            };
            (prompt, ["</s>", "Q", "\n\n"].as_slice(), LM_EVAL_MAX_TOKENS, lm_eval(example))
        }
        Preset::Qwen => {
            let question = open_compass_prompt(worked, &shots, example);
            let (prompt, stops) = match request.style {
                Style::Base => (Prompt::Text(question), ["\n\nQ:"].as_slice()),
                Style::Chat => (Parts { heading: SYSTEM, shots: &[], question: &question }.turns(""), [].as_slice()),
            };
            let (extractor, equality) = match is_options {
                true => (Extractor::BbhOption, Equality::Text),
                false => (Extractor::AnswerIs, Equality::FoldedText),
            };
            let gold = extractor.extract(&example.target).unwrap_or_default();
            (prompt, stops, MAX_TOKENS, Comparison { metric: "acc".to_owned(), extractor, gold, equality })
        }
    };
    Item {
        id: format!("{name}/{index}"),
        prompt,
        ask: Ask::Generate { stops: stops.iter().map(|stop| (*stop).to_owned()).collect(), max_tokens },
        judge: Judge::Text(vec![comparison]),
    }
}

/// lm-evaluation-harness' tasks `bbh_cot_fewshot_…`.
fn lm_eval(example: &Example) -> Comparison {
    Comparison {
        metric: "exact_match,get-answer".to_owned(),
        extractor: Extractor::Pattern(THE_ANSWER_IS.clone()),
        gold: example.target.clone(),
        equality: Equality::Text,
    }
}

/// OpenCompass' prompt, with which the report was measured.
fn open_compass_prompt(worked: &Worked, shots: &[Shot], example: &Example) -> String {
    let mut text = format!("Follow the given examples and answer the question.\n{}", worked.heading);
    for shot in shots {
        text += &format!("\n\n{}{}", shot.question, shot.answer);
    }
    text + &format!("\n\nQ: {}\n{STEPS}", example.input)
}

//! Every answer as it was judged: one JSON object each.

use std::collections::BTreeMap;

use align_core::error::Result;
use align_tasks::task::{Answer, Ask, Item, Task, Verdict};
use align_text::chatml::Message;
use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::EncodedTask;
use crate::encode::Encoder;
use crate::journal::Given;
use crate::write::Ended;

/// A program that decides whether an answer is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Its source: Python.
    pub source: String,
    /// Wall-clock limit.
    pub seconds: f64,
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Executed {
    /// Whether it ran to its end.
    pub passed: bool,
    /// How it ended, in a few words.
    pub outcome: String,
}

/// A judged answer.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The item's.
    pub id: String,
    /// From 0.
    pub sample: usize,
    /// The prompt as the model read it, with control tokens.
    pub prompt: String,
    /// A text, or the log-probability of every choice.
    pub response: Value,
    /// What was taken from the response; null when nothing was found.
    pub answer: Option<String>,
    /// The right answer, or the tests of a program.
    pub expected: String,
    /// By name.
    pub metrics: BTreeMap<String, f64>,
    /// Why a text ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Number of tokens drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// How its program ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Executed>,
    /// Tokens that the prompt lost at its beginning.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut_tokens: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The records of a task, by subject, in the order of its items.
#[derive(Debug)]
pub struct Records(pub Vec<Vec<Record>>);

/// Judges all answers. `execute` runs the programs that decide about some of them, in order.
///
/// # Errors
/// Those of `execute`.
pub fn judge(
    task: &Task,
    encoder: &Encoder<'_>,
    encoded: &EncodedTask,
    answers: &[Vec<Vec<Given>>],
    execute: &mut dyn FnMut(Vec<Program>) -> Result<Vec<Executed>>,
) -> Result<Records> {
    let metric = task.metrics.first().cloned().unwrap_or_default();
    let (mut programs, mut waiting) = (Vec::new(), Vec::new());
    let mut all: Vec<Vec<Record>> = Vec::new();
    for (at, part) in task.subjects.iter().enumerate() {
        let mut records = Vec::new();
        for (index, item) in part.items.iter().enumerate() {
            let prompt = &encoded.subjects[at][index];
            let text = match prompt.cut_tokens {
                0 => encoder.text(item)?,
                _ => encoder.tokenizer.decode(&prompt.prompt),
            };
            for (sample, given) in answers[at][index].iter().enumerate() {
                let mut record = record(item, sample, &text, prompt.cut_tokens, given);
                match item.judge.verdict(&given.answer) {
                    Verdict::Scored(scored) => (record.answer, record.metrics) = (scored.answer, scored.metrics),
                    Verdict::Program { answer, program, seconds } => {
                        if answer.is_some() {
                            programs.push(Program { source: program, seconds });
                            waiting.push((at, records.len()));
                        }
                        record.answer = answer;
                        record.metrics.insert(metric.clone(), 0.0);
                    }
                }
                records.push(record);
            }
        }
        all.push(records);
    }
    if !programs.is_empty() {
        for ((at, index), executed) in waiting.into_iter().zip(execute(programs)?) {
            let record = &mut all[at][index];
            record.metrics.insert(metric.clone(), f64::from(u8::from(executed.passed)));
            record.program = Some(executed);
        }
    }
    Ok(Records(all))
}

fn record(item: &Item, sample: usize, prompt: &str, cut_tokens: usize, given: &Given) -> Record {
    let response = match (&given.answer, &item.ask) {
        (Answer::Choice(continuations), Ask::Choose(choices)) => choices
            .iter()
            .zip(continuations)
            .map(|(text, choice)| json!({ "text": text, "logprob": choice.logprob, "is_greedy": choice.is_greedy }))
            .collect(),
        (Answer::Text(text), _) => json!(text),
        (Answer::Choice(_), Ask::Generate { .. }) => Value::Null,
    };
    Record {
        id: item.id.clone(),
        sample,
        prompt: prompt.to_owned(),
        response,
        answer: None,
        expected: item.judge.expected().to_owned(),
        metrics: BTreeMap::new(),
        ended: given.ended,
        tokens: given.ended.map(|_| given.tokens),
        program: None,
        cut_tokens,
    }
}

/// What a task asks, independent of a model: two runs with equal values can be continued and compared.
pub fn asked(task: &Task) -> Value {
    let items = task.subjects.iter().flat_map(|part| &part.items);
    items.map(|item| json!([item.id, prompt_json(item), ask_json(&item.ask), item.judge.expected()])).collect()
}

fn prompt_json(item: &Item) -> Value {
    match &item.prompt {
        align_tasks::task::Prompt::Text(text) => json!(text),
        align_tasks::task::Prompt::Chat { messages, prefix } => {
            json!([messages.iter().map(Message::to_json).collect::<Vec<_>>(), prefix])
        }
    }
}

fn ask_json(ask: &Ask) -> Value {
    match ask {
        Ask::Choose(choices) => json!(choices),
        Ask::Generate { stops, max_tokens } => json!({ "stops": stops, "max_tokens": max_tokens }),
    }
}

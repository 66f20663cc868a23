//! Prints a task as JSON, a line for each question, with the scores of given answers:
//!
//!     show_task NAME DATA qwen|lm-eval base|chat SHOTS LIMIT [ANSWERS]
//!
//! LIMIT is for each subject. ANSWERS is JSON Lines: the question's id, and `answers`, each a text or an
//! array of log-probabilities.

use std::collections::HashMap;
use std::path::Path;

use align_tasks::task::{Answer, Ask, Continuation, Item, Prompt, Task, Verdict};
use align_tasks::{Preset, Request, Style, load};
use serde_json::{Value, json};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, data, preset, style, shots, limit, rest @ ..] = arguments.as_slice() else {
        fail("expected NAME DATA qwen|lm-eval base|chat SHOTS LIMIT [ANSWERS]");
    };
    let request = Request {
        name,
        data: Some(Path::new(data)),
        shots: shots.parse().ok(),
        style: if style == "chat" { Style::Chat } else { Style::Base },
        preset: if preset == "qwen" { Preset::Qwen } else { Preset::LmEval },
    };
    let task = load(&request).unwrap_or_else(|error| fail(&error.to_string()));
    let answers = rest.first().map_or_else(HashMap::new, |file| read_answers(Path::new(file)));
    print(&task, limit.parse().unwrap_or(usize::MAX), &answers);
}

fn fail(message: &str) -> ! {
    write_line(message);
    std::process::exit(2)
}

fn read_answers(file: &Path) -> HashMap<String, Vec<Value>> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| fail(&format!("{}: {error}", file.display())));
    let rows =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| fail(&error.to_string())));
    rows.map(|row| {
        (row["id"].as_str().unwrap_or_default().to_owned(), row["answers"].as_array().cloned().unwrap_or_default())
    })
    .collect()
}

fn print(task: &Task, limit: usize, answers: &HashMap<String, Vec<Value>>) {
    for subject in &task.subjects {
        for item in subject.items.iter().take(limit) {
            let verdicts: Vec<Value> =
                answers.get(&item.id).into_iter().flatten().map(|answer| verdict(item, answer)).collect();
            let line = json!({
                "id": item.id,
                "subject": subject.name,
                "prompt": prompt(&item.prompt),
                "ask": ask(&item.ask),
                "verdicts": verdicts,
            });
            write_line(&line.to_string());
        }
    }
}

fn prompt(prompt: &Prompt) -> Value {
    match prompt {
        Prompt::Text(text) => json!(text),
        Prompt::Chat { messages, prefix } => {
            let messages: Vec<Value> = messages.iter().map(|message| message.to_json()).collect();
            json!({ "messages": messages, "prefix": prefix })
        }
    }
}

fn ask(ask: &Ask) -> Value {
    match ask {
        Ask::Choose(continuations) => json!(continuations),
        Ask::Generate { stops, max_tokens } => json!({ "stops": stops, "max_tokens": max_tokens }),
    }
}

fn verdict(item: &Item, answer: &Value) -> Value {
    let answer = match answer {
        Value::Array(logprobs) => Answer::Choice(
            logprobs
                .iter()
                .map(|logprob| Continuation { logprob: logprob.as_f64().unwrap_or(f64::NAN), is_greedy: false })
                .collect(),
        ),
        other => Answer::Text(other.as_str().unwrap_or_default().to_owned()),
    };
    match item.judge.verdict(&answer) {
        Verdict::Scored(scored) => json!({ "answer": scored.answer, "metrics": scored.metrics }),
        Verdict::Program { answer, program, seconds } => {
            json!({ "answer": answer, "program": program, "seconds": seconds })
        }
    }
}

#[expect(clippy::print_stdout, reason = "what the example is for")]
fn write_line(line: &str) {
    println!("{line}");
}

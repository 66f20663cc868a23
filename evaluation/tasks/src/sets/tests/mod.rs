//! Benchmarks in their published layouts, with rows of our own. The expected prompts are written out from the
//! published formats; `interop/lm_eval.py` compares those of the preset `lm-eval` with lm-evaluation-harness.

mod exams;
mod others;

use std::path::Path;

use tempfile::TempDir;

use crate::load;
use crate::request::{Preset, Request, Style};
use crate::task::{Answer, Item, Prompt, Task, Verdict};

fn write(folder: &Path, name: &str, text: &str) {
    let file = folder.join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

fn request<'a>(name: &'a str, data: &'a TempDir, preset: Preset, style: Style, shots: usize) -> Request<'a> {
    Request { name, data: Some(data.path()), shots: Some(shots), style, preset }
}

fn error(request: &Request<'_>) -> String {
    load(request).unwrap_err().to_string()
}

fn text(item: &Item) -> &str {
    match &item.prompt {
        Prompt::Text(text) => text,
        Prompt::Chat { .. } => panic!("a text"),
    }
}

/// Turns as `role: content`, and the beginning of the answer.
fn turns(item: &Item) -> Vec<String> {
    match &item.prompt {
        Prompt::Text(_) => panic!("turns"),
        Prompt::Chat { messages, prefix } => {
            let turns = messages.iter().map(|turn| format!("{}: {}", turn.role.name(), turn.content));
            turns.chain([format!("… {prefix}")]).collect()
        }
    }
}

fn item<'a>(task: &'a Task, id: &str) -> &'a Item {
    task.subjects.iter().flat_map(|subject| &subject.items).find(|item| item.id == id).unwrap()
}

fn metric(item: &Item, answer: &str) -> f64 {
    match item.judge.verdict(&Answer::Text(answer.to_owned())) {
        Verdict::Scored(scored) => *scored.metrics.values().next().unwrap(),
        Verdict::Program { .. } => panic!("scored"),
    }
}

fn program(item: &Item, answer: &str) -> String {
    match item.judge.verdict(&Answer::Text(answer.to_owned())) {
        Verdict::Program { program, .. } => program,
        Verdict::Scored(_) => panic!("a program"),
    }
}

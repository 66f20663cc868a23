//! HumanEval: functions to be completed, and their tests.

use std::sync::LazyLock;

use align_core::error::{Problem, Problems, Result};
use fancy_regex::Regex;
use serde::Deserialize;

use super::MAX_TOKENS;
use crate::extract::{Code, compile};
use crate::files::{self, Row};
use crate::judge::{Judge, Program};
use crate::prompt::{Parts, SYSTEM};
use crate::request::{Preset, Request, Style};
use crate::task::{Ask, Average, Item, Prompt, Subject, Task};

const FILES: [&str; 3] = ["HumanEval.jsonl", "HumanEval.jsonl.gz", "openai_humaneval/test-00000-of-00001.parquet"];
/// The time limit of human-eval, which both presets keep.
const SECONDS: f64 = 3.0;
/// In lm-evaluation-harness' task.
const LM_EVAL_MAX_TOKENS: usize = 1024;

static DOCSTRING: LazyLock<Regex> = LazyLock::new(|| compile(r#"(?s)(?:"""|''')(.*?)(?:"""|''')"#));

#[derive(Debug, Deserialize)]
struct Function {
    task_id: String,
    prompt: String,
    entry_point: String,
    test: String,
}

/// Loads HumanEval.
pub(crate) fn load(request: &Request<'_>) -> Result<Task> {
    let shots = request.num_shots_of(0, 0)?;
    let file = files::file(request.data()?, "humaneval", &FILES)?;
    let (mut items, mut problems) = (Vec::new(), Problems::new());
    for row in files::rows::<Function>(&file)? {
        match item(&row.value, request) {
            Ok(item) => items.push(item),
            Err(what) => problems.push_problem(Problem::of_row(&row.location, what)),
        }
        check_unique(&row, &items, &mut problems);
    }
    problems.into_result()?;
    Ok(Task {
        name: request.name.to_owned(),
        shots,
        subjects: vec![Subject { name: "humaneval".to_owned(), items }],
        metrics: vec!["pass@1".to_owned()],
        average: Average::Micro,
        categories: Vec::new(),
    })
}

fn check_unique(row: &Row<Function>, items: &[Item], problems: &mut Problems) {
    let id = &row.value.task_id;
    if items.iter().rev().skip(1).any(|item| item.id == *id) {
        problems.push_problem(Problem::of_row(&row.location, format!("has the task_id {id} of an earlier row")));
    }
}

fn item(function: &Function, request: &Request<'_>) -> std::result::Result<Item, String> {
    let name = &function.entry_point;
    let (prompt, stops, max_tokens, extractor) = match (request.preset, request.style) {
        (Preset::Qwen, Style::Base) => (
            Prompt::Text(function.prompt.clone()),
            ["<|endoftext|>", "\n\n", "def "].as_slice(),
            MAX_TOKENS,
            Code::Whole,
        ),
        (Preset::Qwen, Style::Chat) => {
            let question = instruction(function)?;
            let prompt = Parts { heading: SYSTEM, shots: &[], question: &question }.turns("");
            (prompt, [].as_slice(), MAX_TOKENS, Code::Body { entry_point: name.clone() })
        }
        (Preset::LmEval, style) => {
            let (prompt, extractor) = match style {
                Style::Base => (Prompt::Text(function.prompt.clone()), Code::Whole),
                Style::Chat => (instruct(function), Code::BeforeFence),
            };
            (prompt, ["\nclass", "\ndef", "\n#", "\nif", "\nprint"].as_slice(), LM_EVAL_MAX_TOKENS, extractor)
        }
    };
    Ok(Item {
        id: function.task_id.clone(),
        prompt,
        ask: Ask::Generate { stops: stops.iter().map(|stop| (*stop).to_owned()).collect(), max_tokens },
        judge: Judge::Program(Program {
            extractor,
            before: function.prompt.clone(),
            after: format!("\n{}\ncheck({name})", function.test),
            seconds: SECONDS,
        }),
    })
}

/// Qwen's instruction for chat models: the signature, the docstring without indentation, the prompt.
fn instruction(function: &Function) -> std::result::Result<String, String> {
    let name = &function.entry_point;
    let signature = compile(&format!(r"def\s+({}.*?):\s*\n", fancy_regex::escape(name)));
    let group = |pattern: &Regex| {
        let captures = pattern.captures(&function.prompt).ok().flatten()?;
        captures.get(1).map(|group| group.as_str().to_owned())
    };
    let signature = group(&signature).ok_or_else(|| format!("the prompt has no `def {name}…:`, expected one"))?;
    let docstring = group(&DOCSTRING).ok_or("the prompt has no docstring, expected one")?;
    let description: Vec<&str> = docstring.split('\n').map(str::trim).collect();
    Ok(format!(
        "Write a Python function `{signature}` to solve the following problem:\n{}\n{}",
        description.join("\n"),
        function.prompt
    ))
}

/// lm-evaluation-harness' task `humaneval_instruct`: the answer is begun with the prompt in a code fence.
fn instruct(function: &Function) -> Prompt {
    let prompt = &function.prompt;
    let question = format!(
        "Write a solution to the following problem and make sure that it passes the tests:\n```python\n{prompt}\n```\n"
    );
    let parts = Parts { heading: "", shots: &[], question: &question };
    parts.turns(&format!("Here is the completed function:\n```python\n{prompt}\n"))
}

//! MBPP: small programs, each with three tests.

use align_core::error::{Error, Problem, Problems, Result};
use serde::Deserialize;

use super::{LM_EVAL_MAX_TOKENS, MAX_TOKENS};
use crate::extract::Code;
use crate::files::{self, Row};
use crate::judge::{Judge, Program};
use crate::prompt::{Parts, SYSTEM, Shot};
use crate::request::{Preset, Request, Style};
use crate::task::{Ask, Average, Item, Subject, Task};

const FILES: [&str; 1] = ["mbpp.jsonl"];
/// The rows of the worked examples, by task_id.
const SHOTS: [u64; 3] = [2, 3, 4];
/// The test split, by task_id.
const TEST: std::ops::RangeInclusive<u64> = 11..=510;

#[derive(Debug, Deserialize)]
struct Exercise {
    task_id: u64,
    text: String,
    code: String,
    test_list: Vec<String>,
    #[serde(default)]
    test_setup_code: String,
}

/// Loads MBPP: its 500 test rows, after the rows that its authors keep for worked examples.
pub(crate) fn load(request: &Request<'_>) -> Result<Task> {
    let shots = request.num_shots_of(SHOTS.len(), SHOTS.len())?;
    let file = files::file(request.data()?, "mbpp", &FILES)?;
    let rows: Vec<Row<Exercise>> = files::rows(&file)?;
    let mut problems = Problems::new();
    let find = |id: u64| rows.iter().find(|row| row.value.task_id == id);
    let missing: Vec<u64> = SHOTS.iter().take(shots).copied().chain(TEST).filter(|id| find(*id).is_none()).collect();
    if let [first, rest @ ..] = missing.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let what = format!("has no row of task_id {first}{more}, expected 2 to 4 and 11 to 510: the published file");
        problems.push(file.display(), what);
    }
    for row in &rows {
        if row.value.test_list.len() < 3 {
            let what = format!("has {} tests in test_list, expected 3", row.value.test_list.len());
            problems.push_problem(Problem::of_row(&row.location, what));
        }
        if find(row.value.task_id).is_some_and(|first| first.index != row.index) {
            let what = format!("has the task_id {} of an earlier row", row.value.task_id);
            problems.push_problem(Problem::of_row(&row.location, what));
        }
    }
    problems.into_result()?;
    let form = Form { preset: request.preset, style: request.style };
    let examples: Vec<Shot> =
        SHOTS.iter().take(shots).filter_map(|id| find(*id)).map(|row| form.shot(&row.value)).collect();
    let items: Vec<Item> = TEST.filter_map(find).map(|row| form.item(&examples, &row.value)).collect();
    if items.is_empty() {
        return Err(Error::invalid(file.display(), "has no rows of the test split"));
    }
    Ok(Task {
        name: request.name.to_owned(),
        shots,
        subjects: vec![Subject { name: "mbpp".to_owned(), items }],
        metrics: vec!["pass@1".to_owned()],
        average: Average::Micro,
        categories: Vec::new(),
    })
}

/// How the exercises are put. For base models both presets have the prompt of Austin et al. 2021.
struct Form {
    preset: Preset,
    style: Style,
}

/// What lm-evaluation-harness' `mbpp_instruct` begins answers with.
const FENCE: &str = "\n```python\n";

impl Form {
    fn is_instruct(&self) -> bool {
        (self.preset, self.style) == (Preset::LmEval, Style::Chat)
    }

    /// An exercise, up to where its answer begins.
    fn asked(&self, exercise: &Exercise) -> String {
        let (text, tests) = (&exercise.text, exercise.test_list[..3].join("\n"));
        if self.is_instruct() {
            return format!(
                "You are an expert Python programmer, and here is your task:\n{text}\nYour code should pass these tests:\n{tests}"
            );
        }
        format!(
            "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
        )
    }

    fn shot(&self, exercise: &Exercise) -> Shot {
        let code = &exercise.code;
        let answer = if self.is_instruct() { format!("{FENCE}{code}\n```") } else { format!("{code}\n[DONE]") };
        Shot { question: self.asked(exercise), answer }
    }

    fn item(&self, shots: &[Shot], exercise: &Exercise) -> Item {
        let question = self.asked(exercise);
        let parts = |heading| Parts { heading, shots, question: &question };
        let done = vec!["[DONE]".to_owned()];
        let (prompt, stops, max_tokens, extractor) = match (self.preset, self.style) {
            (Preset::LmEval, Style::Base) => (parts("").text("", "\n\n"), done, LM_EVAL_MAX_TOKENS, Code::Whole),
            (Preset::LmEval, Style::Chat) => (parts("").turns(FENCE), Vec::new(), LM_EVAL_MAX_TOKENS, Code::OpenFence),
            (Preset::Qwen, Style::Base) => (parts("").text("", "\n\n"), done, MAX_TOKENS, Code::Whole),
            (Preset::Qwen, Style::Chat) => (parts(SYSTEM).turns(""), Vec::new(), MAX_TOKENS, Code::Block),
        };
        Item {
            id: format!("MBPP/{}", exercise.task_id),
            prompt,
            ask: Ask::Generate { stops, max_tokens },
            judge: Judge::Program(self.program(exercise, extractor)),
        }
    }

    /// lm-evaluation-harness runs the first three tests without the set-up code of some rows, for 3 seconds;
    /// OpenCompass all of them for 10.
    fn program(&self, exercise: &Exercise, extractor: Code) -> Program {
        let (tests, setup, seconds) = match self.preset {
            Preset::LmEval => (&exercise.test_list[..3], "", 3.0),
            Preset::Qwen => (&exercise.test_list[..], exercise.test_setup_code.as_str(), 10.0),
        };
        let setup = if setup.is_empty() { String::new() } else { format!("\n{setup}") };
        Program { extractor, before: String::new(), after: format!("{setup}\n{}", tests.join("\n")), seconds }
    }
}

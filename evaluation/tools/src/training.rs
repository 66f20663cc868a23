//! Rows for sft: worked dialogues with tools as ReAct.

use std::path::Path;

use align_core::error::{Error, Problem, Problems, Result};
use align_data::RawRows;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::react::{self, Wording};
use crate::tool::ToolDescription;

/// A worked dialogue: a question, calls with their results, and the answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worked {
    /// The names of the tools that the question is asked with.
    pub tools: Vec<String>,
    /// Earlier pairs of a question and an answer.
    #[serde(default)]
    pub history: Vec<(String, String)>,
    /// The question.
    pub question: String,
    /// The calls.
    #[serde(default)]
    pub steps: Vec<WorkedStep>,
    /// The thought before the answer.
    pub thought: String,
    /// The answer.
    pub answer: String,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkedStep {
    /// The thought before it.
    pub thought: String,
    /// The tool.
    pub action: String,
    /// Its input.
    pub input: String,
    /// Its result.
    pub observation: String,
}

/// Which part of an answer a row trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrainedPart {
    /// All of it, the results of tools included, as the report's answers. One row.
    #[default]
    Whole,
    /// Up to `Observation:` of the first call, or the whole answer without calls. So no result is trained on,
    /// and nothing that comes after one: a row's format marks whole turns only, and results are within the
    /// turn. The row says `"ended": false`, so the end of the turn is not trained on either.
    FirstCall,
}

impl Worked {
    /// Reads a file of worked dialogues, whose tools are described in `tools`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every bad row.
    pub fn read(file: &Path, tools: &[ToolDescription]) -> Result<Vec<Self>> {
        let (mut dialogues, mut problems) = (Vec::new(), Problems::new());
        for row in RawRows::open(file, None)? {
            let row = row?;
            let parsed = row.value().and_then(|value| {
                let worked: Worked = serde_json::from_value(value).map_err(|error| error.to_string())?;
                worked.check(tools).map(|()| worked)
            });
            match parsed {
                Ok(worked) => dialogues.push(worked),
                Err(what) => problems.push_problem(Problem::of_row(&row.location, what)),
            }
        }
        problems.into_result().map(|()| dialogues)
    }

    /// Whether the calls can be read back from the text.
    fn check(&self, tools: &[ToolDescription]) -> std::result::Result<(), String> {
        if let Some(name) = self.tools.iter().find(|name| tools.iter().all(|tool| tool.name != **name)) {
            return Err(format!("no tool `{name}` is described, expected one of those"));
        }
        for (index, step) in self.steps.iter().enumerate() {
            if !self.tools.contains(&step.action) {
                return Err(format!("`steps[{index}].action` is `{}`, expected one of the row's `tools`", step.action));
            }
            let call = react::last_call(&format!("\n{}", step.text()));
            if call.is_none_or(|call| call.name != step.action || call.input != step.input.trim()) {
                return Err(format!("`steps[{index}]` has lines that spell another call, expected plain texts"));
            }
        }
        if self.answer.trim().is_empty() {
            return Err("`answer` is empty, expected a text".to_owned());
        }
        Ok(())
    }

    /// The assistant's text.
    pub fn text(&self) -> String {
        let steps = self.steps.iter().map(|step| format!("{}\nObservation: {}\n", step.text(), step.observation));
        format!("{}Thought: {}\nFinal Answer: {}", steps.collect::<String>(), self.thought, self.answer)
    }

    /// The row.
    pub fn row(&self, tools: &[ToolDescription], wording: Wording, part: TrainedPart) -> Value {
        let tools: Vec<ToolDescription> =
            self.tools.iter().filter_map(|name| tools.iter().find(|tool| tool.name == *name)).cloned().collect();
        let turns = react::messages(&tools, wording, &self.history, &self.question);
        let mut turns: Vec<Value> = turns.iter().map(|turn| turn.to_json()).collect();
        match (part, self.steps.first()) {
            (TrainedPart::FirstCall, Some(first)) => {
                json!({"prompt": turns, "response": format!("{}\n{}", first.text(), react::STOP), "ended": false})
            }
            _ => {
                turns.push(json!({"role": "assistant", "content": self.text()}));
                json!({"messages": turns})
            }
        }
    }
}

impl WorkedStep {
    fn text(&self) -> String {
        format!("Thought: {}\nAction: {}\nAction Input: {}", self.thought, self.action, self.input)
    }
}

/// Reads a JSON list of tools.
///
/// # Errors
/// [`Error::Invalid`] with every bad tool.
pub fn read_tools(file: &Path) -> Result<Vec<ToolDescription>> {
    let bytes = std::fs::read(file).map_err(|error| {
        Error::invalid(file.display(), format!("cannot be read ({error}), expected a list of tools"))
    })?;
    let list: Vec<Value> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(file.display(), format!("{error}, expected a JSON list of tools")))?;
    ToolDescription::list_from_json(&list)
        .map_err(|wrong| Error::Invalid(wrong.into_iter().map(|what| Problem::new(file.display(), what)).collect()))
}

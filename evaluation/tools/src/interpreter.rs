//! The code interpreter: a tool that runs Python and keeps its variables for a dialogue.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use align_core::error::Result;
use fancy_regex::Regex;
use serde_json::json;

use crate::arguments::Json5;
use crate::tool::{InputFormat, ToolDescription};
use crate::toolbox::{Observation, Tool};

/// The time limit of a call. Source: QwenLM/Qwen-Agent, benchmark.
pub const SECONDS: u64 = 30;

/// What a piece of code gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// What it printed.
    pub stdout: String,
    /// What it wrote to the standard error.
    pub stderr: String,
    /// The value of its last expression, as `repr` writes it.
    pub value: Option<String>,
    /// The exception that ended it, with its traceback.
    pub error: Option<String>,
    /// The time limit at which it was ended.
    pub timed_out: Option<Duration>,
    /// Pictures that it made.
    pub figures: Vec<PathBuf>,
}

/// A Python interpreter that keeps its variables between pieces of code.
pub trait Interpreter {
    /// Runs a piece of code, for at most `limit` or a shorter limit of its own.
    ///
    /// # Errors
    /// When no interpreter can run at all. A failure of the code is in [`Output`].
    fn run(&mut self, code: &str, limit: Duration) -> Result<Output>;

    /// Begins again, without variables.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    fn restart(&mut self) -> Result<()>;
}

/// The description with which Qwen's models were evaluated. Source: QwenLM/Qwen-Agent, benchmark.
pub fn description() -> ToolDescription {
    ToolDescription {
        name: "code_interpreter".to_owned(),
        human_name: "代码解释器".to_owned(),
        description: "代码解释器，可用于执行Python代码。".to_owned(),
        parameters: json!([{"name": "code", "type": "string", "description": "待执行的代码"}]),
        input: InputFormat::Code,
    }
}

/// The tool.
pub struct CodeInterpreter<I> {
    description: ToolDescription,
    python: I,
    limit: Duration,
}

impl<I: Interpreter> CodeInterpreter<I> {
    /// A code interpreter with the published description, and [`SECONDS`] for each call.
    pub fn new(python: I) -> Self {
        Self { description: description(), python, limit: Duration::from_secs(SECONDS) }
    }

    /// The same with another time limit.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

impl<I: Interpreter> Tool for CodeInterpreter<I> {
    fn description(&self) -> &ToolDescription {
        &self.description
    }

    fn call(&mut self, input: &str, time: Duration) -> Result<Observation> {
        let code = runnable(&code_of(input));
        if code.trim().is_empty() {
            return Ok(Observation::default());
        }
        let limit = self.limit.min(time);
        Ok(observed(&self.python.run(&code, limit)?))
    }

    fn reset(&mut self) -> Result<()> {
        self.python.restart()
    }
}

/// The code in a call's input: that of the first fenced block; else the text of the first pair of backticks;
/// else `code` of a JSON5 object; else the whole input. Source: QwenLM/Qwen-Agent, benchmark.
pub fn code_of(input: &str) -> String {
    static FENCED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)```[^\n]*\n(.+?)```"));
    static QUOTED: LazyLock<Regex> = LazyLock::new(|| pattern("(?s)`([^`]*)`"));
    let first = |regex: &Regex| {
        let found = regex.captures(input).ok().flatten()?;
        Some(found.get(1).expect("both have a group").as_str().to_owned())
    };
    if let Some(code) = first(&FENCED).or_else(|| first(&QUOTED)) {
        return code;
    }
    match Json5::parse(input) {
        Ok(Json5::Object(values)) => match values.get("code") {
            Some(Json5::Text(code)) => code.clone(),
            _ => input.to_owned(),
        },
        _ => input.to_owned(),
    }
}

fn pattern(regex: &str) -> Regex {
    Regex::new(regex).expect("a constant pattern")
}

/// The code with a call of `solution`, if it defines that. Source: QwenLM/Qwen-Agent, benchmark.
pub(crate) fn runnable(code: &str) -> String {
    let code = code.replace("\r\n", "\n");
    if code.contains("def solution()") { format!("{code}\nsolution()") } else { code }
}

/// An output as Qwen-Agent's benchmark writes it: a fenced block for each stream, and figures as pictures.
fn observed(output: &Output) -> Observation {
    let timeout = |limit| format!("Timeout. No response after {} seconds.", seconds(limit));
    let error = output.timed_out.map(timeout).or_else(|| output.error.clone());
    let blocks = [
        ("stdout", Some(&output.stdout)),
        ("stderr", Some(&output.stderr)),
        ("execute_result", output.value.as_ref()),
        ("error", error.as_ref()),
    ];
    let blocks = blocks.into_iter().filter_map(|(name, text)| Some((name, text.filter(|text| !text.is_empty())?)));
    let blocks = blocks.map(|(name, text)| format!("{name}:\n\n```\n{text}\n```"));
    let figures = output.figures.iter().enumerate();
    let figures = figures.map(|(index, figure)| format!("![fig-{:03}]({})", index + 1, figure.display()));
    Observation {
        text: blocks.chain(figures).collect::<Vec<_>>().join("\n\n"),
        is_error: error.is_some(),
        figures: output.figures.clone(),
    }
}

/// Seconds, without decimals if there are none.
fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { time.as_secs().to_string() } else { format!("{:.1}", time.as_secs_f64()) }
}

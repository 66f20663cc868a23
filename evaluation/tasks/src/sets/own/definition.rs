//! The TOML file of a user's own task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use align_core::error::{Error, Problems, Result};
use serde::Deserialize;

use crate::equality::Equality;
use crate::extract::{self, Extractor, Pattern, Which};
use crate::judge::ChoiceMetric;
use crate::task::Average;

/// What a task file may hold; docs/tasks.md describes each key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    name: Option<String>,
    pub(super) data: PathBuf,
    pub(super) template: String,
    #[serde(default)]
    pub(super) answer: String,
    pub(super) subject: Option<String>,
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) system: String,
    #[serde(default)]
    pub(super) shots: usize,
    pub(super) shots_file: Option<PathBuf>,
    #[serde(default = "space")]
    pub(super) delimiter: String,
    #[serde(default = "blank_line")]
    pub(super) separator: String,
    pub(super) choices: Option<Choices>,
    #[serde(default)]
    pub(super) answer_is: GoldForm,
    #[serde(default)]
    pub(super) prefix: String,
    #[serde(default)]
    pub(super) stops: Vec<String>,
    #[serde(default = "max_tokens")]
    pub(super) max_tokens: usize,
    extractor: Option<Extraction>,
    #[serde(default)]
    pub(super) metric: Metric,
    #[serde(default)]
    tolerance: f64,
    pub(super) program: Option<ProgramTable>,
    #[serde(default)]
    pub(super) average: Averaged,
    #[serde(default)]
    pub(super) categories: BTreeMap<String, Vec<String>>,
}

/// As in lm-evaluation-harness.
fn space() -> String {
    " ".to_owned()
}

/// As in lm-evaluation-harness.
fn blank_line() -> String {
    "\n\n".to_owned()
}

/// As in lm-evaluation-harness.
fn max_tokens() -> usize {
    256
}

/// The limit of human-eval.
fn seconds() -> f64 {
    3.0
}

/// The choices of a question.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Choices {
    /// A template for each.
    Templates(Vec<String>),
    /// The column that holds an array of texts.
    Column(String),
}

/// The longest name of a task, in characters.
const LONGEST_NAME: usize = 100;

/// How `answer` names the right choice.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum GoldForm {
    #[default]
    Letter,
    Index,
    Text,
}

impl GoldForm {
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Letter => "the letter (answer_is = \"letter\")",
            Self::Index => "the index, from 0, (answer_is = \"index\")",
            Self::Text => "the text (answer_is = \"text\")",
        }
    }
}

/// `extractor = "NAME"`, or `extractor = { pattern = "…", which = "last" }`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Extraction {
    Name(String),
    Pattern(PatternTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternTable {
    pattern: String,
    #[serde(default)]
    which: WhichMatch,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhichMatch {
    #[default]
    First,
    Last,
}

/// When an answer is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    #[default]
    ExactMatch,
    AnyCaseMatch,
    Number,
    Value,
}

impl Metric {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ExactMatch => "exact_match",
            Self::AnyCaseMatch => "any_case_match",
            Self::Number => "number",
            Self::Value => "value",
        }
    }
}

/// `[program]`: the answer is code.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgramTable {
    #[serde(default)]
    pub(super) before: String,
    pub(super) after: String,
    #[serde(default = "seconds")]
    pub(super) seconds: f64,
    #[serde(default)]
    pub(super) code: CodeForm,
}

/// What of the answer is code.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CodeForm {
    /// All of it.
    Whole,
    /// The first fenced block.
    #[default]
    Block,
    /// What is before the first fence.
    BeforeFence,
}

impl From<CodeForm> for extract::Code {
    fn from(form: CodeForm) -> Self {
        match form {
            CodeForm::Whole => Self::Whole,
            CodeForm::Block => Self::Block,
            CodeForm::BeforeFence => Self::BeforeFence,
        }
    }
}

/// As [`Average`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Averaged {
    #[default]
    Micro,
    Macro,
}

impl From<Averaged> for Average {
    fn from(average: Averaged) -> Self {
        match average {
            Averaged::Micro => Self::Micro,
            Averaged::Macro => Self::Macro,
        }
    }
}

impl Definition {
    /// Reads and checks a task file.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let location = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::invalid(&location, format!("cannot be read: {error}; expected a task file")))?;
        let definition: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::invalid(format!("{location}:{line}"), error.message().replace('\n', " "))
        })?;
        definition.check(file)?;
        Ok(definition)
    }

    fn check(&self, file: &Path) -> Result<()> {
        let mut problems = Problems::new();
        let mut wrong = |key: &str, what: String| problems.push(format!("{}: {key}", file.display()), what);
        if let Err(what) = self.extractor() {
            wrong("extractor", what);
        }
        if self.choices.is_some() && (self.program.is_some() || self.extractor.is_some() || !self.stops.is_empty()) {
            wrong("choices", "is set beside stops, extractor or program, expected one way to answer".to_owned());
        }
        if self.program.is_some() && self.extractor.is_some() {
            wrong("program", "is set beside extractor, expected program.code".to_owned());
        }
        if self.answer.is_empty() && self.program.is_none() {
            wrong("answer", "is missing, expected a template for the right answer, such as \"{{answer}}\"".to_owned());
        }
        let name = self.name(file);
        if name.is_empty() || name.chars().any(char::is_control) || name.chars().count() > LONGEST_NAME {
            wrong("name", format!("is {name:?}, expected 1 to {LONGEST_NAME} characters, on one line"));
        }
        let at = |path: &Path| file.with_file_name("").join(path).canonicalize().ok();
        if self.shots_file.as_deref().is_some_and(|shots| at(shots).is_some() && at(shots) == at(&self.data)) {
            let what = "is the file of the questions, expected another: a question would be among its own examples";
            wrong("shots_file", what.to_owned());
        }
        if self.max_tokens == 0 {
            wrong("max_tokens", "is 0, expected at least 1".to_owned());
        }
        if !(self.tolerance.is_finite() && self.tolerance >= 0.0) {
            wrong("tolerance", format!("is {}, expected a number of at least 0", self.tolerance));
        }
        if self.tolerance > 0.0 && self.metric != Metric::Number {
            wrong("tolerance", "is set, expected metric = \"number\"".to_owned());
        }
        if self.stops.iter().any(String::is_empty) {
            wrong("stops", "holds an empty text, expected texts that end an answer".to_owned());
        }
        if self.program.as_ref().is_some_and(|program| !(program.seconds.is_finite() && program.seconds > 0.0)) {
            wrong("program.seconds", "is not above 0, expected a time limit in seconds".to_owned());
        }
        problems.into_result()
    }

    /// The task's name: as given, or the file's.
    pub(super) fn name(&self, file: &Path) -> String {
        let stem = || file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.name.clone().unwrap_or_else(stem)
    }

    pub(super) fn metrics(&self) -> Vec<String> {
        let names: &[&str] = match (&self.choices, &self.program) {
            (Some(_), _) => &[ChoiceMetric::Acc.name(), ChoiceMetric::AccNorm.name()],
            (None, Some(_)) => &["pass@1"],
            (None, None) => &[self.metric.name()],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    pub(super) fn extractor(&self) -> std::result::Result<Extractor, String> {
        match &self.extractor {
            None => Ok(Extractor::Text),
            Some(Extraction::Name(name)) => {
                let found = extract::NAMES.iter().find(|(known, _)| known == name);
                found.map(|(_, extractor)| extractor.clone()).ok_or_else(|| {
                    let names: Vec<&str> = extract::NAMES.iter().map(|(name, _)| *name).collect();
                    format!("`{name}` is not an extractor, expected {}, or {{ pattern = \"…\" }}", names.join(", "))
                })
            }
            Some(Extraction::Pattern(table)) => {
                let which = match table.which {
                    WhichMatch::First => Which::First,
                    WhichMatch::Last => Which::Last,
                };
                let pattern = Pattern::new(&table.pattern, which);
                pattern
                    .map(Extractor::Pattern)
                    .map_err(|error| format!("`{}` is not a pattern: {error}", table.pattern))
            }
        }
    }

    pub(super) fn equality(&self) -> Equality {
        match self.metric {
            Metric::ExactMatch => Equality::Text,
            Metric::AnyCaseMatch => Equality::FoldedText,
            Metric::Number => Equality::Number { tolerance: self.tolerance },
            Metric::Value => Equality::Value,
        }
    }
}

//! Tables 7 and 8: the rows of the code interpreter's benchmark, and their prompts.
//!
//! Source: QwenLM/Qwen-Agent, benchmark.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use align_core::error::Result;
use align_text::chatml::{Message, Role};
use serde::Serialize;
use serde_json::Value;

use crate::agent::{Limits, OnError};
use crate::interpreter;
use crate::react::{self, Wording};
use crate::rows;

/// What a row asks for, which decides how it is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeKind {
    /// A number.
    Math,
    /// A picture.
    Visualization,
    /// Anything else.
    General,
}

impl CodeKind {
    /// All of them, in the order of the report's table.
    pub const ALL: [CodeKind; 3] = [CodeKind::Math, CodeKind::Visualization, CodeKind::General];

    /// Its tag in rows.
    pub fn name(self) -> &'static str {
        match self {
            CodeKind::Math => "math",
            CodeKind::Visualization => "visualization",
            CodeKind::General => "general",
        }
    }

    /// Whether only the first piece of code counts for the executable rate.
    pub fn counts_first_only(self) -> bool {
        self != CodeKind::Math
    }
}

impl fmt::Display for CodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeRow {
    /// `file:line`.
    pub location: String,
    /// What it asks for.
    pub kind: CodeKind,
    /// Earlier turns of the row's query: pairs of a user's and an assistant's text.
    pub history: Vec<(String, String)>,
    /// The question.
    pub question: String,
    /// The beginning of the answer, which rows of the easier visualizations bring.
    pub prefix: String,
    /// The language of the question: `en` or `zh`.
    pub is_chinese: bool,
    /// The files that the question is about.
    pub files: Vec<PathBuf>,
    /// The worked answer of a math row, which has the gold number.
    pub answer: Option<String>,
}

/// Reads rows with `query`, `tags`, `lang` and `input_file_path`, or with `question` and `answer` (GSM8K,
/// which are math rows). Paths of files are relative to `folder`.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every bad row: unknown tags, a query that does not end in a
/// user's text or the beginning of an answer, a file that is not there.
pub fn read(files: &[PathBuf], folder: &Path) -> Result<Vec<CodeRow>> {
    let expected = "`query` and `tags`, or `question` and `answer`";
    rows::read(files, expected, |location, value| Ok(CodeRow { location, ..parsed(value, folder)? }))
}

fn parsed(row: &Value, folder: &Path) -> std::result::Result<CodeRow, String> {
    let text = |key: &str| match row.get(key) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.as_str()),
        Some(_) => Err(format!("`{key}` is empty or not a string, expected a text")),
        None => Err(format!("no `{key}`, expected `query` and `tags`, or `question` and `answer`")),
    };
    if row.get("query").is_none() && row.get("question").is_some() {
        let answer = text("answer")?;
        if crate::numbers::last_number(answer).is_none() {
            return Err("`answer` has no number, expected one after `####`".to_owned());
        }
        let row = CodeRow { question: text("question")?.to_owned(), answer: Some(answer.to_owned()), ..empty() };
        return Ok(row);
    }
    let query = Query::parse(text("query")?)?;
    let mut kinds = CodeKind::ALL.into_iter().filter(|kind| text("tags").is_ok_and(|tags| has_tag(tags, kind.name())));
    let kind = match (text("tags")?, kinds.next(), kinds.next()) {
        (_, Some(kind), None) => kind,
        (tags, ..) => return Err(format!("`tags` is `{tags}`, expected one of math, visualization and general in it")),
    };
    let is_chinese = match row.get("lang").and_then(Value::as_str) {
        None | Some("en") => false,
        Some("zh") => true,
        Some(other) => return Err(format!("`lang` is `{other}`, expected en or zh")),
    };
    let answer = match row.get("answer").or(row.get("gold")) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(format!("#### {number}")),
        Some(_) => return Err("`answer` is neither a text nor a number, expected either".to_owned()),
    };
    let files = files(row.get("input_file_path"), folder)?;
    let Query { history, question, prefix } = query;
    Ok(CodeRow { kind, history, question, prefix, is_chinese, files, answer, ..empty() })
}

fn empty() -> CodeRow {
    CodeRow {
        location: String::new(),
        kind: CodeKind::Math,
        history: Vec::new(),
        question: String::new(),
        prefix: String::new(),
        is_chinese: false,
        files: Vec::new(),
        answer: None,
    }
}

fn has_tag(tags: &str, name: &str) -> bool {
    tags.split(',').any(|tag| tag.trim() == name)
}

fn files(value: Option<&Value>, folder: &Path) -> std::result::Result<Vec<PathBuf>, String> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err("`input_file_path` is not a list, expected paths".to_owned()),
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for (index, path) in list.iter().enumerate() {
        let path = path.as_str().ok_or_else(|| format!("`input_file_path[{index}]` is not a text, expected a path"))?;
        let name = Path::new(path).file_name().ok_or_else(|| format!("`{path}` has no file name, expected one"))?;
        // Archives of the benchmark have the files in one folder, whatever the rows say.
        let below = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let as_given = below.then(|| folder.join(path));
        let by_name = [folder.join(name), folder.join("upload_file").join(name)];
        let found = as_given.into_iter().chain(by_name).find(|path| path.is_file());
        let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let found = found.ok_or_else(|| format!("no file `{path}` in {}, expected it there", shown.display()))?;
        if files.iter().any(|other| other.file_name() == Some(name)) {
            return Err(format!("two files of the name `{}`, expected one", name.display()));
        }
        files.push(found);
    }
    Ok(files)
}

/// A query: a question, or ChatML that ends within an answer. The markers are text in these rows; nothing
/// else reads them as control tokens.
struct Query {
    history: Vec<(String, String)>,
    question: String,
    prefix: String,
}

impl Query {
    fn parse(query: &str) -> std::result::Result<Self, String> {
        const START: &str = "<|im_start|>";
        const END: &str = "<|im_end|>";
        let wrong = "`query` has ChatML that does not alternate between user and assistant and end within an \
                     answer, expected a question, or one with the beginning of its answer";
        let (mut roles, mut texts) = (vec!["user"], Vec::new());
        let mut parts = query.split(START);
        texts.push(parts.next().unwrap_or_default());
        for part in parts {
            let (role, text) = part.split_once('\n').ok_or(wrong)?;
            roles.push(role.trim());
            texts.push(text);
        }
        let last = texts.len() - 1;
        let mut turns = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let closed = text.trim_end().strip_suffix(END);
            let text = match (closed, index == last) {
                (Some(closed), false) => closed,
                (None, true) => text,
                _ => return Err(wrong.to_owned()),
            };
            if text.contains(END) || roles[index] != ["user", "assistant"][index % 2] {
                return Err(wrong.to_owned());
            }
            turns.push(react::stripped(text).to_owned());
        }
        let prefix = match (turns.len(), turns.len() % 2) {
            (1, _) => String::new(),
            (_, 0) => turns.pop().unwrap_or_default(),
            _ => return Err(wrong.to_owned()),
        };
        let question = turns.pop().unwrap_or_default();
        let pairs = turns.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        Ok(Self { history: pairs.collect(), question, prefix })
    }
}

impl CodeRow {
    /// Whether the row brings the first action (Visualization-Easy).
    pub fn brings_action(&self) -> bool {
        react::last_call(&self.prefix).is_some()
    }

    /// The code of the action that the row brings. It runs before the model continues, so that its variables
    /// exist.
    pub fn first_code(&self) -> Option<String> {
        let call = react::last_call(&self.prefix)?;
        Some(with_base_names(&interpreter::code_of(&call.input), &self.files))
    }

    /// The turns before the answer. The instruction is in the row's first turn, since the query as a whole
    /// follows `Question:`.
    pub fn messages(&self) -> Vec<Message> {
        let tools = [interpreter::description()];
        let names: Vec<String> = self
            .files
            .iter()
            .filter_map(|file| file.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        let announced = match (names.is_empty(), self.is_chinese) {
            (true, _) => String::new(),
            (false, false) => format!("[Upload file {}]", names.join(", ")),
            (false, true) => format!("[上传文件{}]", names.join(", ")),
        };
        let mut turns: Vec<Message> = self
            .history
            .iter()
            .flat_map(|(asked, answer)| [Message::new(Role::User, asked), Message::new(Role::Assistant, answer)])
            .collect();
        turns.push(Message::new(Role::User, &self.question));
        turns[0].content = react::prompt(&tools, Wording::Demo, &format!("{announced}{}", turns[0].content));
        turns
    }

    /// The published limits: at most three calls (one for general rows), and the end at an error. The action
    /// that a row brings counts besides them.
    pub fn limits(&self) -> Limits {
        Limits {
            max_calls: if self.kind == CodeKind::General { 1 } else { 3 },
            max_repeats: usize::MAX,
            on_error: OnError::End,
            ..Limits::default()
        }
    }
}

/// Code with the base names of files where it has other paths to them: the files are in the folder in which
/// it runs.
pub fn with_base_names(code: &str, files: &[PathBuf]) -> String {
    let names = files.iter().filter_map(|file| file.file_name()?.to_str());
    names.fold(code.to_owned(), |code, name| {
        ["/mnt/data/", "/path/to/", "./upload_file/", "upload_file/"]
            .iter()
            .fold(code, |code, folder| code.replace(&format!("{folder}{name}"), name))
    })
}

//! A TOML file of programs that a model may call as tools.

use std::path::{Path, PathBuf};
use std::time::Duration;

use align_core::error::{Error, Problems, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::command::CommandTool;
use crate::tool::{InputFormat, ToolDescription, check_name};

/// The longest time limit of a program.
const MAX_SECONDS: f64 = 3600.0;
/// The largest output limit of a program.
const MAX_BYTES: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tool: Vec<Entry>,
}

/// A tool. Its defaults are our choice.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// What the model writes after `Action:`.
    name: String,
    /// The name in sentences; `name` without it.
    human_name: Option<String>,
    /// What it is good for.
    description: String,
    /// The program and its arguments.
    command: Vec<String>,
    /// `json` (the default), or `code`: then the code itself is the program's input.
    #[serde(default)]
    input: Input,
    #[serde(default)]
    parameters: Vec<Parameter>,
    #[serde(default = "default_seconds")]
    seconds: f64,
    #[serde(default = "default_bytes")]
    max_output_bytes: usize,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum Input {
    #[default]
    Json,
    Code,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameter {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    required: bool,
    #[serde(default = "default_type")]
    r#type: String,
    #[serde(default, rename = "enum")]
    choices: Vec<String>,
}

fn default_seconds() -> f64 {
    30.0
}

fn default_bytes() -> usize {
    65_536
}

fn default_type() -> String {
    "string".to_owned()
}

/// Reads a file of tools. Programs run in its folder.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong with it.
pub fn read(file: &Path) -> Result<Vec<CommandTool>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Error::invalid(file.display(), format!("cannot be read ({error}), expected a file of tools"))
    })?;
    let parsed: File = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Error::invalid(format!("{}:{line}", file.display()), error.message().trim())
    })?;
    let mut problems = Problems::new();
    if parsed.tool.is_empty() {
        problems.push(file.display(), "no tool, expected [[tool]] with name, description and command");
    }
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // A relative path of a program is looked up from the folder that it runs in only if that is absolute.
    let folder = std::path::absolute(&folder).map_err(Error::io(&folder))?;
    let mut tools: Vec<CommandTool> = Vec::new();
    for entry in parsed.tool {
        let location = format!("{}: tool `{}`", file.display(), entry.name);
        if tools.iter().any(|tool| tool.description.name == entry.name) {
            problems.push(&location, "a second tool of this name, expected one");
        }
        check(&entry, &folder, &location, &mut problems);
        tools.push(entry.into_tool(&folder));
    }
    problems.into_result().map(|()| tools)
}

fn check(entry: &Entry, folder: &Path, location: &str, problems: &mut Problems) {
    if let Err(what) = check_name(&entry.name) {
        problems.push(location, what);
    }
    if entry.description.trim().is_empty() {
        problems.push(location, "`description` is empty, expected what the tool is good for: the model reads it");
    }
    match entry.command.first() {
        None => problems.push(location, "`command` is empty, expected a program and its arguments"),
        Some(program) if find_program(program, folder).is_none() => {
            let what = format!("`command`: no program {program} in PATH or {}, expected one", folder.display());
            problems.push(location, what);
        }
        Some(_) => {}
    }
    if !(entry.seconds > 0.0 && entry.seconds <= MAX_SECONDS) {
        problems
            .push(location, format!("`seconds` is {}, expected more than 0 and at most {MAX_SECONDS}", entry.seconds));
    }
    if entry.max_output_bytes == 0 || entry.max_output_bytes > MAX_BYTES {
        let what = format!("`max_output_bytes` is {}, expected 1 to {MAX_BYTES}", entry.max_output_bytes);
        problems.push(location, what);
    }
    for (index, parameter) in entry.parameters.iter().enumerate() {
        if parameter.name.is_empty() {
            problems.push(location, format!("`parameters[{index}].name` is empty, expected a name"));
        }
        if entry.parameters[..index].iter().any(|other| other.name == parameter.name) {
            problems.push(location, format!("a second parameter `{}`, expected one", parameter.name));
        }
        const TYPES: [&str; 6] = ["string", "number", "integer", "boolean", "array", "object"];
        if !TYPES.contains(&parameter.r#type.as_str()) {
            let expected = TYPES.join(", ");
            let what = format!("parameter `{}`: type `{}`, expected {expected}", parameter.name, parameter.r#type);
            problems.push(location, what);
        }
    }
}

/// The file of a program: a path from `folder`, or a name in PATH.
fn find_program(program: &str, folder: &Path) -> Option<PathBuf> {
    if program.is_empty() {
        return None;
    }
    if program.contains('/') {
        return Some(folder.join(program)).filter(|path| path.is_file());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|path| path.join(program)).find(|path| path.is_file())
}

impl Entry {
    fn into_tool(self, folder: &Path) -> CommandTool {
        let parameters = self.parameters.into_iter().map(|parameter| {
            let mut schema = Map::new();
            schema.insert("type".to_owned(), json!(parameter.r#type));
            if !parameter.choices.is_empty() {
                schema.insert("enum".to_owned(), json!(parameter.choices));
            }
            let Parameter { name, description, required, .. } = parameter;
            json!({"name": name, "description": description, "required": required, "schema": schema})
        });
        let mut command = self.command;
        if let Some(program) = command.first_mut().filter(|program| program.contains('/')) {
            *program = folder.join(&*program).display().to_string();
        }
        let input = match self.input {
            Input::Json => InputFormat::Json,
            Input::Code => InputFormat::Code,
        };
        CommandTool {
            description: ToolDescription {
                human_name: self.human_name.unwrap_or_else(|| self.name.clone()),
                name: self.name,
                description: self.description,
                parameters: Value::Array(parameters.collect()),
                input,
            },
            command,
            folder: folder.to_owned(),
            limit: Duration::from_secs_f64(if self.seconds > 0.0 { self.seconds.min(MAX_SECONDS) } else { 0.0 }),
            max_output_bytes: self.max_output_bytes,
        }
    }
}

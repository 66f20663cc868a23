//! A tool as a model sees it: names, description, parameters.

use align_text::template::python_json;
use serde_json::{Value, json};

/// How a tool's input is written, which its description says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// A JSON object of the parameters.
    Json,
    /// Code between triple backticks.
    Code,
}

impl InputFormat {
    /// The sentence at the end of a tool's description.
    fn sentence(self) -> &'static str {
        match self {
            InputFormat::Json => " Format the arguments as a JSON object.",
            InputFormat::Code => " Enclose the code within triple backticks (`) at the beginning and end of the code.",
        }
    }
}

/// The description of a tool. Source: QwenLM/Qwen, examples/react_prompt.md.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDescription {
    /// What the model writes after `Action:`.
    pub name: String,
    /// The name in sentences.
    pub human_name: String,
    /// What it is good for.
    pub description: String,
    /// Its parameters, as they are shown: a list of `{"name", "description", "required", "schema"}`, or a
    /// JSON schema.
    pub parameters: Value,
    /// How its input is written.
    pub input: InputFormat,
}

impl ToolDescription {
    /// Reads a description in one of three forms: Qwen's (`name_for_model`, `name_for_human`,
    /// `description_for_model`, `parameters`, `args_format`), a function of OpenAI's (`name`, `description`,
    /// `parameters`), and the latter within `{"type": "function", "function": …}`.
    ///
    /// # Errors
    /// What is wrong with it and what was expected, as one line.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let value = match (value.get("type").and_then(Value::as_str), value.get("function")) {
            (Some("function"), Some(function)) => function,
            _ => value,
        };
        if !value.is_object() {
            return Err("not an object, expected a tool with `name`, `description` and `parameters`".to_owned());
        }
        let text = |keys: &[&str]| -> Result<Option<String>, String> {
            let Some(key) = keys.iter().find(|key| value.get(**key).is_some_and(|value| !value.is_null())) else {
                return Ok(None);
            };
            let text = value[*key].as_str().ok_or_else(|| format!("`{key}` is not a string, expected one"))?;
            Ok(Some(text.to_owned()))
        };
        let name = text(&["name_for_model", "name"])?
            .ok_or("no `name_for_model` or `name`, expected the name that the model writes")?;
        check_name(&name)?;
        let description = text(&["description_for_model", "description"])?.unwrap_or_default();
        let parameters = match value.get("parameters") {
            None | Some(Value::Null) => json!([]),
            Some(parameters @ (Value::Array(_) | Value::Object(_))) => parameters.clone(),
            Some(_) => return Err("`parameters` is neither a list nor an object, expected either".to_owned()),
        };
        let input = match text(&["args_format"])?.as_deref() {
            None | Some("json") => InputFormat::Json,
            Some("code") => InputFormat::Code,
            Some(other) => return Err(format!("`args_format` is `{other}`, expected `json` or `code`")),
        };
        let human_name = text(&["name_for_human"])?.unwrap_or_else(|| name.clone());
        Ok(Self { name, human_name, description, parameters, input })
    }

    /// Reads a list of them.
    ///
    /// # Errors
    /// Everything that is wrong, each with its index; also two tools of one name.
    pub fn list_from_json(values: &[Value]) -> Result<Vec<Self>, Vec<String>> {
        let (mut tools, mut wrong) = (Vec::<Self>::new(), Vec::new());
        for (index, value) in values.iter().enumerate() {
            match Self::from_json(value) {
                Ok(tool) if tools.iter().any(|other| other.name == tool.name) => {
                    wrong.push(format!("[{index}]: a second tool `{}`, expected one of each name", tool.name));
                }
                Ok(tool) => tools.push(tool),
                Err(what) => wrong.push(format!("[{index}]: {what}")),
            }
        }
        if wrong.is_empty() { Ok(tools) } else { Err(wrong) }
    }

    /// The paragraph of a prompt without the sentence about the input's format.
    pub(crate) fn sentences(&self) -> String {
        let Self { name, human_name, description, .. } = self;
        let parameters = python_json::dumps(&self.parameters);
        format!(
            "{name}: Call this tool to interact with the {human_name} API. What is the {human_name} API useful for? {description} Parameters: {parameters}"
        )
    }

    /// The paragraph of a prompt.
    pub(crate) fn paragraph(&self) -> String {
        self.sentences() + self.input.sentence()
    }

    /// The names of the parameters, and of those among them that are required.
    pub(crate) fn parameter_names(&self) -> (Vec<&str>, Vec<&str>) {
        match &self.parameters {
            Value::Array(list) => {
                let names = list.iter().filter_map(|parameter| Some((parameter, parameter.get("name")?.as_str()?)));
                let is_required = |parameter: &Value| parameter.get("required").and_then(Value::as_bool) == Some(true);
                (
                    names.clone().map(|(_, name)| name).collect(),
                    names.filter(|(parameter, _)| is_required(parameter)).map(|(_, name)| name).collect(),
                )
            }
            schema => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let required = schema.get("required").and_then(Value::as_array);
                (
                    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect(),
                    required.into_iter().flatten().filter_map(Value::as_str).collect(),
                )
            }
        }
    }
}

/// Refuses a name that a call could not be read back with.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.trim() != name || name.contains(['\n', '\r', ',', '[', ']', ':']) {
        return Err(format!(
            "the name {name:?} is empty, or has a line break, comma, colon, bracket or white space at its ends, expected a plain name"
        ));
    }
    Ok(())
}

//! A checkpoint's chat template (Jinja). Templates are untrusted: they run without a loader, with a fuel
//! limit and a bounded output.

pub mod python_json;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde_json::Value as Json;

use crate::dialogue::{Dialogue, Message};
use align_core::error::{Error, Result};

/// Templates are a few kilobytes; the largest published ones about 20.
const MAX_SOURCE_BYTES: usize = 256 * 1024;
/// The output may have this many bytes …
const MIN_OUTPUT_BYTES: usize = 64 * 1024;
/// … or this many times the size of the dialogue, whichever is more.
const MAX_OUTPUT_RATIO: usize = 8;
/// Instructions per rendering; the Qwen3 template needs a few hundred per turn.
const FUEL: u64 = 5_000_000;
/// Names of the templates for dialogues without and with tools, in checkpoints that have two.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";
/// The folder of templates other than the default.
const MORE: &str = "additional_chat_templates";

/// A chat template.
#[derive(Debug)]
pub struct Template {
    file: PathBuf,
    environment: Environment<'static>,
    /// The text of `bos_token` and similar tokens, by name.
    tokens: Vec<(String, String)>,
    fingerprint: String,
    /// The template for dialogues without tools.
    source: String,
}

impl Template {
    /// The templates of a checkpoint: `chat_template.jinja`, or those in `tokenizer_config.json`; `None`
    /// without either.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a file is damaged or a template does not parse.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let config_file = dir.join("tokenizer_config.json");
        let config = match std::fs::read(&config_file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid(config_file.display(), format!("{error}, expected JSON")))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Json::Null,
            Err(error) => return Err(Error::io(&config_file)(error)),
        };
        let jinja_file = dir.join("chat_template.jinja");
        let (file, mut sources) = match read_if_there(&jinja_file)? {
            Some(source) => (jinja_file, vec![(DEFAULT.to_owned(), source)]),
            None => {
                let sources = in_config(&config, &config_file)?;
                if sources.is_empty() {
                    return Ok(None);
                }
                (config_file, sources)
            }
        };
        if let Some(source) = read_if_there(&dir.join(MORE).join(format!("{TOOL_USE}.jinja")))? {
            sources.retain(|(name, _)| name != TOOL_USE);
            sources.push((TOOL_USE.to_owned(), source));
        }
        Self::new(file, sources, tokens(&config)).map(Some)
    }

    fn new(file: PathBuf, sources: Vec<(String, String)>, tokens: Vec<(String, String)>) -> Result<Self> {
        let mut environment = environment();
        let mut hash = blake3::Hasher::new();
        let default = sources.iter().find(|(name, _)| name == DEFAULT).map(|(_, source)| source.clone());
        for (name, source) in sources.into_iter().filter(|(name, _)| [DEFAULT, TOOL_USE].contains(&name.as_str())) {
            if source.len() > MAX_SOURCE_BYTES {
                let what = format!("the chat template has {} bytes, expected at most {MAX_SOURCE_BYTES}", source.len());
                return Err(Error::invalid(file.display(), what));
            }
            hash.update(name.as_bytes()).update(source.as_bytes());
            environment.add_template_owned(name, without_generation_tags(&source)).map_err(|error| {
                Error::invalid(file.display(), format!("the chat template does not parse: {}", describe(&error)))
            })?;
        }
        Ok(Self {
            file,
            environment,
            tokens,
            fingerprint: hash.finalize().to_hex().to_string(),
            source: default.unwrap_or_default(),
        })
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The source of the template for dialogues without tools.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// A hash of the templates' sources.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Renders a dialogue, with thinking turned off where the template supports it.
    ///
    /// # Errors
    /// Why there is no output, as one line: the template fails, runs too long or writes too much.
    pub fn render(&self, dialogue: &Dialogue, add_generation_prompt: bool) -> std::result::Result<String, String> {
        let fail = |error: minijinja::Error| format!("the chat template cannot be rendered: {}", describe(&error));
        let messages: Vec<Json> = dialogue.messages.iter().map(Message::to_json).collect();
        let tools = (!dialogue.tools.is_empty()).then_some(&dialogue.tools);
        let tokens: Value = self.tokens.iter().map(|(name, token)| (name.as_str(), token.as_str())).collect();
        let arguments =
            context! { messages, add_generation_prompt, enable_thinking => false, tools, documents => (), ..tokens };
        let input: usize = dialogue.texts().map(str::len).sum::<usize>() + size(&dialogue.tools);
        let mut out = Bounded { limit: MIN_OUTPUT_BYTES.max(MAX_OUTPUT_RATIO * input), ..Bounded::default() };
        let tool_use = tools.and_then(|_| self.environment.get_template(TOOL_USE).ok());
        let template = tool_use.map_or_else(|| self.environment.get_template(DEFAULT), Ok).map_err(fail)?;
        match template.render_captured_to(arguments, &mut out) {
            Ok(_) => Ok(String::from_utf8(out.bytes).expect("templates write whole strings")),
            Err(_) if out.full => {
                Err(format!("the chat template writes more than {} bytes for a dialogue of {input}", out.limit))
            }
            Err(error) => Err(fail(error)),
        }
    }
}

/// The approximate size in bytes of the strings in some values.
fn size(values: &[Json]) -> usize {
    let of = |value: &Json| match value {
        Json::String(text) => text.len(),
        Json::Array(values) => size(values),
        Json::Object(values) => values.iter().map(|(key, value)| key.len() + size(std::slice::from_ref(value))).sum(),
        _ => 8,
    };
    values.iter().map(of).sum()
}

fn read_if_there(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(source) => Ok(Some(source)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::invalid(file.display(), error)),
    }
}

/// The settings that templates are written for.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |what: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
    });
    // Returns the format itself: a prompt with a date would change from day to day, and cannot be compared
    // anyway.
    environment.add_function("strftime_now", |format: String| format);
    environment.add_filter("tojson", python_json::filter);
    environment
}

/// Replaces `{% generation %}`, which only marks answers for training programs, by an `if` with the same
/// output.
fn without_generation_tags(source: &str) -> String {
    let mut out = source.to_owned();
    for (open, close) in [("{% ", " %}"), ("{%- ", " %}"), ("{% ", " -%}"), ("{%- ", " -%}")] {
        out = out.replace(&format!("{open}generation{close}"), &format!("{open}if true{close}"));
        out = out.replace(&format!("{open}endgeneration{close}"), &format!("{open}endif{close}"));
    }
    out
}

/// Templates in the config: `chat_template` is a text, or a list of named texts.
fn in_config(config: &Json, file: &Path) -> Result<Vec<(String, String)>> {
    match &config["chat_template"] {
        Json::Null => Ok(Vec::new()),
        Json::String(source) => Ok(vec![(DEFAULT.to_owned(), source.clone())]),
        Json::Array(_) => {
            let named = |template: &Json| {
                Some((template["name"].as_str()?.to_owned(), template["template"].as_str()?.to_owned()))
            };
            let sources: Vec<_> = config["chat_template"].as_array().into_iter().flatten().filter_map(named).collect();
            if !sources.iter().any(|(name, _)| name == DEFAULT) {
                let what = "`chat_template` is a list without a template named `default`, expected one";
                return Err(Error::invalid(file.display(), what));
            }
            Ok(sources)
        }
        _ => Err(Error::invalid(
            file.display(),
            "`chat_template` is neither a text nor a list, expected a Jinja template",
        )),
    }
}

/// The named tokens that templates may refer to.
fn tokens(config: &Json) -> Vec<(String, String)> {
    let text = |name: &str| config[name].as_str().or_else(|| config[name]["content"].as_str());
    let named = ["bos_token", "eos_token", "pad_token", "unk_token"];
    named.iter().filter_map(|name| Some(((*name).to_owned(), text(name)?.to_owned()))).collect()
}

/// The error and its line, as one line of text.
fn describe(error: &minijinja::Error) -> String {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "it runs too long".to_owned(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    let what = what.replace(['\n', '\r'], " ");
    error.line().map_or(what.clone(), |line| format!("{what} (line {line} of the template)"))
}

#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.full = true;
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

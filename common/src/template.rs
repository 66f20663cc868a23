//! A checkpoint's chat template (Jinja), rendered only to compare it with our ChatML. Templates come from strangers: they run
//! without a loader, with a fuel limit, and their output is bounded.

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde_json::Value as Json;

use crate::chatml::Message;
use crate::error::{Error, Result};

/// Templates are a few kilobytes; the largest published ones about 20.
const MAX_SOURCE_BYTES: usize = 256 * 1024;
/// The probes render to less than a kilobyte.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;
/// Instructions per rendering; the Qwen3 template needs a few hundred on a probe.
const FUEL: u64 = 200_000;

/// A chat template.
#[derive(Debug)]
pub struct Template {
    file: PathBuf,
    environment: Environment<'static>,
    /// `bos_token` and its like, by name.
    tokens: Vec<(String, String)>,
}

impl Template {
    /// The template of a checkpoint: `chat_template.jinja`, or the one in `tokenizer_config.json`; `None` where neither is.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a file is damaged or the template does not parse.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let config_file = dir.join("tokenizer_config.json");
        let config = match std::fs::read(&config_file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid(config_file.display(), format!("{error}, expected JSON")))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Json::Null,
            Err(error) => return Err(Error::io(&config_file)(error)),
        };
        let jinja_file = dir.join("chat_template.jinja");
        let (file, source) = match std::fs::read_to_string(&jinja_file) {
            Ok(source) => (jinja_file, source),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(source) = in_config(&config, &config_file)? else { return Ok(None) };
                (config_file, source)
            }
            Err(error) => return Err(Error::invalid(jinja_file.display(), error)),
        };
        Self::new(file, source, tokens(&config)).map(Some)
    }

    fn new(file: PathBuf, source: String, tokens: Vec<(String, String)>) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let what = format!("the chat template has {} bytes, expected at most {MAX_SOURCE_BYTES}", source.len());
            return Err(Error::invalid(file.display(), what));
        }
        let mut environment = environment();
        environment.add_template_owned("chat_template", without_generation_tags(&source)).map_err(|error| {
            Error::invalid(file.display(), format!("the chat template does not parse: {}", describe(&error)))
        })?;
        Ok(Self { file, environment, tokens })
    }

    /// Where it stands.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What the template writes, with thinking turned off where it can be.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the template fails, runs too long or writes too much.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let fail = |error: minijinja::Error| {
            Error::invalid(self.file.display(), format!("the chat template cannot be rendered: {}", describe(&error)))
        };
        let tokens: Value = self.tokens.iter().map(|(name, token)| (name.as_str(), token.as_str())).collect();
        let arguments = context! { messages, add_generation_prompt, enable_thinking => false, tools => (), documents => (), ..tokens };
        let mut out = Bounded::default();
        let template = self.environment.get_template("chat_template").map_err(fail)?;
        match template.render_captured_to(arguments, &mut out) {
            Ok(_) => Ok(String::from_utf8(out.bytes).expect("templates write whole strings")),
            Err(_) if out.full => {
                let what = format!("the chat template writes more than {MAX_OUTPUT_BYTES} bytes for a short dialogue");
                Err(Error::invalid(self.file.display(), what))
            }
            Err(error) => Err(fail(error)),
        }
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
    // A date in a prompt would differ from day to day, so a template that writes one cannot agree with ours anyway.
    environment.add_function("strftime_now", |format: String| format);
    environment.add_filter("tojson", |value: Value, _: Kwargs| {
        serde_json::to_string(&value)
            .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))
    });
    environment
}

/// `{% generation %}` only marks answers for training programs; as an `if` it writes the same.
fn without_generation_tags(source: &str) -> String {
    let mut out = source.to_owned();
    for (open, close) in [("{% ", " %}"), ("{%- ", " %}"), ("{% ", " -%}"), ("{%- ", " -%}")] {
        out = out.replace(&format!("{open}generation{close}"), &format!("{open}if true{close}"));
        out = out.replace(&format!("{open}endgeneration{close}"), &format!("{open}endif{close}"));
    }
    out
}

/// `chat_template` is a text, or a list of named texts.
fn in_config(config: &Json, file: &Path) -> Result<Option<String>> {
    match &config["chat_template"] {
        Json::Null => Ok(None),
        Json::String(source) => Ok(Some(source.clone())),
        Json::Array(named) => {
            let default = named.iter().find(|template| template["name"] == "default");
            let source = default.and_then(|template| template["template"].as_str());
            let what = "`chat_template` is a list without a template named `default`, expected one";
            source.map(|source| Some(source.to_owned())).ok_or_else(|| Error::invalid(file.display(), what))
        }
        _ => Err(Error::invalid(
            file.display(),
            "`chat_template` is neither a text nor a list, expected a Jinja template",
        )),
    }
}

/// The named tokens, which templates may write.
fn tokens(config: &Json) -> Vec<(String, String)> {
    let text = |name: &str| config[name].as_str().or_else(|| config[name]["content"].as_str());
    let named = ["bos_token", "eos_token", "pad_token", "unk_token"];
    named.iter().filter_map(|name| Some(((*name).to_owned(), text(name)?.to_owned()))).collect()
}

/// One line: what went wrong and where.
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
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
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

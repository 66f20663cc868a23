//! A model that writes what a test says, and tools that answer what a test says.

use std::time::Duration;

use align_core::error::Result;
use align_text::chatml::Message;
use align_tools::agent::{Ended, Limits, Model, OnError, Turn, Written, run};
use align_tools::interpreter::{Interpreter, Output};
use align_tools::react;
use align_tools::tool::{InputFormat, ToolDescription};
use align_tools::toolbox::{Observation, Tool, Toolbox};
use serde_json::json;

/// Writes the texts in order; the last one again and again. Like a generator, it cuts a text at a stop text.
pub(crate) struct Scripted {
    texts: Vec<&'static str>,
    ended: Ended,
    /// The prefixes that it was given.
    pub(crate) prefixes: Vec<String>,
    /// The turns that it was given.
    pub(crate) messages: Vec<Message>,
}

impl Scripted {
    pub(crate) fn new(texts: &[&'static str]) -> Self {
        Self { texts: texts.to_vec(), ended: Ended::EndToken, prefixes: Vec::new(), messages: Vec::new() }
    }

    /// The same, with texts that are cut off.
    pub(crate) fn cut_off(texts: &[&'static str]) -> Self {
        Self { ended: Ended::Length, ..Self::new(texts) }
    }
}

impl Model for Scripted {
    fn generate(&mut self, messages: &[Message], prefix: &str, stops: &[String], max_tokens: usize) -> Result<Written> {
        assert!(max_tokens > 0);
        let text = self.texts[self.prefixes.len().min(self.texts.len() - 1)];
        self.prefixes.push(prefix.to_owned());
        self.messages = messages.to_vec();
        let stop = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
        Ok(match stop {
            Some(at) => Written { text: text[..at].to_owned(), ended: Ended::StopText },
            None => Written { text: text.to_owned(), ended: self.ended },
        })
    }
}

/// A tool that answers with a fixed text, and `{input}` in it replaced by its input.
pub(crate) struct Fixed(pub(crate) ToolDescription, pub(crate) &'static str);

impl Tool for Fixed {
    fn description(&self) -> &ToolDescription {
        &self.0
    }

    fn call(&mut self, input: &str, _: Duration) -> Result<Observation> {
        Ok(Observation::of(self.1.replace("{input}", input)))
    }
}

pub(crate) fn described(name: &str) -> ToolDescription {
    ToolDescription {
        name: name.to_owned(),
        human_name: name.to_owned(),
        description: "A tool.".to_owned(),
        parameters: json!([{"name": "q", "description": "", "required": true, "schema": {"type": "string"}}]),
        input: InputFormat::Json,
    }
}

/// A toolbox of one tool `find`.
pub(crate) fn answering(text: &'static str) -> Toolbox {
    Toolbox::new(vec![Box::new(Fixed(described("find"), text))])
}

/// Runs a turn about a question.
pub(crate) fn turn(model: &mut Scripted, tools: &mut Toolbox, limits: &Limits) -> Turn {
    let messages = react::messages(&tools.descriptions(), react::Wording::Guide, &[], "Where?");
    run(model, tools, limits, &messages, "", &mut |_| {}).unwrap()
}

/// Limits that end at an error.
pub(crate) fn ends_at_error() -> Limits {
    Limits { on_error: OnError::End, ..Limits::default() }
}

/// An interpreter that records its code and gives fixed outputs in order.
#[derive(Default)]
pub(crate) struct FixedPython {
    pub(crate) outputs: Vec<Output>,
    pub(crate) codes: std::rc::Rc<std::cell::RefCell<Vec<String>>>,
}

impl Interpreter for FixedPython {
    fn run(&mut self, code: &str, _: Duration) -> Result<Output> {
        self.codes.borrow_mut().push(code.to_owned());
        Ok(if self.outputs.is_empty() { Output::default() } else { self.outputs.remove(0) })
    }

    fn restart(&mut self) -> Result<()> {
        self.codes.borrow_mut().push("restart".to_owned());
        Ok(())
    }
}

//! Tools that can be called, by name.

use std::path::PathBuf;
use std::time::Duration;

use align_core::error::Result;
use serde::Serialize;

use crate::tool::ToolDescription;

/// The result of a call: text for the model, and pictures for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Observation {
    /// What the model reads.
    pub text: String,
    /// Whether the call failed.
    pub is_error: bool,
    /// Pictures that the call made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<PathBuf>,
}

impl Observation {
    /// A result.
    pub fn of(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A call that failed; the text begins with `error: `.
    pub fn error(what: impl std::fmt::Display) -> Self {
        Self { text: format!("error: {what}"), is_error: true, figures: Vec::new() }
    }

    /// Whether the text says that something failed. Source: QwenLM/Qwen-Agent, benchmark.
    pub fn spells_error(&self) -> bool {
        self.text.contains("error:") || self.text.contains("Traceback")
    }

    /// The same, without the middle of a text of more than `max_chars` characters.
    #[must_use]
    pub fn clipped(mut self, max_chars: usize) -> Self {
        let count = self.text.chars().count();
        if count > max_chars {
            let at = |index: usize| self.text.char_indices().nth(index).map_or(self.text.len(), |(at, _)| at);
            let (head, tail) = (at(max_chars - max_chars / 3), at(count - max_chars / 3));
            let left_out = count - max_chars;
            self.text = format!("{}\n… {left_out} characters left out …\n{}", &self.text[..head], &self.text[tail..]);
        }
        self
    }
}

/// A tool that can be called.
pub trait Tool {
    /// What the model reads about it.
    fn description(&self) -> &ToolDescription;

    /// Runs a call. `time` is what is left of the turn; a tool may have a shorter limit of its own.
    ///
    /// # Errors
    /// When the tool cannot run at all. A call that fails is an [`Observation::error`].
    fn call(&mut self, input: &str, time: Duration) -> Result<Observation>;

    /// Forgets what it keeps of a dialogue.
    ///
    /// # Errors
    /// When the tool cannot run at all.
    fn reset(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Which names refer to a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Names {
    /// That of a tool, in any case.
    #[default]
    Listed,
    /// Any name refers to the first tool.
    Any,
}

/// The tools of a dialogue.
#[derive(Default)]
pub struct Toolbox {
    tools: Vec<Box<dyn Tool>>,
    names: Names,
}

impl Toolbox {
    /// The tools, of which no two may have one name.
    ///
    /// # Panics
    /// When two have.
    pub fn new(tools: Vec<Box<dyn Tool>>) -> Self {
        for (index, tool) in tools.iter().enumerate() {
            let name = &tool.description().name;
            assert!(tools[..index].iter().all(|other| other.description().name != *name), "two tools {name}");
        }
        Self { tools, names: Names::Listed }
    }

    /// One tool, which is called by any name. Source: QwenLM/Qwen-Agent, benchmark.
    pub fn of_any_name(tool: Box<dyn Tool>) -> Self {
        Self { tools: vec![tool], names: Names::Any }
    }

    /// What the model reads about the tools.
    pub fn descriptions(&self) -> Vec<ToolDescription> {
        self.tools.iter().map(|tool| tool.description().clone()).collect()
    }

    /// Runs a call. An unknown name is an observation that lists the tools.
    ///
    /// # Errors
    /// When the tool cannot run at all.
    pub fn call(&mut self, name: &str, input: &str, time: Duration) -> Result<Observation> {
        let named = |wanted: &str| {
            let exact = self.tools.iter().position(|tool| tool.description().name == wanted);
            let lower = wanted.to_lowercase();
            exact.or_else(|| self.tools.iter().position(|tool| tool.description().name.to_lowercase() == lower))
        };
        let found = if self.names == Names::Any { Some(0) } else { named(name) };
        match found.and_then(|index| self.tools.get_mut(index)) {
            Some(tool) => tool.call(input, time),
            None => {
                let names: Vec<&str> = self.tools.iter().map(|tool| tool.description().name.as_str()).collect();
                let name: String = name.chars().filter(|char| !char.is_control()).take(80).collect();
                Ok(Observation::error(format!("there is no tool `{name}`, expected one of: {}", names.join(", "))))
            }
        }
    }

    /// Begins another dialogue.
    ///
    /// # Errors
    /// When a tool cannot run at all.
    pub fn reset(&mut self) -> Result<()> {
        self.tools.iter_mut().try_for_each(|tool| tool.reset())
    }
}

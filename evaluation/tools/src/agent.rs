//! The loop of a turn: the model writes, a tool answers, until the model has answered or a limit is reached.
//!
//! Calls and answers are read from what the model wrote and from nothing else. The result of a tool enters
//! the turn as text, whatever it spells.

use std::fmt;
use std::time::{Duration, Instant};

use align_core::error::Result;
use align_text::chatml::Message;
use serde::Serialize;

use crate::react;
use crate::toolbox::{Observation, Toolbox};

/// Why a model stopped writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// At one of the stop texts, which is cut off.
    StopText,
    /// By itself: it wrote an end token.
    EndToken,
    /// At the maximum number of tokens, or where its context is full.
    Length,
}

/// What a model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text, without control tokens and without the stop text.
    pub text: String,
    /// Why it ends.
    pub ended: Ended,
}

/// A model that continues an assistant's turn.
pub trait Model {
    /// Continues the assistant's turn after `messages`. The turn begins with `prefix`, and the text of both
    /// is encoded as text: a control token that it spells is not one. The written text ends before the
    /// first occurrence of any of `stops`, wherever in a token that is.
    ///
    /// # Errors
    /// When the model cannot continue.
    fn generate(&mut self, messages: &[Message], prefix: &str, stops: &[String], max_tokens: usize) -> Result<Written>;
}

/// When a turn ends by an error of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Never: the model reads the error and can try again.
    #[default]
    Continue,
    /// At a result that contains `error:` or `Traceback`. Source: QwenLM/Qwen-Agent, benchmark.
    End,
}

/// The limits of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// After this many calls the turn ends; the model does not see the result of the last. Our choice.
    pub max_calls: usize,
    /// Tokens that the model writes until a call or its answer. Our choice.
    pub max_tokens: usize,
    /// The same call with the same result this many times in a row ends the turn. Our choice.
    pub max_repeats: usize,
    /// Wall-clock limit of the turn. Checked before the model writes; a tool gets no more than what is left.
    pub time: Duration,
    /// A longer result loses its middle. Our choice.
    pub max_observation_chars: usize,
    /// Whether an error ends the turn.
    pub on_error: OnError,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_calls: 10,
            max_tokens: 1024,
            max_repeats: 3,
            time: Duration::from_secs(600),
            max_observation_chars: 8000,
            on_error: OnError::Continue,
        }
    }
}

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// With a final answer.
    Answered,
    /// The model ended without call and without `Final Answer:`. Its text is the answer.
    Text,
    /// The model wrote `Observation:` without a call before it.
    NoCall,
    /// The text reached its maximum length. A call in it is not made, since it may be incomplete.
    Length,
    /// At [`Limits::max_calls`].
    Calls,
    /// At [`Limits::max_repeats`].
    Repeats,
    /// At [`Limits::time`].
    Time,
    /// At an error of a tool ([`OnError::End`]).
    Error,
}

impl Finish {
    /// Whether the turn ended as the model wanted.
    pub fn is_whole(self) -> bool {
        matches!(self, Finish::Answered | Finish::Text)
    }
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finish::Answered => "answered",
            Finish::Text => "ended without `Final Answer:`",
            Finish::NoCall => "wrote `Observation:` without a call before it",
            Finish::Length => "stopped at the maximum length",
            Finish::Calls => "stopped at the maximum number of calls",
            Finish::Repeats => "stopped: the same call gave the same result again and again",
            Finish::Time => "stopped at the time limit",
            Finish::Error => "ended at an error of a tool",
        })
    }
}

/// A call, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The text that the model wrote, up to the observation.
    pub written: String,
    /// The name that the model wrote.
    pub name: String,
    /// The input that the model wrote.
    pub input: String,
    /// The result.
    pub observation: Observation,
}

/// A whole turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Turn {
    /// The calls, in order.
    pub steps: Vec<Step>,
    /// What the model wrote after the last call.
    pub last: String,
    /// The assistant's text: the prefix, and all of the above with the observations.
    pub text: String,
    /// The answer, if the model gave one.
    pub answer: Option<String>,
    /// Why the turn ended.
    pub finish: Finish,
}

/// What happens in a turn, as it happens.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The model wrote a text that has no call.
    Wrote(&'a str),
    /// The model wrote a text that ends with a call, which is made now.
    Calling {
        /// The text.
        written: &'a str,
        /// The tool.
        name: &'a str,
        /// Its input.
        input: &'a str,
    },
    /// A tool answered.
    Observed(&'a Observation),
}

/// Runs an assistant's turn after `messages`. It begins with `prefix`, which is "" unless a row brings the
/// beginning of an answer. `watch` is called as things happen.
///
/// # Errors
/// When the model or a tool cannot run at all. Errors of a call are observations.
pub fn run(
    model: &mut dyn Model,
    tools: &mut Toolbox,
    limits: &Limits,
    messages: &[Message],
    prefix: &str,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Turn> {
    let begin = Instant::now();
    let stops = [react::STOP.to_owned()];
    let mut turn =
        Turn { steps: Vec::new(), last: String::new(), text: prefix.to_owned(), answer: None, finish: Finish::Calls };
    loop {
        turn.finish = match limit_reached(&turn.steps, limits, begin) {
            Some(finish) => return Ok(Turn { finish, ..turn }),
            None => Finish::Answered,
        };
        let written = model.generate(messages, &turn.text, &stops, limits.max_tokens)?;
        let call = match outcome(&written, &turn.text) {
            Outcome::Ends(finish) => {
                turn.answer = answer(&written, finish);
                watch(Event::Wrote(&written.text));
                turn.text.push_str(&written.text);
                return Ok(Turn { last: written.text, finish, ..turn });
            }
            Outcome::Calls(call) => call,
        };
        watch(Event::Calling { written: &call.text, name: &call.name, input: &call.input });
        let left = limits.time.saturating_sub(begin.elapsed());
        let observation = tools.call(&call.name, &call.input, left)?.clipped(limits.max_observation_chars);
        watch(Event::Observed(&observation));
        turn.text.push_str(&call.text);
        turn.text.push_str(&react::observation(&observation.text));
        turn.steps.push(Step { written: call.text, name: call.name, input: call.input, observation });
    }
}

/// The limit that the turn has reached, if any.
fn limit_reached(steps: &[Step], limits: &Limits, begin: Instant) -> Option<Finish> {
    if let Some(last) = steps.last() {
        let is_same = |step: &&Step| {
            (&step.name, &step.input, &step.observation.text) == (&last.name, &last.input, &last.observation.text)
        };
        if limits.on_error == OnError::End && last.observation.spells_error() {
            return Some(Finish::Error);
        }
        if steps.iter().rev().take_while(is_same).count() >= limits.max_repeats {
            return Some(Finish::Repeats);
        }
    }
    if steps.len() >= limits.max_calls {
        return Some(Finish::Calls);
    }
    (begin.elapsed() >= limits.time).then_some(Finish::Time)
}

enum Outcome {
    Calls(react::Call),
    Ends(Finish),
}

/// What a written text means. `before` is the turn so far, of which only its end counts: whether the text
/// begins a line.
fn outcome(written: &Written, before: &str) -> Outcome {
    let text = written.text.as_str();
    if written.ended == Ended::Length {
        return Outcome::Ends(Finish::Length);
    }
    // A call in the first line of a turn has no line break before it.
    let begins_line = before.is_empty() || before.ends_with('\n');
    let call = match begins_line {
        true => react::last_call(&format!("\n{text}"))
            .map(|call| react::Call { text: call.text.strip_prefix('\n').unwrap_or_default().to_owned(), ..call }),
        false => react::last_call(text),
    };
    match (call, written.ended) {
        // It wanted a result, so whatever comes after `Action Input:` is the input.
        (Some(call), Ended::StopText) => Outcome::Calls(call),
        (Some(call), _) if !react::answers_after_call(text) => Outcome::Calls(call),
        (None, Ended::StopText) if react::final_answer(text).is_none() => Outcome::Ends(Finish::NoCall),
        _ if react::final_answer(text).is_some() => Outcome::Ends(Finish::Answered),
        _ => Outcome::Ends(Finish::Text),
    }
}

/// The answer in the last text that a model wrote.
fn answer(written: &Written, finish: Finish) -> Option<String> {
    let text = written.text.as_str();
    match finish {
        Finish::Text => {
            let text = text.trim();
            let text = text.strip_prefix("Thought:").unwrap_or(text).trim();
            (!text.is_empty()).then(|| text.to_owned())
        }
        _ => react::final_answer(text).map(str::to_owned),
    }
}

//! Tools through ReAct: prompts, parsing, the loop of a dialogue, and the scores of the report's Tables 6, 7
//! and 8. Which model writes is not known here.
//!
//! - [`tool`]: what a model reads about a tool; [`react`]: the prompt, and calls as text; [`arguments`]: the
//!   input of a call; [`functions`]: OpenAI's `functions` as ReAct.
//! - [`agent`]: the loop of a turn; [`toolbox`]: tools by name. Two kinds of tools: [`interpreter`] runs
//!   Python ([`sandboxed`]: in the sandbox), [`command`] a program of the user's, which [`tool_file`] reads
//!   from TOML.
//! - [`selection`] and `rouge`: Table 6. [`code_rows`], [`code_scores`] and [`numbers`]: Tables 7 and 8.
//! - [`training`]: worked dialogues as rows for sft.
//!
//! Imports `core`, `data`, `text` and `sandbox`, and not libtorch.

#![forbid(unsafe_code)]

pub mod agent;
pub mod arguments;
pub mod code_rows;
pub mod code_scores;
pub mod command;
pub mod functions;
pub mod interpreter;
pub mod numbers;
pub mod react;
mod rouge;
mod rows;
pub mod sandboxed;
pub mod selection;
pub mod tool;
pub mod tool_file;
pub mod toolbox;
pub mod training;

pub use rouge::rouge_l;

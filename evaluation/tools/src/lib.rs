//! Tools through ReAct: prompts, parsing, scores, and the loop of a dialogue.
//!
//! Imports `core`, `data`, `text`, `sandbox` and `statistics`, and not libtorch.

#![forbid(unsafe_code)]

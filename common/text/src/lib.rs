//! Text to token ids: tokenizers, ChatML, and the chat templates of checkpoints.
//!
//! Imports `align-core`, and not libtorch.
//!
//! - [`tokenizer`]: `tokenizer.json` and `qwen.tiktoken`. Text never becomes a control token; those are inserted by id.
//! - [`chatml`]: messages, how a dialogue is laid out, and which of its tokens are trained.
//! - [`template`]: a checkpoint's own chat template, which is the judge of that layout.

pub mod chatml;
pub mod template;
pub mod tokenizer;

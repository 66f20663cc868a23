//! Text to token ids: tokenizers, ChatML, and the chat templates of checkpoints.
//!
//! Depends on `align-core` only, and does not link libtorch.
//!
//! - [`tokenizer`]: `tokenizer.json` and `qwen.tiktoken`. Text never becomes a control token; those are
//!   inserted by id.
//! - `dialogue`: turns and tools, before tokenization; public as part of [`chatml`].
//! - [`chatml`]: how dialogues become ChatML, and which of their tokens carry loss.
//! - [`template`]: a checkpoint's own chat template, the reference for that layout.

#![forbid(unsafe_code)]

pub mod chatml;
mod dialogue;
pub mod template;
pub mod tokenizer;

//! The transformers.

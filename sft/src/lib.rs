//! align-sft

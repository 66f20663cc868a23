//! Drives `align` from outside, and compares its numbers with recorded ones.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that fails says where and why")]

mod bench;
mod cases;
mod cli;
mod compare;
mod configs;
mod curation;
mod docs;
mod evaluation;
mod foreign;
mod formats;
mod guards;
mod hostile;
mod inputs;
mod inspect;
mod invariants;
mod judge;
mod label;
mod oracles;
mod pictures;
mod pipeline;
mod plan;
mod quickstart;
mod readme;
mod replay;
mod report;
mod resume;
mod runs;
mod score;
mod serve;
mod service;
mod tasks;
mod tree;
mod util;
mod words;
mod written;

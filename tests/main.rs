//! Drives `align` from outside, and compares its numbers with recorded ones.

mod oracles;
mod readme;

//! What services have in common: the address, connections and their limits, tokens, bodies and refusals.

mod body;
mod connections;
mod listen;
mod refusal;
mod token;

pub(crate) use body::{read, refuse};
pub(crate) use connections::Limits;
pub(crate) use listen::{Bound, answer};
pub(crate) use refusal::Refusal;
pub(crate) use token::{Token, read_token};

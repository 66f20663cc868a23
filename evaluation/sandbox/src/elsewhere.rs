//! Systems without Landlock and seccomp: [`crate::Isolation::Full`] is refused. Takes the places of `calls` and `files`.
#![allow(dead_code, reason = "each place uses one of the functions")]

use std::os::fd::OwnedFd;
use std::path::Path;

use align_core::error::{Error, Result};

use crate::{Python, Rule};

/// No filter exists.
#[derive(Debug)]
pub(crate) enum Filter {}

/// Refuses.
pub(crate) fn filters(_: &[Rule]) -> Result<Vec<Filter>> {
    Err(unsupported())
}

/// Refuses.
pub(crate) fn ruleset(_: &[Rule], _: &Python, _: Option<&Path>) -> Result<OwnedFd> {
    Err(unsupported())
}

fn unsupported() -> Error {
    Error::invalid(
        "sandbox",
        "this system has no Landlock, expected Linux 5.13 or newer; --unsafe-execution runs programs with limits only",
    )
}

//! The interpreter of a dialogue in the sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use align_core::error::{Error, Result};
use align_sandbox::{Ended, Sandbox, Session};

use crate::code_scores::Program;
use crate::interpreter::{Interpreter, Output};

/// What a session of Qwen-Agent's benchmark begins with, as far as the packages are there. Models write code
/// that expects it. Source: QwenLM/Qwen-Agent, benchmark.
pub const SESSION_IMPORTS: &str = "\
import json, math, os, re
try:
    import numpy as np
except ImportError:
    pass
try:
    import pandas as pd
except ImportError:
    pass
try:
    import matplotlib
    import matplotlib.pyplot as plt
except ImportError:
    pass
try:
    import seaborn as sns
    sns.set_theme()
except ImportError:
    pass
try:
    from sympy import Eq, solve, symbols
except ImportError:
    pass
None
";

/// A session of the sandbox. Its time limit for a call is that of the sandbox ([`align_sandbox::Limits`]).
pub struct SandboxedPython {
    sandbox: Sandbox,
    figures: PathBuf,
    files: Vec<PathBuf>,
    imports: &'static str,
    session: Option<Session>,
    /// Whether the imports must run before the next code.
    is_fresh: bool,
}

impl SandboxedPython {
    /// An interpreter that is started when the first code runs. Pictures are written to the folder `figures`;
    /// `imports` run before the first code ([`SESSION_IMPORTS`], or "" for none).
    pub fn new(sandbox: Sandbox, figures: &Path, imports: &'static str) -> Self {
        Self { sandbox, figures: figures.to_owned(), files: Vec::new(), imports, session: None, is_fresh: true }
    }

    /// Begins again with these files in the folder in which the code runs.
    ///
    /// # Errors
    /// When a running interpreter cannot be ended.
    pub fn restart_with(&mut self, files: &[PathBuf]) -> Result<()> {
        self.files = files.to_vec();
        self.restart()
    }

    fn session(&mut self) -> Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                let session = Session::start(&self.sandbox, &self.figures)?;
                for file in &self.files {
                    let name = file.file_name().unwrap_or(file.as_os_str());
                    fs::copy(file, session.work_folder().join(name)).map_err(Error::io(file))?;
                }
                session
            }
        };
        Ok(self.session.insert(session))
    }
}

/// Runs a row's program in a fresh interpreter, with its files. `None` if it ran to its end, else why not.
/// The sandbox's time limit for a block must be [`Program::seconds`].
///
/// # Errors
/// When no interpreter can run at all.
pub fn failure(sandbox: &Sandbox, program: &Program, figures: &Path) -> Result<Option<String>> {
    let mut python = SandboxedPython::new(sandbox.clone(), figures, "");
    python.restart_with(&program.files)?;
    let output = python.run(&program.source, Duration::from_secs_f64(program.seconds))?;
    Ok(match output.timed_out {
        Some(limit) => Some(format!("timed out after {} s", limit.as_secs_f64())),
        None => output.error,
    })
}

impl Interpreter for SandboxedPython {
    fn run(&mut self, code: &str, _: Duration) -> Result<Output> {
        let (imports, is_fresh) = (self.imports, std::mem::take(&mut self.is_fresh));
        let session = self.session()?;
        if is_fresh && !imports.is_empty() {
            session.run(imports)?;
        }
        let answer = session.run(code)?;
        self.is_fresh = answer.ended.is_some();
        let timed_out = match answer.ended {
            Some(Ended::TimedOut(limit)) => Some(limit),
            _ => None,
        };
        Ok(Output {
            error: answer.traceback.or_else(|| answer.ended.map(|ended| ended.to_string())),
            stdout: answer.stdout,
            stderr: answer.stderr,
            value: answer.value,
            timed_out,
            figures: answer.figures,
        })
    }

    fn restart(&mut self) -> Result<()> {
        self.session = None;
        self.is_fresh = true;
        Ok(())
    }
}

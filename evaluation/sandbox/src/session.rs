//! A long-lived interpreter: the code interpreter of one dialogue.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use align_core::error::{Error, Result};
use serde::Deserialize;

use crate::Sandbox;
use crate::interpreter::{End, Interpreter, signal_of};
use crate::usage::excess;
use crate::work_folder::WorkFolder;

/// Bytes before the parts of an answer: the request's number, and the lengths of the parts.
const HEADER: usize = 24;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// An interpreter that keeps its variables and files from block to block. It is stopped between blocks, and killed when
/// this is dropped.
#[derive(Debug)]
pub struct Session {
    sandbox: Sandbox,
    work_folder: WorkFolder,
    figures: PathBuf,
    num_figures: u64,
    /// `None` after it ended; the next block starts another.
    interpreter: Option<Interpreter>,
}

/// What a block printed, returned and drew.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The first [`crate::Limits::output`] bytes that were printed.
    pub stdout: String,
    /// The last such bytes of the errors that were printed; the traceback is not among them.
    pub stderr: String,
    /// The block's exception, with its frames.
    pub traceback: Option<String>,
    /// `repr` of the block's last expression, unless it is `None`.
    pub value: Option<String>,
    /// PNG files of matplotlib's figures, in the folder that the session was given.
    pub figures: Vec<PathBuf>,
    /// Why the interpreter is gone, if it is. The next block starts another, which has none of the variables.
    pub ended: Option<Ended>,
    /// From the block's arrival to its answer.
    pub seconds: f64,
}

/// How a block ended the interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It took longer than this.
    TimedOut(Duration),
    /// It ended the process, as `os._exit` does.
    Exited,
    /// It crashed.
    Crashed {
        /// The end of "the program …".
        reason: String,
    },
    /// It exceeded a limit. The work folder is empty again.
    Exceeded {
        /// The end of "the program …".
        reason: String,
    },
}

/// What the driver answers, beside the figures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    value: Option<String>,
    traceback: Option<String>,
    /// Lengths of the figures.
    figures: Vec<usize>,
}

impl Session {
    /// Starts an interpreter. Figures become files `figure-1.png`, `figure-2.png`, … in the folder, which is made if it
    /// is missing; existing files are kept.
    ///
    /// # Errors
    /// If the process cannot be started or the folder not be made.
    pub fn start(sandbox: &Sandbox, figures: &Path) -> Result<Self> {
        fs::create_dir_all(figures).map_err(Error::io(figures))?;
        let work_folder = WorkFolder::new()?;
        let interpreter = Some(started(sandbox, &work_folder)?);
        let (sandbox, figures) = (sandbox.clone(), figures.to_owned());
        Ok(Self { sandbox, work_folder, figures, num_figures: 0, interpreter })
    }

    /// The folder in which the blocks read and write files.
    pub fn work_folder(&self) -> &Path {
        self.work_folder.path()
    }

    /// Executes a block, for at most [`crate::Limits::block`].
    ///
    /// # Errors
    /// If no process can be started or a figure not be written; whatever the block does is an [`Answer`].
    pub fn run(&mut self, block: &str) -> Result<Answer> {
        let start = Instant::now();
        let mut interpreter = match self.interpreter.take() {
            Some(interpreter) => interpreter,
            None => started(&self.sandbox, &self.work_folder)?,
        };
        interpreter.signal(libc::SIGCONT);
        // The answer carries the number, so that one that a block wrote in advance is not taken for it.
        let number = rand::random::<u64>().to_le_bytes();
        let request = [&number, &(block.len() as u64).to_le_bytes()[..], block.as_bytes()].concat();
        let (folder, wall) = (self.work_folder.path(), self.sandbox.limits.block);
        let end = interpreter.exchange(&self.sandbox, folder, &request, wall, is_complete)?;
        let (text, figures, mut ended) = match end {
            End::Answered(answer) => match parsed(&answer, number) {
                Some((text, figures)) => (Some(text), figures, None),
                None => (
                    None,
                    Vec::new(),
                    Some(Ended::Crashed { reason: "answered in the interpreter's place".to_owned() }),
                ),
            },
            End::Exited(status) => {
                let ended = signal_of(status).map_or(Ended::Exited, |reason| Ended::Crashed { reason });
                (None, Vec::new(), Some(ended))
            }
            End::TimedOut => (None, Vec::new(), Some(Ended::TimedOut(wall))),
            End::Exceeded(reason) => (None, Vec::new(), Some(Ended::Exceeded { reason })),
        };
        if ended.is_none() {
            interpreter.signal(libc::SIGSTOP);
            let excess = excess(interpreter.id(), self.work_folder.path(), &self.sandbox.limits);
            ended = excess.map(|reason| Ended::Exceeded { reason });
        }
        match ended {
            None => interpreter.drain(),
            Some(_) => drop(interpreter.end()?),
        }
        if matches!(ended, Some(Ended::Exceeded { .. })) {
            self.work_folder.clear().map_err(Error::io(self.work_folder.path()))?;
        }
        let figures = figures.iter().map(|figure| self.save(figure)).collect::<Result<_>>()?;
        let (value, traceback) = text.map_or((None, None), |text| (text.value, text.traceback));
        let (stdout, stderr) = (interpreter.stdout.take(), interpreter.stderr.take());
        self.interpreter = ended.is_none().then_some(interpreter);
        Ok(Answer { stdout, stderr, traceback, value, figures, ended, seconds: start.elapsed().as_secs_f64() })
    }

    /// Writes a figure under the next free name.
    fn save(&mut self, figure: &[u8]) -> Result<PathBuf> {
        loop {
            self.num_figures += 1;
            let path = self.figures.join(format!("figure-{}.png", self.num_figures));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    file.write_all(figure).map_err(Error::io(&path))?;
                    return Ok(path);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(&path)(error)),
            }
        }
    }
}

impl Answer {
    /// Whether the block ran to its end without an exception.
    pub fn is_executed(&self) -> bool {
        self.traceback.is_none() && self.ended.is_none()
    }
}

/// As a model reads it: what was printed, the value, the traceback, and why the interpreter is gone.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.ended.as_ref().map(ToString::to_string);
        let texts =
            [Some(&self.stdout), Some(&self.stderr), self.value.as_ref(), self.traceback.as_ref(), ended.as_ref()];
        let texts = texts.into_iter().flatten().map(|text| text.trim_end()).filter(|text| !text.is_empty());
        f.write_str(&texts.collect::<Vec<_>>().join("\n"))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::TimedOut(limit) => write!(f, "The block was stopped after {} s", limit.as_secs_f64())?,
            Ended::Exited => f.write_str("The block ended the interpreter")?,
            Ended::Crashed { reason } => write!(f, "The program {reason}")?,
            Ended::Exceeded { reason } => write!(f, "The block {reason} and was stopped; its files are removed")?,
        }
        f.write_str("; the interpreter is started again, without its variables.")
    }
}

fn started(sandbox: &Sandbox, work_folder: &WorkFolder) -> Result<Interpreter> {
    Interpreter::start(sandbox, include_str!("session.py"), work_folder.path(), None)
}

/// The lengths of an answer's two parts.
fn lengths(answer: &[u8]) -> Option<(usize, usize)> {
    let length = |at: usize| {
        let bytes = answer.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    Some((length(8)?, length(16)?))
}

fn is_complete(answer: &[u8]) -> bool {
    let total = lengths(answer).and_then(|(text, figures)| HEADER.checked_add(text)?.checked_add(figures));
    total.is_some_and(|total| answer.len() >= total)
}

/// The parts of an answer; `None` if the driver did not write it, or not for this request.
fn parsed(answer: &[u8], number: [u8; 8]) -> Option<(Text, Vec<Vec<u8>>)> {
    let body = answer.strip_prefix(&number)?.get(16..)?;
    let (text, mut images) = body.split_at_checked(lengths(answer)?.0)?;
    let text: Text = serde_json::from_slice(text).ok()?;
    let mut figures = Vec::new();
    for length in &text.figures {
        let (figure, rest) = images.split_at_checked(*length)?;
        figures.push(figure.to_vec());
        images = rest;
    }
    let is_whole = images.is_empty() && figures.iter().all(|figure| figure.starts_with(PNG));
    is_whole.then_some((text, figures))
}

//! Runs what models write: the sandbox of a command.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use align_core::error::{Error, Result};
use align_core::progress::Progress;
use align_evaluation::records::{Executed, Program};
use align_sandbox::{Isolation, Limits, Outcome, Python, Sandbox, Verdict};

use crate::cli::ExecutionArgs;
use crate::terminal::Terminal;

/// The sandbox, after its test.
pub(super) struct Executor {
    sandbox: Sandbox,
}

impl Executor {
    /// Finds the interpreter and tests the sandbox.
    ///
    /// # Errors
    /// [`Error::Invalid`] without an interpreter or a sandbox.
    pub(super) fn new(args: &ExecutionArgs) -> Result<Self> {
        Self::with_limit(args, Limits::default().block)
    }

    /// The same with another time limit for a block of a session.
    ///
    /// # Errors
    /// As [`Executor::new`].
    pub(super) fn with_limit(args: &ExecutionArgs, block: Duration) -> Result<Self> {
        let python = Python::find(args.python.as_deref())?;
        let isolation = if args.unsafe_execution { Isolation::LimitsOnly } else { Isolation::Full };
        let sandbox = Sandbox::new(python, Limits { block, ..Limits::default() }, isolation)?;
        sandbox.self_test()?;
        Ok(Self { sandbox })
    }

    /// The sandbox.
    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// How programs were executed, for the result.
    pub(super) fn describe(&self) -> String {
        let python = self.sandbox.python().version();
        match self.sandbox.isolation() {
            Isolation::Full => format!("programs run in Python {python}, in a sandbox"),
            Isolation::LimitsOnly => format!("programs run in Python {python}, NOT in a sandbox (--unsafe-execution)"),
        }
    }

    /// Runs programs, in parallel.
    ///
    /// # Errors
    /// When no process can be started.
    pub(super) fn execute(
        executor: Option<&mut Self>,
        task: &str,
        programs: Vec<Program>,
        terminal: &mut Terminal,
    ) -> Result<Vec<Executed>> {
        let Some(Self { sandbox }) = executor else {
            return Err(Error::Failed(format!("{task}: has programs, and no sandbox was prepared")));
        };
        let longest = programs.iter().map(|program| program.seconds).fold(0.0, f64::max);
        let sources: Vec<&str> = programs.iter().map(|program| program.source.as_str()).collect();
        let workers = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        terminal.begin(&format!("{task}, tests"), programs.len() as u64);
        let done = AtomicU64::new(0);
        let outcomes = thread::scope(|scope| {
            let all = scope.spawn(|| {
                let progress = |_: usize, _: &Outcome| {
                    done.fetch_add(1, Ordering::Relaxed);
                };
                sandbox.run_all(&sources, Duration::from_secs_f64(longest), workers, progress)
            });
            let mut shown = 0;
            while !all.is_finished() {
                thread::sleep(Duration::from_millis(50));
                let now = done.load(Ordering::Relaxed);
                terminal.advance(now - shown, "");
                shown = now;
            }
            all.join().expect("the sandbox does not panic")
        });
        terminal.end();
        Ok(outcomes?.into_iter().map(|outcome| executed(outcome.verdict)).collect())
    }
}

fn executed(verdict: Verdict) -> Executed {
    let passed = verdict == Verdict::Passed;
    let outcome = match verdict {
        Verdict::Passed => "passed".to_owned(),
        Verdict::Failed { error } => error,
        Verdict::TimedOut => "timed out".to_owned(),
        Verdict::EndedBeforeChecks => "ended before its checks".to_owned(),
        Verdict::Killed { reason } => reason,
    };
    Executed { passed, outcome }
}

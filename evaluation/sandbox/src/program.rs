//! Runs programs that check themselves, each in a process and a folder of its own.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use align_core::error::Result;

use crate::Sandbox;
use crate::interpreter::{End, Interpreter, signal_of};
use crate::work_folder::WorkFolder;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its end was reached, which its checks come before.
    Passed,
    /// It raised an exception: the last line of its errors.
    Failed {
        /// As in `AssertionError: 3 != 4`.
        error: String,
    },
    /// It did not end in time.
    TimedOut,
    /// It ended by itself, and not at its end: by `sys.exit` or `os._exit`, whatever the exit code was.
    EndedBeforeChecks,
    /// It crashed, or exceeded a limit.
    Killed {
        /// The end of "the program …".
        reason: String,
    },
}

/// The result of one program.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// The first [`crate::Limits::output`] bytes that it printed.
    pub stdout: String,
    /// The last such bytes of its errors.
    pub stderr: String,
    /// From before its start to its end.
    pub seconds: f64,
}

impl Sandbox {
    /// Runs a program for at most `wall`, in a fresh folder that is removed afterwards.
    ///
    /// Its success is a random line that the driver writes after the program's end, and not the exit code. The line is
    /// not in the program's text, arguments, environment, frames or open files.
    ///
    /// # Errors
    /// If no process can be started; whatever the program does is an [`Outcome`].
    pub fn run(&self, program: &str, wall: Duration) -> Result<Outcome> {
        let start = Instant::now();
        let work_folder = WorkFolder::new()?;
        let cpu_time = wall.saturating_mul(2);
        let mut interpreter = Interpreter::start(self, include_str!("program.py"), work_folder.path(), Some(cpu_time))?;
        let line = format!("{:032x}", rand::random::<u128>()).into_bytes();
        let request = [&(program.len() as u64).to_le_bytes(), program.as_bytes(), &line].concat();
        let end = interpreter.exchange(self, work_folder.path(), &request, wall, |answer| answer == line)?;
        let seconds = start.elapsed().as_secs_f64();
        interpreter.end()?;
        let (stdout, stderr) = (interpreter.stdout.take(), interpreter.stderr.take());
        Ok(Outcome { verdict: verdict(end, &stderr), stdout, stderr, seconds })
    }

    /// Runs many programs on `workers` threads. `progress` gets each outcome, with its program's index, as it
    /// arrives.
    ///
    /// # Errors
    /// As [`Sandbox::run`]; no further program is started then.
    pub fn run_all<P: AsRef<str> + Sync>(
        &self,
        programs: &[P],
        wall: Duration,
        workers: NonZeroUsize,
        progress: impl Fn(usize, &Outcome) + Sync,
    ) -> Result<Vec<Outcome>> {
        let waiting = Mutex::new(programs.iter().enumerate());
        let next = || waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let work = || {
            let mut outcomes = Vec::new();
            while let Some((index, program)) = next() {
                let outcome = self.run(program.as_ref(), wall).inspect_err(|_| while next().is_some() {})?;
                progress(index, &outcome);
                outcomes.push((index, outcome));
            }
            Ok(outcomes)
        };
        let outcomes: Result<Vec<_>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers.get().min(programs.len())).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("`progress` does not panic")).collect()
        });
        let mut outcomes: Vec<_> = outcomes?.into_iter().flatten().collect();
        outcomes.sort_by_key(|(index, _)| *index);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }
}

fn verdict(end: End, stderr: &str) -> Verdict {
    let status = match end {
        End::Answered(_) => return Verdict::Passed,
        End::TimedOut => return Verdict::TimedOut,
        End::Exceeded(reason) => return Verdict::Killed { reason },
        End::Exited(status) => status,
    };
    let error = stderr.lines().rfind(|line| !line.trim().is_empty());
    match (signal_of(status), error) {
        (Some(reason), _) => Verdict::Killed { reason },
        // The exit code of an uncaught exception.
        (None, Some(error)) if status.code() == Some(1) => Verdict::Failed { error: error.trim().to_owned() },
        (None, _) => Verdict::EndedBeforeChecks,
    }
}

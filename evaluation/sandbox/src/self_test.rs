//! Breaks each rule once, before the first program.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use align_core::error::{Error, Problem, Result};

use crate::{Isolation, Rule, Sandbox, Verdict};

/// The interpreter starts within this time even on a busy machine.
const WALL: Duration = Duration::from_secs(60);

impl Sandbox {
    /// Tests that a program can print, and that what the rules refuse fails: reading, writing and removing a file
    /// outside, connecting, forking, executing, signals, modes, memory. With [`Isolation::LimitsOnly`]: memory.
    ///
    /// # Errors
    /// A line for each rule that does not hold.
    pub fn self_test(&self) -> Result<()> {
        let folder = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
        let file = folder.path().join("file");
        fs::write(&file, "outside").map_err(Error::io(&file))?;
        let listener =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr().map(|at| (listener, at)));
        let (_listener, address) = listener.map_err(|error| Error::Failed(format!("self-test: no port: {error}")))?;

        let outside = serde_json::Value::from(folder.path().to_string_lossy());
        let (port, memory) = (address.port(), self.limits.memory);
        let constants = format!("OUTSIDE, PORT, MEMORY = {outside}, {port}, {memory}\n");
        let outcome = self.run(&(constants + include_str!("self_test.py")), WALL)?;

        let lines: Vec<&str> = outcome.stdout.lines().collect();
        let is_expected = outcome.verdict == Verdict::Passed || lines.last() == Some(&"Execute");
        if lines.first() != Some(&"print works") || !is_expected {
            let error = outcome.stderr.lines().last().unwrap_or("no error was printed");
            let what = format!("cannot run programs in the sandbox: {:?} ({error})", outcome.verdict);
            return Err(Error::invalid(self.python.executable().display(), what));
        }
        let expected = match self.isolation {
            Isolation::Full => &Rule::ALL[..],
            Isolation::LimitsOnly => &[Rule::Memory],
        };
        let is_broken = |rule: &&Rule| match rule {
            Rule::Execute => lines.last() == Some(&"Execute"),
            rule => lines.contains(&format!("{rule:?}").as_str()),
        };
        let problems = expected.iter().filter(is_broken).map(|rule| {
            let what = format!("a program can {}, expected the system to refuse it", rule.refused());
            Problem::new(format!("sandbox: {rule:?}"), format!("{what}; --unsafe-execution runs programs all the same"))
        });
        match problems.collect::<Vec<_>>() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(Error::Invalid(problems)),
        }
    }
}

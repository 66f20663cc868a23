//! An interpreter and its rules, prepared for many programs.

use std::sync::Arc;

use align_core::error::Result;

use crate::calls::{self, Filter};
use crate::rules::{Isolation, Limits, Rule};
use crate::{Python, files};

/// A Python interpreter, and the rules under which it runs programs. Copies share everything.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub(crate) python: Arc<Python>,
    pub(crate) limits: Limits,
    pub(crate) isolation: Isolation,
    pub(crate) rules: Vec<Rule>,
    pub(crate) filters: Arc<[Filter]>,
}

impl Sandbox {
    /// Prepares the rules. Call [`Sandbox::self_test`] before the first program.
    ///
    /// # Errors
    /// With [`Isolation::Full`], where the system has no Landlock or no seccomp.
    pub fn new(python: Python, limits: Limits, isolation: Isolation) -> Result<Self> {
        let rules = match isolation {
            Isolation::Full => Rule::ALL.to_vec(),
            Isolation::LimitsOnly => vec![Rule::Memory],
        };
        let python = Arc::new(python);
        Self { python, limits, isolation, rules, filters: Arc::new([]) }.prepared()
    }

    /// The same sandbox without one rule: for tests of the self-test.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    #[doc(hidden)]
    pub fn without(mut self, rule: Rule) -> Result<Self> {
        self.rules.retain(|other| *other != rule);
        self.prepared()
    }

    /// Tests that the kernel has what the rules need, and compiles the filters of system calls.
    fn prepared(mut self) -> Result<Self> {
        if self.isolation == Isolation::Full {
            files::ruleset(&self.rules, &self.python, None)?;
            self.filters = calls::filters(&self.rules)?.into();
        }
        Ok(self)
    }

    /// The interpreter.
    pub fn python(&self) -> &Python {
        &self.python
    }

    /// How programs are kept apart.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }
}

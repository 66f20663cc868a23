//! What a program may not do, and how much it may use.

use std::time::Duration;

/// How programs are kept apart from the user's files and from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Landlock, seccomp and limits.
    Full,
    /// Limits only: the program may read, write and send whatever the user may.
    LimitsOnly,
}

/// What one program or one session may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of address space. Our choice: 1 GiB, in which numpy, sympy and matplotlib run.
    pub memory: u64,
    /// Bytes of one file. Our choice: 16 MiB.
    pub file: u64,
    /// Bytes of all files, removed ones that are still open included; removed ones that are mapped are part
    /// of `memory`. Measured every 20 ms, so a program may exceed it by what it writes in that time. Our
    /// choice: 64 MiB.
    pub disk: u64,
    /// Files and folders in the work folder, measured as `disk` is. Our choice: 4096.
    pub files: u64,
    /// Threads, measured as `disk` is. Our choice: 64.
    pub threads: u64,
    /// Open files. Our choice: 64.
    pub open_files: u64,
    /// Bytes of output that are kept of each stream; the rest is read and dropped. Our choice: 64 KiB.
    pub output: usize,
    /// Time for one block of a session. Our choice: 30 s.
    pub block: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            file: 16 << 20,
            disk: 64 << 20,
            files: 4096,
            threads: 64,
            open_files: 64,
            output: 64 << 10,
            block: Duration::from_secs(30),
        }
    }
}

/// Something that a program may not do. [`crate::Sandbox::self_test`] tries each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Reading files and folders outside the work folder and the interpreter's libraries (Landlock).
    Read,
    /// Writing, creating, renaming and removing files outside the work folder (Landlock).
    Write,
    /// Executing any file but the interpreter and the dynamic linker (Landlock).
    Execute,
    /// Sockets, except connected pairs within the process (seccomp).
    Sockets,
    /// Further processes; threads are allowed (seccomp).
    Processes,
    /// Signals to other processes (seccomp, and Landlock where the kernel has it).
    Signals,
    /// Changing modes, owners, times and attributes of files, which Landlock leaves alone (seccomp).
    Metadata,
    /// More address space than [`Limits::memory`] (an rlimit).
    Memory,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 8] = [
        Rule::Read,
        Rule::Write,
        Rule::Execute,
        Rule::Sockets,
        Rule::Processes,
        Rule::Signals,
        Rule::Metadata,
        Rule::Memory,
    ];

    /// What the rule refuses, as the object of "a program can …".
    pub(crate) fn refused(self) -> &'static str {
        match self {
            Rule::Read => "read files outside its folder",
            Rule::Write => "write or remove files outside its folder",
            Rule::Execute => "execute other programs",
            Rule::Sockets => "open sockets",
            Rule::Processes => "start processes",
            Rule::Signals => "send signals to other processes",
            Rule::Metadata => "change the modes of files",
            Rule::Memory => "use more memory than its limit",
        }
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Isolation::Full => "Landlock, seccomp and limits",
            Isolation::LimitsOnly => "limits only (--unsafe-execution)",
        })
    }
}

//! Starts an interpreter under the rules.
//!
//! Everything that allocates is made before the fork. Between fork and exec the child makes system calls only, so this
//! is safe in a process with many threads.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use align_core::error::{Error, Result};

use crate::calls::Filter;
use crate::{Isolation, Rule, Sandbox, files};

/// Starts the interpreter with one of the drivers: its stdin is `control`, on which it reads a request and answers.
/// Without `cpu_time`, only the parent limits its time.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn start(
    sandbox: &Sandbox,
    driver: &str,
    work_folder: &Path,
    control: UnixStream,
    cpu_time: Option<Duration>,
) -> Result<Child> {
    let mut command = Command::new(sandbox.python.executable());
    command.args(["-I", "-B", "-X", "utf8", "-c", driver]);
    command.env_clear().envs([("HOME", work_folder), ("TMPDIR", work_folder)]).envs([
        ("LANG", "C.UTF-8"),
        ("MPLBACKEND", "Agg"),
        ("OMP_NUM_THREADS", "1"),
        ("OPENBLAS_NUM_THREADS", "1"),
        ("MKL_NUM_THREADS", "1"),
        // One arena for all threads: each reserves 128 MiB of address space.
        ("MALLOC_ARENA_MAX", "1"),
    ]);
    command.current_dir(work_folder);
    command.stdin(OwnedFd::from(control)).stdout(Stdio::piped()).stderr(Stdio::piped());

    let ruleset = match sandbox.isolation {
        Isolation::Full => Some(files::ruleset(&sandbox.rules, &sandbox.python, Some(work_folder))?),
        Isolation::LimitsOnly => None,
    };
    let setup = Setup {
        limits: rlimits(sandbox, cpu_time),
        ruleset,
        filters: Arc::clone(&sandbox.filters),
        #[cfg(target_os = "linux")]
        parent: std::process::id(),
    };
    // SAFETY: the closure makes system calls only, and allocates nothing.
    #[allow(unsafe_code, reason = "the rules are taken between fork and exec")]
    unsafe {
        command.pre_exec(move || setup.apply());
    }
    spawn(command).map_err(Error::io(sandbox.python.executable()))
}

/// Spawns on a thread that lasts as long as this process: a child is killed when the thread that started it ends.
fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, Sender<io::Result<Child>>);
    static LAUNCHER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let launcher = LAUNCHER.get_or_init(|| {
        let (requests, received) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in received {
                // The one who asked waits.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(requests)
    });
    let (answer, answered) = channel();
    let launcher = launcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    launcher.send((command, answer)).map_err(io::Error::other)?;
    answered.recv().map_err(io::Error::other)?
}

/// The limits of a process: resource, soft limit, hard limit. A hard limit that is lower already stays.
fn rlimits(sandbox: &Sandbox, cpu_time: Option<Duration>) -> Vec<(i32, libc::rlimit)> {
    let limits = &sandbox.limits;
    let mut values = vec![
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_FSIZE, limits.file),
        (libc::RLIMIT_NOFILE, limits.open_files),
        (libc::RLIMIT_STACK, 8 << 20),
    ];
    values.extend(cpu_time.map(|time| (libc::RLIMIT_CPU, time.as_secs() + 1)));
    values.extend(sandbox.rules.contains(&Rule::Memory).then_some((libc::RLIMIT_AS, limits.memory)));
    values.into_iter().map(|(resource, value)| (resource as i32, lowered(resource as i32, value))).collect()
}

#[allow(unsafe_code, reason = "the standard library has no rlimits")]
fn lowered(resource: i32, value: u64) -> libc::rlimit {
    let mut current = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is valid for the call.
    unsafe { libc::getrlimit(resource as _, &raw mut current) };
    let value = current.rlim_max.min(value);
    libc::rlimit { rlim_cur: value, rlim_max: value }
}

/// What the child does before it executes the interpreter.
struct Setup {
    limits: Vec<(i32, libc::rlimit)>,
    ruleset: Option<OwnedFd>,
    filters: Arc<[Filter]>,
    #[cfg(target_os = "linux")]
    parent: u32,
}

#[allow(unsafe_code, reason = "system calls that the standard library does not have")]
impl Setup {
    /// Makes system calls only.
    fn apply(&self) -> io::Result<()> {
        // SAFETY: no pointers.
        check(unsafe { libc::setsid() })?;
        for (resource, limit) in &self.limits {
            // SAFETY: the pointer is valid for the call.
            check(unsafe { libc::setrlimit(*resource as _, limit) })?;
        }
        self.apply_linux()
    }

    #[cfg(target_os = "linux")]
    fn apply_linux(&self) -> io::Result<()> {
        const VERSION_3: u32 = 0x2008_0522;
        let header = [VERSION_3, 0];
        let no_capabilities = [0_u32; 6];
        // SAFETY: the pointers are valid for the calls, and of the sizes that the kernel reads: a header of two words,
        // and two sets of three.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid().unsigned_abs() != self.parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // Files that another library opened without O_CLOEXEC stay outside. Kernels before 5.11 do not have it.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            // With PR_SET_NO_NEW_PRIVS, root does not get them again when it executes a program.
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::syscall(libc::SYS_capset, header.as_ptr(), no_capabilities.as_ptr()))?;
            if let Some(ruleset) = &self.ruleset {
                check(libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0))?;
            }
        }
        for filter in self.filters.iter() {
            seccompiler::apply_filter(filter).map_err(|_| io::Error::last_os_error())?;
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn apply_linux(&self) -> io::Result<()> {
        let (_, _) = (self.ruleset.as_ref().map(AsRawFd::as_raw_fd), &self.filters);
        Ok(())
    }
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! A running interpreter: sends it a request, and reads its answer and its output under the limits.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use align_core::error::{Error, Result};

use crate::output::{Keep, Stream};
use crate::usage::excess;
use crate::{Sandbox, child};

/// How often the limits of [`excess`] are measured.
const INTERVAL: Duration = Duration::from_millis(20);
/// Bytes that an answer may have: figures of a block.
const MAX_ANSWER: usize = 32 << 20;

/// Why an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer is there, and the process still runs.
    Answered(Vec<u8>),
    /// The process ended without one.
    Exited(ExitStatus),
    /// The time was up.
    TimedOut,
    /// A limit was exceeded: the end of "the program …".
    Exceeded(String),
}

/// A child process that executes a driver; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Interpreter {
    child: Child,
    /// `None` once the process closed its end.
    control: Option<UnixStream>,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
    is_reaped: bool,
}

impl Interpreter {
    /// Starts one; arguments and errors are those of [`child::start`].
    pub(crate) fn start(
        sandbox: &Sandbox,
        driver: &str,
        work_folder: &Path,
        cpu_time: Option<Duration>,
    ) -> Result<Self> {
        let failed = |error: io::Error| Error::Failed(format!("the sandbox's pipes could not be made: {error}"));
        let (control, inner) = UnixStream::pair().map_err(failed)?;
        control.set_nonblocking(true).map_err(failed)?;
        let mut child = child::start(sandbox, driver, work_folder, inner, cpu_time)?;
        let (stdout, stderr) = (child.stdout.take().expect("is piped"), child.stderr.take().expect("is piped"));
        let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
        set_nonblocking(&stdout).and_then(|()| set_nonblocking(&stderr)).map_err(failed)?;
        let limit = sandbox.limits.output;
        Ok(Self {
            child,
            control: Some(control),
            stdout: Stream::new(stdout, Keep::First, limit),
            stderr: Stream::new(stderr, Keep::Last, limit),
            is_reaped: false,
        })
    }

    /// Sends a request and waits until `is_answer` accepts what came back, while the output is read. Unless
    /// there is an answer, the process has ended afterwards.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub(crate) fn exchange(
        &mut self,
        sandbox: &Sandbox,
        work_folder: &Path,
        request: &[u8],
        wall: Duration,
        is_answer: impl Fn(&[u8]) -> bool,
    ) -> Result<End> {
        let start = Instant::now();
        let (mut unsent, mut answer, mut measured) = (request, Vec::new(), start);
        loop {
            self.wait(unsent, INTERVAL.min(wall.saturating_sub(start.elapsed())));
            self.send(&mut unsent);
            self.receive(&mut answer);
            self.drain();
            if is_answer(&answer) {
                return Ok(End::Answered(answer));
            }
            if self.has_exited() {
                return self.end().map(End::Exited);
            }
            let exceeded = if answer.len() > MAX_ANSWER {
                Some(format!("answered with more than {} MiB", MAX_ANSWER >> 20))
            } else if measured.elapsed() >= INTERVAL {
                measured = Instant::now();
                excess(self.child.id(), work_folder, &sandbox.limits)
            } else {
                None
            };
            if let Some(reason) = exceeded {
                self.end()?;
                return Ok(End::Exceeded(reason));
            }
            if start.elapsed() >= wall {
                self.end()?;
                return Ok(End::TimedOut);
            }
        }
    }

    /// Waits until something can be read or sent, or for the time. After the end of all streams, the process
    /// is about to end, or has closed them.
    fn wait(&self, unsent: &[u8], time: Duration) {
        let control = self.control.as_ref().map(AsRawFd::as_raw_fd);
        let streams = [&self.stdout, &self.stderr].map(|stream| stream.file().map(AsRawFd::as_raw_fd));
        let wanted = if unsent.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT };
        let mut polled = [(control, wanted), (streams[0], libc::POLLIN), (streams[1], libc::POLLIN)]
            .map(|(file, events)| libc::pollfd { fd: file.unwrap_or(-1), events, revents: 0 });
        let are_open = polled.iter().any(|file| file.fd >= 0);
        let time = if are_open { time } else { time.min(Duration::from_millis(1)) };
        // SAFETY: the pointer and the length are those of the array.
        #[allow(unsafe_code, reason = "the standard library does not wait for several files")]
        unsafe {
            libc::poll(polled.as_mut_ptr(), polled.len() as _, time.as_millis() as i32 + 1);
        }
    }

    fn send(&mut self, unsent: &mut &[u8]) {
        while let Some(control) = self.control.as_mut().filter(|_| !unsent.is_empty()) {
            match control.write(unsent) {
                Ok(length) => *unsent = &unsent[length..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It does not read now, or has closed its end, which reading notices.
                Err(_) => return,
            }
        }
    }

    fn receive(&mut self, answer: &mut Vec<u8>) {
        let mut buffer = [0; 64 << 10];
        while let Some(control) = self.control.as_mut().filter(|_| answer.len() <= MAX_ANSWER) {
            match control.read(&mut buffer) {
                Ok(0) => self.control = None,
                Ok(length) => answer.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.control = None,
            }
        }
    }

    /// Whether the process has ended; it stays a zombie, so that its id is not used again.
    #[allow(unsafe_code, reason = "the standard library reaps what it waits for")]
    fn has_exited(&self) -> bool {
        // SAFETY: all zeroes are a value of this type, and the pointer is valid for the call.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            let result = libc::waitid(libc::P_PID, self.child.id(), &raw mut info, options);
            result == 0 && info.si_pid() != 0
        }
    }

    /// Sends a signal to the process and, without full isolation, to those it started.
    #[allow(unsafe_code, reason = "the standard library has no process groups to signal")]
    pub(crate) fn signal(&self, signal: i32) {
        if !self.is_reaped {
            // SAFETY: no pointers. The process has not been waited for, so the group is still its own.
            unsafe { libc::kill(-self.child.id().cast_signed(), signal) };
        }
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads the output that is there.
    pub(crate) fn drain(&mut self) {
        self.stdout.drain();
        self.stderr.drain();
    }

    /// Kills the process if it runs, and reads the rest of its output.
    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGKILL);
        let status = self.child.wait().map_err(|error| Error::Failed(format!("waiting for a program: {error}")))?;
        self.is_reaped = true;
        self.drain();
        Ok(status)
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // There is no one to report to.
        let _ = self.end();
    }
}

/// The signal that ended a process, by its usual name.
pub(crate) fn signal_of(status: ExitStatus) -> Option<String> {
    let signal = status.signal()?;
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSYS => "SIGSYS",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        _ => return Some(format!("was ended by signal {signal}")),
    };
    Some(format!("was ended by {name}"))
}

#[allow(unsafe_code, reason = "the standard library does not set this for pipes")]
fn set_nonblocking(file: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

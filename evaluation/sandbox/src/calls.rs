//! Which system calls a program may make: a seccomp filter that lists what CPython, numpy and matplotlib use. A call
//! that is not listed fails with EPERM, also one that a later kernel adds.

use std::collections::BTreeMap;

use align_core::error::{Error, Result};
use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::Rule;

/// A compiled filter.
pub(crate) type Filter = BpfProgram;

/// Calls that are allowed whatever their arguments are. They reach the process itself, the files that Landlock lets it
/// open, and nothing else.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Files: Landlock decides which.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_openat, libc::SYS_close,
    libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs,
    libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64,
    libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_symlinkat, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_flock, libc::SYS_fadvise64, libc::SYS_copy_file_range, libc::SYS_sendfile, libc::SYS_dup, libc::SYS_dup3,
    // Pipes, waiting, and connected pairs of sockets.
    libc::SYS_pipe2, libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_signalfd4, libc::SYS_recvfrom,
    libc::SYS_shutdown, libc::SYS_getsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
    // Memory and threads.
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_madvise,
    libc::SYS_msync, libc::SYS_mincore, libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    libc::SYS_rseq, libc::SYS_membarrier, libc::SYS_set_tid_address, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_getcpu,
    // Time, and signals to itself by timers.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_times, libc::SYS_setitimer, libc::SYS_getitimer, libc::SYS_timer_create,
    libc::SYS_timer_settime, libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_timer_delete,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigpending, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_restart_syscall,
    // Itself and the machine.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_getpgid,
    libc::SYS_getsid, libc::SYS_getpriority, libc::SYS_getrusage, libc::SYS_uname, libc::SYS_sysinfo,
    libc::SYS_getrandom, libc::SYS_exit, libc::SYS_exit_group,
    // Landlock lets it execute the interpreter. clone3's arguments are in memory, where no filter can look: it is
    // reported as missing, so that the C library calls clone.
    libc::SYS_execve, libc::SYS_clone3,
];

/// The older forms of the same calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_getdents,
    libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_renameat, libc::SYS_link, libc::SYS_symlink,
    libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait,
    libc::SYS_eventfd, libc::SYS_signalfd, libc::SYS_time, libc::SYS_alarm, libc::SYS_pause, libc::SYS_getpgrp,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[libc::SYS_renameat];

/// Calls that are allowed if one argument (its index) has one of the values.
#[rustfmt::skip]
const BY_VALUE: &[(c_long, u8, SeccompCmpArgLen, &[u64])] = &[
    // F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_OFD_*, F_DUPFD_CLOEXEC, F_GETPIPE_SZ.
    // Not F_SETOWN and F_SETSIG: they send any signal to any process.
    (libc::SYS_fcntl, 1, Dword, &[0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032]),
    // TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
    (libc::SYS_ioctl, 1, Dword, &[0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451]),
    // PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and of memory.
    (libc::SYS_prctl, 0, Dword, &[15, 16, 0x5356_4d41]),
    // Connected pairs of Unix sockets, which asyncio wakes itself with. No address: they cannot send elsewhere.
    (libc::SYS_socketpair, 0, Dword, &[libc::AF_UNIX as u64]),
    (libc::SYS_sendto, 4, Qword, &[0]),
    // ARCH_SET_FS, ARCH_GET_FS.
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_arch_prctl, 0, Qword, &[0x1002, 0x1003]),
];

/// What the C library's threads share.
const THREAD: u64 = (libc::CLONE_THREAD | libc::CLONE_FILES | libc::CLONE_FS) as u64;

/// Calls that are allowed if one argument has these bits of a mask.
const BY_BITS: &[(c_long, u8, u64, u64)] = &[
    // Threads, not processes. They share their open files: those of another table would not be counted.
    (libc::SYS_clone, 0, THREAD, THREAD),
    (libc::SYS_close_range, 2, libc::CLOSE_RANGE_UNSHARE as u64, 0),
    // Folders stay readable for their owner, so that what is in them can be measured and removed.
    (libc::SYS_mkdirat, 2, 0o700, 0o700),
    (libc::SYS_umask, 0, 0o700, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, 1, 0o700, 0o700),
];

/// Calls that one rule refuses: allowed only in a test of the self-test, which takes the rule out.
#[rustfmt::skip]
fn refused_by(rule: Rule) -> &'static [c_long] {
    match rule {
        Rule::Sockets => &[libc::SYS_socket, libc::SYS_connect, libc::SYS_setsockopt, libc::SYS_sendmsg],
        #[cfg(target_arch = "x86_64")]
        Rule::Processes => &[libc::SYS_clone, libc::SYS_wait4, libc::SYS_fork, libc::SYS_vfork],
        #[cfg(not(target_arch = "x86_64"))]
        Rule::Processes => &[libc::SYS_clone, libc::SYS_wait4],
        Rule::Signals => &[libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill],
        #[cfg(target_arch = "x86_64")]
        Rule::Metadata => &[libc::SYS_chmod, libc::SYS_fchmodat],
        #[cfg(not(target_arch = "x86_64"))]
        Rule::Metadata => &[libc::SYS_fchmodat],
        Rule::Read | Rule::Write | Rule::Execute | Rule::Memory => &[],
    }
}

/// The filters, in the order in which a process takes them.
///
/// # Errors
/// On a processor that has none.
pub(crate) fn filters(rules: &[Rule]) -> Result<Vec<Filter>> {
    compiled(rules).map_err(|error| {
        Error::invalid(
            "sandbox",
            format!(
                "seccomp is not available here: {error}, expected x86_64 or aarch64; \
                 --unsafe-execution runs programs with limits only"
            ),
        )
    })
}

fn compiled(rules: &[Rule]) -> std::result::Result<Vec<Filter>, BackendError> {
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, index, length, values) in BY_VALUE {
        for value in *values {
            let condition = SeccompCondition::new(*index, length.clone(), Eq, *value)?;
            allowed.entry(*call).or_default().push(SeccompRule::new(vec![condition])?);
        }
    }
    for (call, index, mask, bits) in BY_BITS {
        let condition = SeccompCondition::new(*index, Qword, MaskedEq(*mask), *bits)?;
        allowed.entry(*call).or_default().push(SeccompRule::new(vec![condition])?);
    }
    // Its own limits, and only to read them.
    let (itself, unchanged) = (SeccompCondition::new(0, Dword, Eq, 0)?, SeccompCondition::new(2, Qword, Eq, 0)?);
    allowed.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![itself, unchanged])?]);
    let not_refused = Rule::ALL.iter().filter(|rule| !rules.contains(rule)).flat_map(|rule| refused_by(*rule));
    // A call without conditions is allowed always, also where it had some.
    allowed.extend(ALLOWED.iter().chain(OLDER).chain(not_refused).map(|call| (*call, Vec::new())));

    let architecture = std::env::consts::ARCH.try_into()?;
    let refuse = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok(vec![
        SeccompFilter::new(missing, SeccompAction::Allow, refuse(libc::ENOSYS), architecture)?.try_into()?,
        SeccompFilter::new(allowed, refuse(libc::EPERM), SeccompAction::Allow, architecture)?.try_into()?,
    ])
}

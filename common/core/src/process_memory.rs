//! The resident memory of this process, and the settings of its allocator.

/// Allocations above this size are mapped, and returned to the system when freed. The largest threshold that
/// glibc accepts.
pub const MMAP_THRESHOLD: u64 = 32 << 20;

/// Makes glibc's allocator keep freed memory for the next step: the kernel fills fresh pages with zeros, at a
/// fraction of the memory's speed. Allocations above [`MMAP_THRESHOLD`] are returned at once, so that they do
/// not fragment the heap. Call it before a second thread exists.
pub fn tune_malloc() {
    #[cfg(target_env = "gnu")]
    {
        const NEVER: i32 = -1;
        const TOP_PAD: i32 = 64 << 20;
        #[expect(unsafe_code, reason = "no crate wraps it")]
        // SAFETY: mallopt changes settings only, and takes no pointers.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD as i32);
            libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD);
        }
    }
}

/// Returns the memory that [`tune_malloc`] made the allocator keep to the system.
pub fn trim_malloc() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no crate wraps it")]
    // SAFETY: malloc_trim releases free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The resident set size in bytes, including mapped pages of files; 0 where the system does not report it.
pub fn current_rss() -> u64 {
    status("VmRSS:")
}

/// The peak resident set size in bytes; 0 where the system does not report it.
pub fn peak_rss() -> u64 {
    status("VmHWM:")
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

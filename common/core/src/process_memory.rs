//! What this process holds, and what its allocator keeps.

/// Larger tensors go back to the system when they are freed: the most that glibc can be told to keep.
pub const LARGEST_KEPT: u64 = 32 << 20;

/// Has glibc's allocator keep what is freed, for the next step to use again: fresh pages are filled with zeros by the kernel, at a
/// fraction of the memory's speed. What is larger than [`LARGEST_KEPT`] goes back at once, so that the heap does not fill with holes. To be called
/// before a second thread exists.
pub fn keep_freed() {
    #[cfg(target_env = "gnu")]
    {
        const NEVER: i32 = -1;
        const TOP_PAD: i32 = 64 << 20;
        #[expect(unsafe_code, reason = "no crate wraps it")]
        // SAFETY: plain settings.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_KEPT as i32);
            libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD);
        }
    }
}

/// Gives back to the system what [`keep_freed`] kept.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no crate wraps it")]
    // SAFETY: it touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes this process holds now, the mapped parts of files among them; 0 where the system does not say.
pub fn held() -> u64 {
    status("VmRSS:")
}

/// The most bytes this process has held so far; 0 where the system does not say.
pub fn peak() -> u64 {
    status("VmHWM:")
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

//! Memory: of a tensor on the CPU, as a slice to work on; and of this process.

use std::borrow::Cow;

use tch::{Device, Kind, Tensor};

/// Whether a tensor is what this module gives slices of.
pub(crate) fn takes(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
}

/// The elements of a tensor.
#[allow(unsafe_code, reason = "tch gives no slice, and a copy would be as large as the model")]
pub(crate) fn elements(tensor: &Tensor) -> &[f32] {
    assert!(takes(tensor), "expected contiguous fp32 on the CPU");
    // SAFETY: the memory holds that many fp32 values, and the tensor that is borrowed keeps it alive.
    unsafe { slice(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The bytes of a tensor, row by row: where they lie, or a copy where they do not lie so on the CPU.
#[allow(unsafe_code, reason = "as for `elements`")]
pub(crate) fn bytes(tensor: &Tensor) -> Cow<'_, [u8]> {
    let size = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if tensor.device() == Device::Cpu && tensor.is_contiguous() {
        // SAFETY: a contiguous tensor's memory holds that many bytes, and the tensor that is borrowed keeps it alive.
        return Cow::Borrowed(unsafe { slice(tensor.data_ptr().cast::<u8>(), size) });
    }
    let mut copy = vec![0; size];
    tensor.to_device(Device::Cpu).contiguous().copy_data_u8(&mut copy, tensor.numel());
    Cow::Owned(copy)
}

/// The elements of a tensor, to be changed in place.
#[allow(unsafe_code, reason = "as for `elements`")]
pub(crate) fn elements_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(takes(tensor), "expected contiguous fp32 on the CPU");
    let (data, numel) = (tensor.data_ptr().cast::<f32>(), tensor.numel());
    if numel == 0 {
        return &mut [];
    }
    // SAFETY: as for `elements`. Other tensors share the memory (the model's own handle on a parameter), but a model lives on
    // one thread (tensors are not Sync), and that thread is here until the slice is gone. A thread that writes a checkpoint reads it
    // behind a `Gate`, and the optimiser waits before it until that is done.
    unsafe { std::slice::from_raw_parts_mut(data, numel) }
}

/// An empty tensor has no memory to point to.
#[allow(unsafe_code, reason = "as for `elements`")]
unsafe fn slice<'a, T>(data: *const T, numel: usize) -> &'a [T] {
    if numel == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(data, numel) }
}

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

//! The memory of a tensor on the CPU as a slice, and how work on it is shared among threads.

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

/// The elements of a tensor, to be changed in place.
#[allow(unsafe_code, reason = "as for `elements`")]
pub(crate) fn elements_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(takes(tensor), "expected contiguous fp32 on the CPU");
    let (data, numel) = (tensor.data_ptr().cast::<f32>(), tensor.numel());
    if numel == 0 {
        return &mut [];
    }
    // SAFETY: as for `elements`. Other tensors share the memory (the model's own handle on a parameter), but a model lives on
    // one thread (tensors are not Sync), and that thread is here until the slice is gone.
    unsafe { std::slice::from_raw_parts_mut(data, numel) }
}

/// An empty tensor has no memory to point to.
#[allow(unsafe_code, reason = "as for `elements`")]
unsafe fn slice<'a>(data: *const f32, numel: usize) -> &'a [f32] {
    if numel == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(data, numel) }
}

/// Chunks per thread: as many threads as libtorch uses, but none that would have less to do than it costs to start.
pub(crate) fn share(elements: usize, chunks: usize) -> usize {
    const WORTH_A_THREAD: usize = 1 << 18;
    let threads = (tch::get_num_threads().max(1) as usize).min(elements / WORTH_A_THREAD).max(1);
    chunks.div_ceil(threads).max(1)
}

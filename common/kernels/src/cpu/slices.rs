//! Tensors on the CPU as slices to work on.

use std::borrow::Cow;

use tch::{Device, Kind, Tensor};

/// Whether this module gives slices of a tensor.
pub(crate) fn is_cpu_f32_contiguous(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
}

/// The elements of a tensor.
#[allow(unsafe_code, reason = "tch gives no slice, and a copy would be as large as the model")]
pub fn as_f32_slice(tensor: &Tensor) -> &[f32] {
    assert!(is_cpu_f32_contiguous(tensor), "expected contiguous fp32 on the CPU");
    // SAFETY: the memory holds that many fp32 values, and the tensor that is borrowed keeps it alive.
    unsafe { slice(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The bytes of a tensor, row by row: borrowed if they are contiguous on the CPU, else a copy.
#[allow(unsafe_code, reason = "as for `as_f32_slice`")]
pub fn tensor_bytes(tensor: &Tensor) -> Cow<'_, [u8]> {
    let size = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if tensor.device() == Device::Cpu && tensor.is_contiguous() {
        // SAFETY: a contiguous tensor's memory holds that many bytes, and the tensor that is borrowed keeps
        // it alive.
        return Cow::Borrowed(unsafe { slice(tensor.data_ptr().cast::<u8>(), size) });
    }
    let mut copy = vec![0; size];
    tensor.to_device(Device::Cpu).contiguous().copy_data_u8(&mut copy, tensor.numel());
    Cow::Owned(copy)
}

/// The elements of a tensor, to be changed in place.
#[allow(unsafe_code, reason = "as for `as_f32_slice`")]
pub(crate) fn as_f32_slice_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(is_cpu_f32_contiguous(tensor), "expected contiguous fp32 on the CPU");
    let (data, numel) = (tensor.data_ptr().cast::<f32>(), tensor.numel());
    if numel == 0 {
        return &mut [];
    }
    // SAFETY: as for `as_f32_slice`. Other tensors share the memory (the model's own handle on a parameter),
    // but a model lives on one thread (tensors are not Sync), and that thread holds the slice. A thread that
    // writes a checkpoint reads under a `SnapshotLock`, for which the optimizer waits.
    unsafe { std::slice::from_raw_parts_mut(data, numel) }
}

/// An empty tensor has no memory to point to.
#[allow(unsafe_code, reason = "as for `as_f32_slice`")]
unsafe fn slice<'a, T>(data: *const T, numel: usize) -> &'a [T] {
    if numel == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(data, numel) }
}

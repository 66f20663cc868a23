//! Devices and dtypes as libtorch names them.

use crate::backend::check_backend;
use align_core::config::{DeviceSpec, Dtype};
use tch::{Cuda, Device, Kind, Tensor};

/// The device that a config names, where it is there.
///
/// # Errors
/// A sentence for the user.
pub fn find_device(spec: DeviceSpec) -> Result<Device, String> {
    let gpus = || if Cuda::is_available() { Cuda::device_count() as usize } else { 0 };
    let index = match spec {
        DeviceSpec::Cpu => return Ok(Device::Cpu),
        DeviceSpec::Auto if gpus() == 0 => return Ok(Device::Cpu),
        DeviceSpec::Auto => 0,
        DeviceSpec::Cuda(index) => index,
    };
    match gpus() {
        0 => Err("libtorch finds no GPU here; expected \"cpu\" or \"auto\"".to_owned()),
        found if index >= found => Err(format!("libtorch finds {found} GPU(s), numbered from 0")),
        _ if check_backend() == Ok(Some("cpu")) => {
            Err("ALIGN_BACKEND=cpu computes on the CPU only; expected \"cpu\", or no ALIGN_BACKEND".to_owned())
        }
        _ => Ok(Device::Cuda(index)),
    }
}

/// A config's dtype as libtorch names it.
pub fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Bfloat16 => Kind::BFloat16,
    }
}

/// The memory that the host computes in: where rows are laid out, and statistics are formed.
pub const HOST: Device = Device::Cpu;

/// A tensor in the host's memory.
pub fn to_host(tensor: &Tensor) -> Tensor {
    tensor.to_device(HOST)
}

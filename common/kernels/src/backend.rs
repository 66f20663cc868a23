//! The backends, and which of them computes for a device.

use std::sync::OnceLock;

use tch::Device;

use crate::cpu::Cpu;
use crate::ops::Ops;

/// The backend that replaces nothing.
#[derive(Debug)]
pub(crate) struct Reference;

impl Ops for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }
}

/// The backend of a device. ALIGN_BACKEND=reference takes the reference on every device, which is how a
/// device without kernels of its own computes.
///
/// # Panics
/// When ALIGN_BACKEND is none of [`BACKENDS`]: [`check_backend`] says so first.
pub fn ops(device: Device) -> &'static dyn Ops {
    let is_reference = check_backend().expect("ALIGN_BACKEND was checked") == Some("reference");
    match device {
        Device::Cpu if !is_reference => &Cpu,
        _ => &Reference,
    }
}

/// The values of ALIGN_BACKEND.
pub const BACKENDS: [&str; 2] = ["cpu", "reference"];

/// What ALIGN_BACKEND asks for; nothing where it is not set.
///
/// # Errors
/// What is wrong with its value.
pub fn check_backend() -> std::result::Result<Option<&'static str>, String> {
    static ASKED: OnceLock<std::result::Result<Option<&'static str>, String>> = OnceLock::new();
    let read = || match std::env::var("ALIGN_BACKEND") {
        Err(_) => Ok(None),
        Ok(name) if name.is_empty() => Ok(None),
        Ok(name) => {
            let known = BACKENDS.into_iter().find(|known| *known == name);
            known.map(Some).ok_or_else(|| format!("`{name}` is not a backend, expected {}", BACKENDS.join(" or ")))
        }
    };
    ASKED.get_or_init(read).clone()
}

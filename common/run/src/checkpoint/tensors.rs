//! Reads and writes named tensors as safetensors files.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::Crc;
use safetensors::tensor::{Dtype, SafeTensors, View};
use tch::{Kind, Tensor};

use align_core::atomic_files::default_permissions;
use align_core::error::{Error, Result};
use align_kernels::tensor_bytes;

/// Writes tensors as safetensors; those on the CPU without a copy. The bytes depend on names and values only.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    write_summed(path, tensors).map(drop)
}

/// As [`write_tensors`]; returns the CRC-32 of the tensors in memory, in the order of the file.
pub(super) fn write_summed(path: &Path, tensors: &[(String, Tensor)]) -> Result<Crc> {
    let usual = default_permissions(path)?;
    let sum = RefCell::new(Crc::new());
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), TensorView::new(tensor, &sum)));
    safetensors::serialize_to_file(views, None, path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::Io { path: path.to_owned(), source },
        other => Error::Failed(format!("{}: {other}", path.display())),
    })?;
    std::fs::set_permissions(path, usual).map_err(Error::io(path))?;
    Ok(sum.into_inner())
}

/// The expected CRC-32 of a file of tensors: that of its header, as read back, combined with that of the
/// tensors in memory.
pub(super) fn sum_of_file(path: &Path, tensors: &Crc) -> Result<u32> {
    let header = || {
        let (mut file, mut length) = (File::open(path)?, [0; 8]);
        file.read_exact(&mut length)?;
        let mut header = length.to_vec();
        file.take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
        Ok(header)
    };
    let mut sum = Crc::new();
    sum.update(&header().map_err(Error::io(path))?);
    sum.combine(tensors);
    Ok(sum.sum())
}

/// Reads all tensors of a safetensors file onto the CPU.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Invalid`] when it is not a safetensors file.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the map is only read, and only until this function returns. The run folder is locked, so no
    // other `align` process changes the file meanwhile.
    #[allow(unsafe_code, reason = "a map avoids a second copy of a state as large as the model")]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    let invalid = |what: &dyn std::fmt::Display| Error::invalid(path.display(), what);
    let parsed = SafeTensors::deserialize(&map).map_err(|error| invalid(&error))?;
    let mut tensors = Vec::new();
    for (name, view) in parsed.iter() {
        let kind = kind(view.dtype()).ok_or_else(|| invalid(&format!("`{name}` has dtype {:?}", view.dtype())))?;
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)
            .map_err(|error| Error::invalid(path.display(), format!("`{name}`: {error}")))?;
        tensors.push((name.to_owned(), tensor));
    }
    tensors.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(tensors)
}

const KINDS: [(Kind, Dtype); 9] = [
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Half, Dtype::F16),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::BOOL),
];

fn kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(_, other)| *other == dtype).map(|(kind, _)| *kind)
}

struct TensorView<'a> {
    /// The checksum of all bytes that were written.
    sum: &'a RefCell<Crc>,
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl<'a> TensorView<'a> {
    fn new(tensor: &Tensor, sum: &'a RefCell<Crc>) -> Self {
        let dtype = KINDS.iter().find(|(kind, _)| *kind == tensor.kind()).map(|(_, dtype)| *dtype);
        Self {
            sum,
            dtype: dtype
                .unwrap_or_else(|| panic!("a state has {:?}, which safetensors does not support", tensor.kind())),
            shape: tensor.size().iter().map(|&size| size as usize).collect(),
            tensor: tensor.detach(),
        }
    }
}

impl View for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = tensor_bytes(&self.tensor);
        self.sum.borrow_mut().update(&bytes);
        bytes
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

//! Matrix multiplication in 512-bit instructions: out = a·b, or out += a·b, for inputs of either layout. In
//! fp32, or of inputs rounded to bfloat16, pairs of which are multiplied exactly and added in fp32. Each
//! output element is one sum in one order, whatever the other rows and columns are.

#[cfg(target_arch = "x86_64")]
mod avx512;

/// The element type of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    Bfloat16,
}

impl Element {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bfloat16 => 2,
        }
    }
}

/// A strided input matrix in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatRef {
    pub(crate) start: *const u8,
    pub(crate) element: Element,
    /// From a row to the next and from a column to the next, in elements; one of both is 1.
    pub(crate) strides: [usize; 2],
}

/// The output matrix in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatMut {
    pub(crate) start: *mut f32,
    /// From a row to the next; rows are contiguous.
    pub(crate) stride: usize,
    /// Whether to replace or to add to what it holds.
    pub(crate) write: Write,
}

/// Whether a matmul replaces its output or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Set,
    Add,
}

/// (m, k) × (k, n).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

/// Whether the processor has the instructions for fp32, or for bfloat16.
pub(crate) fn has(element: Element) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && (element == Element::F32 || is_x86_feature_detected!("avx512bf16"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = element;
        false
    }
}

#[expect(unsafe_code, reason = "kernels work on pointers")]
/// out = a·b, or out += a·b, on this thread alone; with `dtype` [`Element::Bfloat16`] of inputs
/// rounded to that, else of fp32.
///
/// # Safety
/// The matrices must have this size and these strides, and nothing else may use the output.
pub(crate) unsafe fn multiply(dtype: Element, size: Size, out: MatMut, a: MatRef, b: MatRef) {
    assert!(has(dtype), "expected a processor with the instructions for it");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's, and the processor has the instructions.
    unsafe {
        avx512::multiply(dtype, size, out, a, b);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (size, out, a, b);
}

impl MatRef {
    fn transposed(self) -> Self {
        Self { strides: [self.strides[1], self.strides[0]], ..self }
    }

    /// Whether rows of so many elements have the layout of a panel's elements.
    fn is_read_as(self, depth: usize, numbers: usize) -> bool {
        match self.element {
            Element::F32 => depth == 1,
            Element::Bfloat16 => {
                let in_pairs = numbers.is_multiple_of(2) && self.strides[0].is_multiple_of(2);
                depth == 2 && in_pairs && self.start.cast::<f32>().is_aligned()
            }
        }
    }

    /// The part from this row and column on.
    fn from(self, row: usize, column: usize) -> Self {
        let start = self.start.wrapping_add((row * self.strides[0] + column * self.strides[1]) * self.element.bytes());
        Self { start, ..self }
    }
}

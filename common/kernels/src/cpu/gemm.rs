//! Products of matrices in 512-bit instructions: out = a·b, or out += a·b, whichever way the factors lie in memory, computed in fp32 or,
//! with factors rounded to bfloat16, in pairs of it that are multiplied exactly and added in fp32. Each number is one sum in one
//! order, whatever surrounds it.

#[cfg(target_arch = "x86_64")]
mod avx512;

/// What a factor is made of.
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

/// A factor in memory: where it begins, and how far apart its elements lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    pub(crate) start: *const u8,
    pub(crate) element: Element,
    /// From a row to the next and from a column to the next, in elements; one of both is 1.
    pub(crate) strides: [usize; 2],
}

/// The product's place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) start: *mut f32,
    /// From a row to the next; neighbours in a row lie side by side.
    pub(crate) stride: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
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
/// out = a·b, or out += a·b, on this thread alone; with `by` [`Element::Bfloat16`] of factors rounded to that, else of fp32.
///
/// # Safety
/// The matrices must have this size and lie where it is said, and nothing else use what is written.
pub(crate) unsafe fn multiply(by: Element, size: Size, out: Place, a: Factor, b: Factor) {
    assert!(has(by), "expected a processor with the instructions for it");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's, and the processor has the instructions.
    unsafe {
        avx512::multiply(by, size, out, a, b);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (size, out, a, b);
}

impl Factor {
    fn turned(self) -> Self {
        Self { strides: [self.strides[1], self.strides[0]], ..self }
    }

    /// Whether rows lie in memory as elements of a panel do: so many numbers each.
    fn is_read_as(self, depth: usize, numbers: usize) -> bool {
        match self.element {
            Element::F32 => depth == 1,
            Element::Bfloat16 => {
                let in_pairs = numbers.is_multiple_of(2) && self.strides[0].is_multiple_of(2);
                depth == 2 && in_pairs && self.start.cast::<f32>().is_aligned()
            }
        }
    }

    /// From this place on.
    fn from(self, row: usize, column: usize) -> Self {
        let start = self.start.wrapping_add((row * self.strides[0] + column * self.strides[1]) * self.element.bytes());
        Self { start, ..self }
    }
}

//! Matmuls by the fastest kernel for the processor, of inputs in fp32 or rounded to bfloat16.
//!
//! libtorch's own fp32 matmuls (MKL) reach half of what AMD's processors do (docs/performance.md), and its
//! bfloat16 matmuls round every result to that. Processors that are not Intel's use the kernels of this crate
//! (`gemm`) where there are 512-bit instructions, else the `gemm` crate. Both take transposed matrices, and
//! can add to their output.
//!
//! A processor without instructions for bfloat16 would multiply it at a third of the fp32 rate. There,
//! inputs rounded to bfloat16 are multiplied as fp32, which holds them exactly; the results differ from those
//! of the instructions only in the order of sums.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::gemm::{self, Write};
use crate::cpu::slices;
use crate::cpu::threads;

pub(super) fn matmul(dtype: Kind, a: &Tensor, b: &Tensor) -> Tensor {
    let mut out = Tensor::empty([a.size()[0], b.size()[1]], (Kind::Float, Device::Cpu));
    matmul_out(dtype, &mut out, a, b);
    out.to_kind(a.kind())
}

pub(super) fn matmul_out(dtype: Kind, out: &mut Tensor, a: &Tensor, b: &Tensor) {
    if let Some(kernel) = select_kernel(dtype, out, a, b) {
        return kernel.multiply(out, a, b, Write::Set);
    }
    let [a, b] = [a, b].map(|input| rounded(input, dtype));
    if out.kind() == a.kind() {
        let _ = a.mm_out(out, &b);
    } else {
        out.copy_(&a.mm(&b));
    }
}

/// Where libtorch multiplies bfloat16, the product is rounded to that before it is added.
pub(super) fn addmm(dtype: Kind, total: &mut Tensor, a: &Tensor, b: &Tensor) {
    if let Some(kernel) = select_kernel(dtype, total, a, b) {
        return kernel.multiply(total, a, b, Write::Add);
    }
    let [a, b] = [a, b].map(|input| rounded(input, dtype));
    if total.kind() == a.kind() {
        let _ = total.addmm_(&a, &b);
    } else {
        let _ = total.g_add_(&a.mm(&b));
    }
}

/// An input as libtorch multiplies it.
fn rounded(input: &Tensor, dtype: Kind) -> Tensor {
    let rounded = input.to_kind(dtype);
    if dtype == Kind::BFloat16 && bf16_runs_as_f32() { rounded.to_kind(Kind::Float) } else { rounded }
}

/// As [`crate::ops::Ops::rounded_input_bytes`]: in 16 bits, unless it is held so, and in fp32 again where it
/// is multiplied so.
pub(super) fn rounded_input_bytes(elements: u64, held: Kind, dtype: Kind) -> u64 {
    if dtype == Kind::Float || gemm_for(dtype).is_some() {
        return 0;
    }
    let rounded = if held == dtype { 0 } else { elements * dtype.elt_size_in_bytes() as u64 };
    rounded + if bf16_runs_as_f32() { elements * Kind::Float.elt_size_in_bytes() as u64 } else { 0 }
}

/// Whether this processor multiplies bfloat16 as fp32.
fn bf16_runs_as_f32() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The element type with which the kernels of this crate multiply inputs of this dtype, where they are used.
pub(super) fn gemm_for(dtype: Kind) -> Option<gemm::Element> {
    let element = if dtype == Kind::Float { gemm::Element::F32 } else { gemm::Element::Bfloat16 };
    (is_non_intel_avx2() && gemm::has(element)).then_some(element)
}

/// A matmul kernel other than libtorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    Avx512(gemm::Element),
    GemmCrate,
}

fn select_kernel(dtype: Kind, out: &Tensor, a: &Tensor, b: &Tensor) -> Option<Kernel> {
    let fits = |input: &Tensor| {
        input.device() == Device::Cpu
            && (input.kind() == Kind::Float || input.kind() == dtype && dtype == Kind::BFloat16)
    };
    if !slices::is_cpu_f32_contiguous(out) || !fits(a) || !fits(b) {
        return None;
    }
    gemm_for(dtype)
        .map(Kernel::Avx512)
        .or_else(|| (dtype == Kind::Float && is_non_intel_avx2()).then_some(Kernel::GemmCrate))
}

/// Whether the processor has AVX2 and FMA and is not Intel's. The vendor decides, not a measurement, so that
/// results are reproducible.
fn is_non_intel_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // Under a hypervisor, cpuid takes microseconds.
        static FOUND: OnceLock<bool> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let id = std::arch::x86_64::__cpuid(0);
            let vendor = [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat();
            vendor != b"GenuineIntel" && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A matrix in memory; strides in elements, from a row to the next and from a column to the next.
#[derive(Clone, Copy)]
struct Matrix {
    start: *mut u8,
    element: gemm::Element,
    strides: [usize; 2],
}

#[expect(unsafe_code, reason = "threads write to disjoint blocks of one matrix")]
// SAFETY: see `Kernel::multiply`.
unsafe impl Send for Matrix {}

impl Matrix {
    fn of(tensor: &Tensor) -> Self {
        let element = if tensor.kind() == Kind::Float { gemm::Element::F32 } else { gemm::Element::Bfloat16 };
        let strides = tensor.stride();
        Self { start: tensor.data_ptr().cast(), element, strides: [strides[0] as usize, strides[1] as usize] }
    }

    fn from(self, row: usize, column: usize) -> Self {
        let [down, right] = self.strides;
        Self { start: self.start.wrapping_add((row * down + column * right) * self.element.bytes()), ..self }
    }
}

/// Block sizes are multiples of so many rows, or columns: the tile of a kernel of [`gemm`].
const STEPS: [usize; 2] = [6, 64];

impl Kernel {
    /// out = a·b, or out += a·b. `out` is contiguous and fp32; all three are on the CPU.
    fn multiply(self, out: &mut Tensor, a: &Tensor, b: &Tensor, write: Write) {
        let ((m, k), (inner, n)) = (a.size2().expect("(m, k)"), b.size2().expect("(k, n)"));
        assert!(k == inner && out.size() == [m, n], "expected ({m}, {n}) = ({m}, {k}) × ({inner}, {n})");
        let (m, k, n) = (m as usize, k as usize, n as usize);
        // One of the two strides of an input must be 1.
        let [a, b] =
            [a, b].map(|input| if input.stride().contains(&1) { input.shallow_clone() } else { input.contiguous() });
        let (place, first, second) = (Matrix::of(out), Matrix::of(&a), Matrix::of(&b));
        // Blocks of the longer side, two a thread and as even as steps allow, the larger first.
        let along_rows = m >= n;
        let (long, short, step) = if along_rows { (m, n, STEPS[0]) } else { (n, m, STEPS[1]) };
        let (count, steps) = (2 * tch::get_num_threads().max(1) as usize, long.div_ceil(step));
        let start = |block: usize| (block * (steps / count) + block.min(steps % count)) * step;
        let blocks = (0..count.min(steps))
            .map(|block| (start(block), long.min(start(block + 1)) - start(block), [place, first, second]))
            .collect();
        threads::parallel_for(blocks, long * short.max(k), |(start, size, [out, a, b])| {
            let (m, n, out, a, b) = match along_rows {
                true => (size, n, out.from(start, 0), a.from(start, 0), b),
                false => (m, size, out.from(0, start), a, b.from(0, start)),
            };
            #[expect(unsafe_code, reason = "kernels work on pointers")]
            // SAFETY: the three matrices have these sizes and strides; blocks of `out` are disjoint, it is
            // borrowed until all are done, and shares no memory with the others.
            unsafe {
                self.block(gemm::Size { m, k, n }, out, a, b, write);
            }
        });
    }

    #[expect(unsafe_code, reason = "kernels work on pointers")]
    /// # Safety
    /// The matrices must have these sizes, and nothing else use what is written.
    unsafe fn block(self, gemm::Size { m, k, n }: gemm::Size, out: Matrix, a: Matrix, b: Matrix, write: Write) {
        match self {
            Self::Avx512(dtype) => {
                let mat_ref = |matrix: Matrix| gemm::MatRef {
                    start: matrix.start.cast_const(),
                    element: matrix.element,
                    strides: matrix.strides,
                };
                let out = gemm::MatMut { start: out.start.cast(), stride: out.strides[0], write };
                // SAFETY: the caller's; the kernel was selected because the processor has its instructions.
                unsafe { gemm::multiply(dtype, gemm::Size { m, k, n }, out, mat_ref(a), mat_ref(b)) }
            }
            Self::GemmCrate => {
                let steps = |matrix: Matrix| matrix.strides.map(|stride| stride as isize);
                let ([out_rows, out_columns], [a_rows, a_columns], [b_rows, b_columns]) =
                    (steps(out), steps(a), steps(b));
                let [a, b] = [a, b].map(|matrix| matrix.start.cast_const().cast::<f32>());
                let none = ::gemm::Parallelism::None;
                // SAFETY: the caller's.
                unsafe {
                    ::gemm::gemm(
                        m,
                        n,
                        k,
                        out.start.cast::<f32>(),
                        out_columns,
                        out_rows,
                        write == Write::Add,
                        a,
                        a_columns,
                        a_rows,
                        b,
                        b_columns,
                        b_rows,
                        1.0,
                        1.0,
                        false,
                        false,
                        false,
                        none,
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(size: [i64; 2]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn every_kernel_multiplies_whatever_is_transposed() {
        let _generator = crate::seeded(1);
        let mut kernels = vec![(Kernel::GemmCrate, Kind::Float)];
        for (element, kind) in [(gemm::Element::F32, Kind::Float), (gemm::Element::Bfloat16, Kind::BFloat16)] {
            if gemm::has(element) {
                kernels.push((Kernel::Avx512(element), kind));
            }
        }
        let sizes =
            [(1, 1, 1), (3, 70, 5), (130, 33, 300), (700, 64, 90), (13, 1601, 70), (150, 800, 2100), (2, 3, 130)];
        for (m, k, n) in sizes {
            let (a, b) = (random([m, k]), random([k, n]));
            let (a_transposed, b_transposed) = (random([k, m]), random([n, k]));
            for (a, b) in
                [(&a, &b), (&a_transposed.tr(), &b), (&a, &b_transposed.tr()), (&a_transposed.tr(), &b_transposed.tr())]
            {
                for (kernel, kind) in &kernels {
                    let exact = |input: &Tensor| input.to_kind(*kind).to_kind(Kind::Double);
                    let expected = exact(a).mm(&exact(b));
                    let kinds: &[Kind] =
                        if *kind == Kind::Float { &[Kind::Float] } else { &[Kind::Float, Kind::BFloat16] };
                    for (one, other) in kinds.iter().flat_map(|one| kinds.iter().map(move |other| (*one, *other))) {
                        // The dtype must not change the layout of an input.
                        let (a, b) = (a.to_kind(one), b.to_kind(other));
                        let mut out = random([m, n]);
                        let before = out.to_kind(Kind::Double);
                        kernel.multiply(&mut out, &a, &b, Write::Add);
                        let apart = (out.to_kind(Kind::Double) - before - &expected).abs().max().double_value(&[]);
                        assert!(apart < 1e-4, "{kernel:?} {m} {k} {n} {one:?} {other:?}: added, {apart:e}");
                        kernel.multiply(&mut out, &a, &b, Write::Set);
                        let apart = (out.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
                        assert!(apart < 1e-4, "{kernel:?} {m} {k} {n} {one:?} {other:?}: {apart:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_what_surrounds_it() {
        if !gemm::has(gemm::Element::F32) {
            return;
        }
        let _generator = crate::seeded(4);
        let (a, b) = (random([300, 900]), random([900, 200]));
        let kernel = Kernel::Avx512(gemm::Element::F32);
        let product = |a: &Tensor| {
            let mut out = random([a.size()[0], 200]);
            kernel.multiply(&mut out, a, &b, Write::Set);
            out
        };
        let whole = product(&a);
        for (first, count) in [(0, 1), (5, 6), (77, 131)] {
            assert!(product(&a.narrow(0, first, count)).equal(&whole.narrow(0, first, count)));
            let transposed = a.narrow(0, first, count).tr().contiguous();
            assert!(product(&transposed.tr()).equal(&whole.narrow(0, first, count)));
        }
    }

    #[test]
    fn inputs_are_rounded_and_nothing_else() {
        let _generator = crate::seeded(2);
        let [a, b] = [random([90, 300]), random([300, 70])];
        let exact = |input: &Tensor| input.to_kind(Kind::BFloat16).to_kind(Kind::Double);
        let expected = exact(&a).mm(&exact(&b));
        let apart = |found: &Tensor| (found.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
        // Where libtorch multiplies, half a unit in the last of eight bits, at the largest entry.
        let ours = gemm_for(Kind::BFloat16).is_some() || bf16_runs_as_f32();
        let rounding = if ours { 1e-4 } else { expected.abs().max().double_value(&[]) / 256.0 };
        let found = matmul(Kind::BFloat16, &a, &b);
        assert!(found.kind() == Kind::Float && apart(&found) <= rounding, "{:e}", apart(&found));
        let mut total = Tensor::zeros([90, 70], (Kind::Float, Device::Cpu));
        addmm(Kind::BFloat16, &mut total, &a.to_kind(Kind::BFloat16), &b);
        assert!(apart(&total) <= rounding, "{:e}", apart(&total));
        matmul_out(Kind::BFloat16, &mut total, &a, &b.to_kind(Kind::BFloat16));
        assert!(apart(&total) <= rounding, "{:e}", apart(&total));
        let half = matmul(Kind::BFloat16, &a.to_kind(Kind::BFloat16), &b);
        assert!(half.kind() == Kind::BFloat16 && apart(&half) <= expected.abs().max().double_value(&[]) / 256.0);
    }
}

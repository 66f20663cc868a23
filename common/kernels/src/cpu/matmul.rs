//! Products of matrices, by the fastest way there is on the processor, of factors in fp32 or rounded to bfloat16.
//!
//! libtorch's own fp32 products (MKL) reach half of what AMD's processors do (docs/performance.md), and its products of bfloat16 round
//! every result to that. On processors that are not Intel's ours are taken: `gemm` where there are 512-bit instructions, else the
//! `gemm` crate. Both take transposed matrices as they are, and add to what is there.
//!
//! A processor without instructions for bfloat16 would multiply it at a third of the fp32 rate. There, factors that were rounded to bfloat16 are
//! multiplied as fp32, which holds them exactly; the results are those of the instructions but for the order of sums.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::gemm;
use crate::cpu::slices;
use crate::cpu::threads;

pub(super) fn matmul(by: Kind, a: &Tensor, b: &Tensor) -> Tensor {
    let mut out = Tensor::empty([a.size()[0], b.size()[1]], (Kind::Float, Device::Cpu));
    matmul_out(by, &mut out, a, b);
    out.to_kind(a.kind())
}

pub(super) fn matmul_out(by: Kind, out: &mut Tensor, a: &Tensor, b: &Tensor) {
    if let Some(kernel) = select_kernel(by, out, a, b) {
        return kernel.multiply(out, a, b, Write::Set);
    }
    let [a, b] = [a, b].map(|input| rounded(input, by));
    if out.kind() == a.kind() {
        let _ = a.mm_out(out, &b);
    } else {
        out.copy_(&a.mm(&b));
    }
}

/// Where libtorch multiplies bfloat16, the product is rounded to that before it is added.
pub(super) fn addmm(by: Kind, total: &mut Tensor, a: &Tensor, b: &Tensor) {
    if let Some(kernel) = select_kernel(by, total, a, b) {
        return kernel.multiply(total, a, b, Write::Add);
    }
    let [a, b] = [a, b].map(|input| rounded(input, by));
    if total.kind() == a.kind() {
        let _ = total.addmm_(&a, &b);
    } else {
        let _ = total.g_add_(&a.mm(&b));
    }
}

/// An input as libtorch multiplies it.
fn rounded(input: &Tensor, by: Kind) -> Tensor {
    let rounded = input.to_kind(by);
    if by == Kind::BFloat16 && bf16_runs_as_f32() { rounded.to_kind(Kind::Float) } else { rounded }
}

/// As [`crate::ops::Ops::rounded_input_bytes`]: in 16 bits, unless it is held so, and in fp32 again where it is multiplied so.
pub(super) fn rounded_input_bytes(elements: u64, held: Kind, by: Kind) -> u64 {
    if by == Kind::Float || gemm_for(by).is_some() {
        return 0;
    }
    let rounded = if held == by { 0 } else { elements * by.elt_size_in_bytes() as u64 };
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

/// The kernels that multiply factors of this dtype on the CPU, where they are ours.
pub(super) fn gemm_for(by: Kind) -> Option<gemm::Element> {
    let element = if by == Kind::Float { gemm::Element::F32 } else { gemm::Element::Bfloat16 };
    (is_non_intel_avx2() && gemm::has(element)).then_some(element)
}

/// How a product is computed that is not left to libtorch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    Avx512(gemm::Element),
    GemmCrate,
}

fn select_kernel(by: Kind, out: &Tensor, a: &Tensor, b: &Tensor) -> Option<Kernel> {
    let fits = |factor: &Tensor| {
        factor.device() == Device::Cpu && (factor.kind() == Kind::Float || factor.kind() == by && by == Kind::BFloat16)
    };
    if !slices::is_cpu_f32_contiguous(out) || !fits(a) || !fits(b) {
        return None;
    }
    gemm_for(by).map(Kernel::Avx512).or_else(|| (by == Kind::Float && is_non_intel_avx2()).then_some(Kernel::GemmCrate))
}

/// Whether the processor has wide instructions, but not MKL's maker. The maker decides, so that a run repeats.
fn is_non_intel_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // Under a hypervisor the question takes microseconds.
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

/// Whether a product replaces what is there, or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Set,
    Add,
}

/// A matrix in memory: where it begins, and how far apart, in elements, neighbours in its columns and rows lie.
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

/// Blocks are cut between so many rows, or columns: what a kernel of [`gemm`] takes at once.
const STEPS: [usize; 2] = [6, 64];

impl Kernel {
    /// out = a·b, or out += a·b. `out` is contiguous and fp32; all three are on the CPU.
    fn multiply(self, out: &mut Tensor, a: &Tensor, b: &Tensor, write: Write) {
        let ((m, k), (inner, n)) = (a.size2().expect("(m, k)"), b.size2().expect("(k, n)"));
        assert!(k == inner && out.size() == [m, n], "expected ({m}, {n}) = ({m}, {k}) × ({inner}, {n})");
        let (m, k, n) = (m as usize, k as usize, n as usize);
        // One of the two strides of a factor must be 1.
        let [a, b] = [a, b]
            .map(|factor| if factor.stride().contains(&1) { factor.shallow_clone() } else { factor.contiguous() });
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
            // SAFETY: the three matrices have these sizes and strides; blocks of `out` are disjoint, it is borrowed until all are
            // done, and shares no memory with the others.
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
            Self::Avx512(by) => {
                let factor = |matrix: Matrix| gemm::Factor {
                    start: matrix.start.cast_const(),
                    element: matrix.element,
                    strides: matrix.strides,
                };
                let out = gemm::Place { start: out.start.cast(), stride: out.strides[0], add: write == Write::Add };
                // SAFETY: the caller's; a way is chosen where the processor has its instructions.
                unsafe { gemm::multiply(by, gemm::Size { m, k, n }, out, factor(a), factor(b)) }
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
    fn our_ways_are_the_product_whatever_is_transposed() {
        let _generator = crate::seeded(1);
        let mut ways = vec![(Kernel::GemmCrate, Kind::Float)];
        for (element, kind) in [(gemm::Element::F32, Kind::Float), (gemm::Element::Bfloat16, Kind::BFloat16)] {
            if gemm::has(element) {
                ways.push((Kernel::Avx512(element), kind));
            }
        }
        let sizes =
            [(1, 1, 1), (3, 70, 5), (130, 33, 300), (700, 64, 90), (13, 1601, 70), (150, 800, 2100), (2, 3, 130)];
        for (m, k, n) in sizes {
            let (a, b) = (random([m, k]), random([k, n]));
            let (a_turned, b_turned) = (random([k, m]), random([n, k]));
            for (a, b) in [(&a, &b), (&a_turned.tr(), &b), (&a, &b_turned.tr()), (&a_turned.tr(), &b_turned.tr())] {
                for (way, kind) in &ways {
                    let exact = |factor: &Tensor| factor.to_kind(*kind).to_kind(Kind::Double);
                    let expected = exact(a).mm(&exact(b));
                    let kinds: &[Kind] =
                        if *kind == Kind::Float { &[Kind::Float] } else { &[Kind::Float, Kind::BFloat16] };
                    for (one, other) in kinds.iter().flat_map(|one| kinds.iter().map(move |other| (*one, *other))) {
                        // The dtype must not change how a factor lies in memory.
                        let (a, b) = (a.to_kind(one), b.to_kind(other));
                        let mut out = random([m, n]);
                        let before = out.to_kind(Kind::Double);
                        way.multiply(&mut out, &a, &b, Write::Add);
                        let apart = (out.to_kind(Kind::Double) - before - &expected).abs().max().double_value(&[]);
                        assert!(apart < 1e-4, "{way:?} {m} {k} {n} {one:?} {other:?}: added, {apart:e}");
                        way.multiply(&mut out, &a, &b, Write::Set);
                        let apart = (out.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
                        assert!(apart < 1e-4, "{way:?} {m} {k} {n} {one:?} {other:?}: {apart:e}");
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
        let way = Kernel::Avx512(gemm::Element::F32);
        let product = |a: &Tensor| {
            let mut out = random([a.size()[0], 200]);
            way.multiply(&mut out, a, &b, Write::Set);
            out
        };
        let whole = product(&a);
        for (first, count) in [(0, 1), (5, 6), (77, 131)] {
            assert!(product(&a.narrow(0, first, count)).equal(&whole.narrow(0, first, count)));
            let turned = a.narrow(0, first, count).tr().contiguous();
            assert!(product(&turned.tr()).equal(&whole.narrow(0, first, count)));
        }
    }

    #[test]
    fn factors_are_rounded_and_nothing_else() {
        let _generator = crate::seeded(2);
        let [a, b] = [random([90, 300]), random([300, 70])];
        let exact = |factor: &Tensor| factor.to_kind(Kind::BFloat16).to_kind(Kind::Double);
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

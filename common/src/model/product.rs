//! Products of matrices, by the fastest way there is on the processor. libtorch's own fp32 products (MKL) reach half the
//! rate of oneDNN's on AMD's processors (docs/performance.md); on all that are not Intel's, the `gemm` crate computes them. It takes transposed matrices as they
//! are, and adds to what is there, which oneDNN's products in libtorch do not.
//!
//! bfloat16 on a processor without instructions for it would be computed at a third of the fp32 rate. There, matrices of bfloat16 are
//! multiplied as fp32, which holds them exactly; a result in bfloat16 is rounded once, as it is elsewhere.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::memory;
use crate::parallel;

/// A weight as products take it: rounded to `compute`, and held in fp32 where that is how it is multiplied.
pub(super) fn factor(weight: &Tensor, compute: Kind) -> Tensor {
    let weight = weight.detach().to_kind(compute);
    if widens(&weight) { weight.to_kind(Kind::Float) } else { weight }
}

/// a·b for (m, k) and (k, n), both as they lie in memory; in the dtype of `a`.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Tensor {
    let mut out = Tensor::empty([a.size()[0], b.size()[1]], (a.kind(), a.device()));
    product_into(&mut out, a, b);
    out
}

/// out = a·b.
pub(super) fn product_into(out: &mut Tensor, a: &Tensor, b: &Tensor) {
    if is_ours(out, a, b) {
        multiply(out, a, b, false);
    } else if let Some((a, b)) = widened(a, b) {
        match out.kind() {
            Kind::Float => product_into(out, &a, &b),
            _ => out.copy_(&product(&a, &b)),
        }
    } else if out.kind() == a.kind() {
        let _ = a.mm_out(out, b);
    } else {
        out.copy_(&a.mm(b));
    }
}

/// total += a·b; where the product's own dtype differs, it is rounded to that first, unless it is computed in fp32 anyway.
pub(super) fn add_product(total: &mut Tensor, a: &Tensor, b: &Tensor) {
    if is_ours(total, a, b) {
        multiply(total, a, b, true);
    } else if let Some((a, b)) = widened(a, b) {
        match total.kind() {
            Kind::Float => add_product(total, &a, &b),
            _ => drop(total.g_add_(&product(&a, &b))),
        }
    } else if total.kind() == a.kind() {
        let _ = total.addmm_(a, b);
    } else {
        let _ = total.g_add_(&a.mm(b));
    }
}

/// Both in fp32, where one is in bfloat16 and the processor has no instructions for it.
fn widened(a: &Tensor, b: &Tensor) -> Option<(Tensor, Tensor)> {
    (widens(a) || widens(b)).then(|| (a.to_kind(Kind::Float), b.to_kind(Kind::Float)))
}

fn widens(tensor: &Tensor) -> bool {
    tensor.kind() == Kind::BFloat16 && tensor.device() == Device::Cpu && bfloat16_is_widened()
}

/// Whether this processor multiplies bfloat16 as fp32.
pub(crate) fn bfloat16_is_widened() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether libtorch is slower at it here.
fn is_ours(out: &Tensor, a: &Tensor, b: &Tensor) -> bool {
    static FOREIGN: OnceLock<bool> = OnceLock::new();
    memory::takes(out)
        && [a, b].iter().all(|tensor| tensor.kind() == Kind::Float && tensor.device() == out.device())
        && *FOREIGN.get_or_init(is_foreign)
}

/// Whether the processor has wide instructions, but not MKL's maker.
fn is_foreign() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let id = std::arch::x86_64::__cpuid(0);
        let vendor = [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat();
        vendor != b"GenuineIntel" && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A matrix in memory: where it begins, and how far apart rows and columns lie.
#[derive(Clone, Copy)]
struct Matrix {
    start: *mut f32,
    rows: isize,
    columns: isize,
}

#[expect(unsafe_code, reason = "threads write to disjoint blocks of one matrix")]
// SAFETY: see `multiply`.
unsafe impl Send for Matrix {}

impl Matrix {
    fn of(tensor: &Tensor) -> Self {
        let strides = tensor.stride();
        Self { start: tensor.data_ptr().cast(), rows: strides[0] as isize, columns: strides[1] as isize }
    }

    #[expect(unsafe_code, reason = "threads write to disjoint blocks of one matrix")]
    fn from(self, row: usize, column: usize) -> Self {
        // SAFETY: callers stay within the matrix.
        let start = unsafe { self.start.offset(row as isize * self.rows + column as isize * self.columns) };
        Self { start, ..self }
    }
}

/// Rows or columns of a block begin at multiples of this.
const STEP: usize = 64;

/// out = a·b, or out += a·b. `out` is contiguous; all three are fp32 on the CPU.
fn multiply(out: &mut Tensor, a: &Tensor, b: &Tensor, add: bool) {
    let ((m, k), (inner, n)) = (a.size2().expect("(m, k)"), b.size2().expect("(k, n)"));
    assert!(k == inner && out.size() == [m, n], "expected ({m}, {n}) = ({m}, {k}) × ({inner}, {n})");
    let (m, k, n) = (m as usize, k as usize, n as usize);
    let (out, a, b) = (Matrix::of(out), Matrix::of(a), Matrix::of(b));
    // Blocks of the longer side, two a thread.
    let along_rows = m >= n;
    let (long, short) = if along_rows { (m, n) } else { (n, m) };
    let threads = tch::get_num_threads().max(1) as usize;
    let size = long.div_ceil(2 * threads).next_multiple_of(STEP);
    let blocks = (0..long).step_by(size).map(|start| (start, size.min(long - start), out, a, b)).collect();
    parallel::each(blocks, long * short.max(k), |(start, size, out, a, b)| {
        let (rows, columns, out, a, b) = match along_rows {
            true => (size, n, out.from(start, 0), a.from(start, 0), b),
            false => (m, size, out.from(0, start), a, b.from(0, start)),
        };
        #[expect(unsafe_code, reason = "the crate's interface")]
        // SAFETY: the three matrices have these sizes and strides; blocks of `out` are disjoint, it is borrowed until all are
        // done, and shares no memory with the others.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                k,
                out.start,
                out.columns,
                out.rows,
                add,
                a.start.cast_const(),
                a.columns,
                a.rows,
                b.start.cast_const(),
                b.columns,
                b.rows,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(size: [i64; 2]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn our_way_is_the_product_whatever_is_transposed() {
        tch::manual_seed(1);
        for (m, k, n) in [(1, 1, 1), (3, 70, 5), (130, 33, 300), (700, 64, 90)] {
            let (a, b) = (random([m, k]), random([k, n]));
            let (a_turned, b_turned) = (random([k, m]), random([n, k]));
            for (a, b) in [(&a, &b), (&a_turned.tr(), &b), (&a, &b_turned.tr()), (&a_turned.tr(), &b_turned.tr())] {
                let expected = a.to_kind(Kind::Double).mm(&b.to_kind(Kind::Double));
                let mut out = random([m, n]);
                let before = out.to_kind(Kind::Double);
                multiply(&mut out, a, b, true);
                let apart = (out.to_kind(Kind::Double) - before - &expected).abs().max().double_value(&[]);
                assert!(apart < 1e-4, "{m} {k} {n}: added, {apart:e}");
                multiply(&mut out, a, b, false);
                let apart = (out.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
                assert!(apart < 1e-4, "{m} {k} {n}: {apart:e}");
            }
        }
    }

    #[test]
    fn bfloat16_is_rounded_once() {
        tch::manual_seed(2);
        let [a, b] = [random([90, 300]), random([300, 70])].map(|tensor| tensor.to_kind(Kind::BFloat16));
        let exact = a.to_kind(Kind::Double).mm(&b.to_kind(Kind::Double));
        let apart = |found: &Tensor| (found.to_kind(Kind::Double) - &exact).abs().max().double_value(&[]);
        // Half a unit in the last of eight bits, at the largest entry.
        let rounding = exact.abs().max().double_value(&[]) / 256.0;
        let found = product(&a, &factor(&b.to_kind(Kind::Float), Kind::BFloat16));
        assert!(found.kind() == Kind::BFloat16 && apart(&found) <= rounding, "{:e}", apart(&found));
        let mut total = Tensor::zeros([90, 70], (Kind::Float, Device::Cpu));
        add_product(&mut total, &a, &b);
        assert!(apart(&total) <= rounding, "{:e}", apart(&total));
        product_into(&mut total, &a, &b);
        assert!(apart(&total) <= rounding, "{:e}", apart(&total));
    }
}

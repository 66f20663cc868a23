//! Products of matrices, by the fastest way there is on the processor, of factors in fp32 or rounded to bfloat16.
//!
//! libtorch's own fp32 products (MKL) reach half of what AMD's processors do (docs/performance.md), and its products of bfloat16 round
//! every result to that. On processors that are not Intel's ours are taken: `tiles` where there are 512-bit instructions, else the
//! `gemm` crate. Both take transposed matrices as they are, and add to what is there.
//!
//! A processor without instructions for bfloat16 would multiply it at a third of the fp32 rate. There, factors that were rounded to bfloat16 are
//! multiplied as fp32, which holds them exactly; the results are those of the instructions but for the order of sums.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::memory;
use crate::parallel;
use crate::tiles;

/// a·b for (m, k) and (k, n), of factors rounded to `by`; in the dtype of `a`.
pub fn product(by: Kind, a: &Tensor, b: &Tensor) -> Tensor {
    let sums = if a.device() == Device::Cpu { Kind::Float } else { a.kind() };
    let mut out = Tensor::empty([a.size()[0], b.size()[1]], (sums, a.device()));
    product_into(by, &mut out, a, b);
    out.to_kind(a.kind())
}

/// out = a·b, of factors rounded to `by`.
pub fn product_into(by: Kind, out: &mut Tensor, a: &Tensor, b: &Tensor) {
    if let Some(way) = way(by, out, a, b) {
        return way.multiply(out, a, b, false);
    }
    let [a, b] = [a, b].map(|factor| rounded(factor, by));
    if out.kind() == a.kind() {
        let _ = a.mm_out(out, &b);
    } else {
        out.copy_(&a.mm(&b));
    }
}

/// total += a·b, of factors rounded to `by`; where libtorch multiplies bfloat16, the product is rounded to that first.
pub fn add_product(by: Kind, total: &mut Tensor, a: &Tensor, b: &Tensor) {
    if let Some(way) = way(by, total, a, b) {
        return way.multiply(total, a, b, true);
    }
    let [a, b] = [a, b].map(|factor| rounded(factor, by));
    if total.kind() == a.kind() {
        let _ = total.addmm_(&a, &b);
    } else {
        let _ = total.g_add_(&a.mm(&b));
    }
}

/// A factor of several products: rounded once, but on the CPU, where each product rounds what it reads.
pub fn factor(tensor: &Tensor, by: Kind) -> Tensor {
    let tensor = tensor.detach();
    if tensor.device() == Device::Cpu { tensor } else { tensor.to_kind(by) }
}

/// A factor as libtorch multiplies it.
fn rounded(factor: &Tensor, by: Kind) -> Tensor {
    let rounded = factor.to_kind(by);
    let widens = by == Kind::BFloat16 && factor.device() == Device::Cpu && bfloat16_is_widened();
    if widens { rounded.to_kind(Kind::Float) } else { rounded }
}

/// Whether this processor multiplies bfloat16 as fp32.
pub fn bfloat16_is_widened() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The kernels that multiply factors of this dtype on the CPU, where they are ours.
pub(crate) fn tiles_for(factors: Kind) -> Option<tiles::Element> {
    let element = if factors == Kind::Float { tiles::Element::Single } else { tiles::Element::Bfloat16 };
    (is_foreign() && tiles::has(element)).then_some(element)
}

/// Whether this processor's products of bfloat16 are ours: factors are rounded as they are read, and need no copy.
pub fn bfloat16_is_ours() -> bool {
    tiles_for(Kind::BFloat16).is_some()
}

/// Whether attention is made of those kernels.
pub fn attention_is_ours(device: Device, compute: Kind) -> bool {
    device == Device::Cpu && tiles_for(compute).is_some()
}

/// How a product is computed that is not left to libtorch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Tiles(tiles::Element),
    Gemm,
}

fn way(by: Kind, out: &Tensor, a: &Tensor, b: &Tensor) -> Option<Way> {
    let fits = |factor: &Tensor| {
        factor.device() == Device::Cpu && (factor.kind() == Kind::Float || factor.kind() == by && by == Kind::BFloat16)
    };
    if !memory::takes(out) || !fits(a) || !fits(b) {
        return None;
    }
    tiles_for(by).map(Way::Tiles).or_else(|| (by == Kind::Float && is_foreign()).then_some(Way::Gemm))
}

/// Whether the processor has wide instructions, but not MKL's maker. The maker decides, so that a run repeats.
fn is_foreign() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // Under a hypervisor the question takes microseconds.
        static FOREIGN: OnceLock<bool> = OnceLock::new();
        *FOREIGN.get_or_init(|| {
            let id = std::arch::x86_64::__cpuid(0);
            let vendor = [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat();
            vendor != b"GenuineIntel" && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A matrix in memory: where it begins, and how far apart, in elements, neighbours in its columns and rows lie.
#[derive(Clone, Copy)]
struct Matrix {
    start: *mut u8,
    element: tiles::Element,
    strides: [usize; 2],
}

#[expect(unsafe_code, reason = "threads write to disjoint blocks of one matrix")]
// SAFETY: see `Way::multiply`.
unsafe impl Send for Matrix {}

impl Matrix {
    fn of(tensor: &Tensor) -> Self {
        let element = if tensor.kind() == Kind::Float { tiles::Element::Single } else { tiles::Element::Bfloat16 };
        let strides = tensor.stride();
        Self { start: tensor.data_ptr().cast(), element, strides: [strides[0] as usize, strides[1] as usize] }
    }

    fn from(self, row: usize, column: usize) -> Self {
        let [down, right] = self.strides;
        Self { start: self.start.wrapping_add((row * down + column * right) * self.element.bytes()), ..self }
    }
}

/// Blocks are cut between so many rows, or columns: what a kernel of [`tiles`] takes at once.
const STEPS: [usize; 2] = [6, 64];

impl Way {
    /// out = a·b, or out += a·b. `out` is contiguous and fp32; all three are on the CPU.
    fn multiply(self, out: &mut Tensor, a: &Tensor, b: &Tensor, add: bool) {
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
        parallel::each(blocks, long * short.max(k), |(start, size, [out, a, b])| {
            let (m, n, out, a, b) = match along_rows {
                true => (size, n, out.from(start, 0), a.from(start, 0), b),
                false => (m, size, out.from(0, start), a, b.from(0, start)),
            };
            #[expect(unsafe_code, reason = "kernels work on pointers")]
            // SAFETY: the three matrices have these sizes and strides; blocks of `out` are disjoint, it is borrowed until all are
            // done, and shares no memory with the others.
            unsafe {
                self.block(tiles::Size { m, k, n }, out, a, b, add);
            }
        });
    }

    #[expect(unsafe_code, reason = "kernels work on pointers")]
    /// # Safety
    /// The matrices must have these sizes, and nothing else use what is written.
    unsafe fn block(self, tiles::Size { m, k, n }: tiles::Size, out: Matrix, a: Matrix, b: Matrix, add: bool) {
        match self {
            Self::Tiles(by) => {
                let factor = |matrix: Matrix| tiles::Factor {
                    start: matrix.start.cast_const(),
                    element: matrix.element,
                    strides: matrix.strides,
                };
                let out = tiles::Place { start: out.start.cast(), stride: out.strides[0], add };
                // SAFETY: the caller's; a way is chosen where the processor has its instructions.
                unsafe { tiles::multiply(by, tiles::Size { m, k, n }, out, factor(a), factor(b)) }
            }
            Self::Gemm => {
                let steps = |matrix: Matrix| matrix.strides.map(|stride| stride as isize);
                let ([out_rows, out_columns], [a_rows, a_columns], [b_rows, b_columns]) =
                    (steps(out), steps(a), steps(b));
                let [a, b] = [a, b].map(|matrix| matrix.start.cast_const().cast::<f32>());
                let none = gemm::Parallelism::None;
                // SAFETY: the caller's.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        out.start.cast::<f32>(),
                        out_columns,
                        out_rows,
                        add,
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
        let mut ways = vec![(Way::Gemm, Kind::Float)];
        for (element, kind) in [(tiles::Element::Single, Kind::Float), (tiles::Element::Bfloat16, Kind::BFloat16)] {
            if tiles::has(element) {
                ways.push((Way::Tiles(element), kind));
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
                        way.multiply(&mut out, &a, &b, true);
                        let apart = (out.to_kind(Kind::Double) - before - &expected).abs().max().double_value(&[]);
                        assert!(apart < 1e-4, "{way:?} {m} {k} {n} {one:?} {other:?}: added, {apart:e}");
                        way.multiply(&mut out, &a, &b, false);
                        let apart = (out.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
                        assert!(apart < 1e-4, "{way:?} {m} {k} {n} {one:?} {other:?}: {apart:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_what_surrounds_it() {
        if !tiles::has(tiles::Element::Single) {
            return;
        }
        let _generator = crate::seeded(4);
        let (a, b) = (random([300, 900]), random([900, 200]));
        let way = Way::Tiles(tiles::Element::Single);
        let product = |a: &Tensor| {
            let mut out = random([a.size()[0], 200]);
            way.multiply(&mut out, a, &b, false);
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
        let ours = bfloat16_is_ours() || bfloat16_is_widened();
        let rounding = if ours { 1e-4 } else { expected.abs().max().double_value(&[]) / 256.0 };
        let found = product(Kind::BFloat16, &a, &b);
        assert!(found.kind() == Kind::Float && apart(&found) <= rounding, "{:e}", apart(&found));
        let mut total = Tensor::zeros([90, 70], (Kind::Float, Device::Cpu));
        add_product(Kind::BFloat16, &mut total, &a.to_kind(Kind::BFloat16), &b);
        assert!(apart(&total) <= rounding, "{:e}", apart(&total));
        product_into(Kind::BFloat16, &mut total, &a, &b.to_kind(Kind::BFloat16));
        assert!(apart(&total) <= rounding, "{:e}", apart(&total));
        let half = product(Kind::BFloat16, &a.to_kind(Kind::BFloat16), &b);
        assert!(half.kind() == Kind::BFloat16 && apart(&half) <= expected.abs().max().double_value(&[]) / 256.0);
    }
}

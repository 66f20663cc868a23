//! Matmuls of a few rows with a large matrix, for decoding and scoring: y = x·Wᵀ for x (n, D) and W (V, D),
//! on the CPU in fp32. General kernels read W far below the memory's bandwidth when n is small; here every
//! row of W is read once for all rows of x. Each output element is one sum in one order, whatever n is: a
//! row's result is batch-invariant to the bit. Decoding uses the same kernels for attention: scores are a
//! matmul of a few queries with the keys, the output is a weighted sum of the values.

use tch::{Kind, Tensor};

use crate::cpu::slices::{as_f32_slice, as_f32_slice_mut, is_cpu_f32_contiguous};
use crate::cpu::threads;

/// From so many rows on, general kernels are as good.
const MOST_ROWS: i64 = 48;

/// x·Wᵀ + b, for (n, D), (V, D) and (V); nothing where this is not the way to compute it: other devices and
/// dtypes, many rows, or a processor without the instructions.
pub(super) fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<Tensor> {
    let (rows, width) = input.size2().ok()?;
    let kernel = kernel()?;
    if rows > MOST_ROWS
        || rows == 0
        || width % LANES as i64 != 0
        || !is_cpu_f32_contiguous(weight)
        || !is_cpu_f32_contiguous(input)
    {
        return None;
    }
    let (outputs, _) = weight.size2().ok()?;
    let mut output = Tensor::empty([rows, outputs], (Kind::Float, tch::Device::Cpu));
    multiply(
        kernel.matmul_nt,
        as_f32_slice(input),
        as_f32_slice(weight),
        as_f32_slice_mut(&mut output),
        width as usize,
    );
    Some(match bias {
        Some(bias) => output.g_add_(bias),
        None => output,
    })
}

/// y = x·Wᵀ for x (n, D), W (V, D) and y (n, V), on this thread alone.
pub(super) fn matmul_nt(x: &[f32], w: &[f32], width: usize, y: &mut [f32]) {
    let (rows, outputs) = (x.len() / width, w.len() / width);
    assert_eq!(rows * outputs, y.len(), "expected a place for every row and output");
    match kernel() {
        #[expect(unsafe_code, reason = "instructions that the compiler does not choose by itself")]
        // SAFETY: the processor has the kernel's instructions, and `y` has a place for every row and output.
        Some(kernel) if width.is_multiple_of(LANES) => unsafe {
            (kernel.matmul_nt)(x, w, width, y.as_mut_ptr(), outputs)
        },
        _ => {
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(outputs)) {
                for (w, y) in w.chunks_exact(width).zip(y) {
                    *y = x.iter().zip(w).map(|(x, w)| x * w).sum();
                }
            }
        }
    }
}

/// y = p·V for p (n, T), V (T, D) and y (n, D), on this thread alone.
pub(super) fn weighted_sums(p: &[f32], v: &[f32], width: usize, y: &mut [f32]) {
    let count = v.len() / width;
    assert_eq!(p.len() * width, count * y.len(), "expected a place for every row");
    match kernel() {
        #[expect(unsafe_code, reason = "instructions that the compiler does not choose by itself")]
        // SAFETY: the processor has the kernel's instructions, and the sizes were looked at.
        Some(kernel) if width.is_multiple_of(LANES) => unsafe { (kernel.weighted_sums)(p, v, width, y) },
        _ => {
            y.fill(0.0);
            for (p, y) in p.chunks_exact(count).zip(y.chunks_exact_mut(width)) {
                for (p, v) in p.iter().zip(v.chunks_exact(width)) {
                    y.iter_mut().zip(v).for_each(|(y, v)| *y += p * v);
                }
            }
        }
    }
}

/// What one kind of instructions computes, where D is a multiple of [`LANES`].
#[derive(Clone, Copy)]
struct Kernel {
    matmul_nt: Dots,
    weighted_sums: unsafe fn(&[f32], &[f32], usize, &mut [f32]),
}

/// Computes some outputs of all rows: (x, the rows of W, D, where the first output goes, how far apart those
/// of two rows are).
type Dots = unsafe fn(&[f32], &[f32], usize, *mut f32, usize);

/// Where results go: each thread writes outputs that no other does.
#[derive(Clone, Copy)]
struct Outputs(*mut f32);

#[expect(unsafe_code, reason = "threads write to disjoint places of one matrix")]
// SAFETY: see `multiply`.
unsafe impl Send for Outputs {}

/// The widest that the processor has.
fn kernel() -> Option<Kernel> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Some(Kernel { matmul_nt: wide::avx512, weighted_sums: wide::weighted_sums_avx512 });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(Kernel { matmul_nt: wide::avx2, weighted_sums: wide::weighted_sums_avx2 });
        }
    }
    None
}

/// D is a multiple of this.
const LANES: usize = 16;
/// Outputs that a thread takes at once.
const BLOCK: usize = 256;
/// Floats of W in a part, which stay in the nearest caches while all rows of x go over them.
const PART: usize = 1 << 13;

#[expect(unsafe_code, reason = "threads write to disjoint places of one matrix")]
fn multiply(kernel: Dots, x: &[f32], w: &[f32], y: &mut [f32], width: usize) {
    let (rows, outputs) = (x.len() / width, w.len() / width);
    assert_eq!(rows * outputs, y.len(), "expected a place for every row and output");
    let part = (PART / width).next_multiple_of(4).min(BLOCK);
    let to = Outputs(y.as_mut_ptr());
    let blocks = (0..).step_by(BLOCK).zip(w.chunks(BLOCK * width)).map(|(first, w)| (first, w, to)).collect();
    threads::parallel_for(blocks, w.len(), |(first, w, to)| {
        let Outputs(to) = to;
        let count = w.len() / width;
        // Rows of y lie far apart: written one by one, outputs would each need a page of their own.
        let mut block = vec![0.0; rows * count];
        for (at, w) in (0..).step_by(part).zip(w.chunks(part * width)) {
            // SAFETY: the processor has the kernel's instructions, and `block` has a place for every row and
            // output.
            unsafe { kernel(x, w, width, block.as_mut_ptr().add(at), count) };
        }
        for (row, block) in block.chunks_exact(count).enumerate() {
            // SAFETY: outputs first..first + count of every row are written by one thread alone, and `y` is
            // borrowed until all are done.
            unsafe { to.add(row * outputs + first).copy_from_nonoverlapping(block.as_ptr(), count) };
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that the compiler does not choose by itself")]
mod wide {
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_T1, _mm_add_ps, _mm_prefetch, _mm_storeu_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps512_ps128,
        _mm512_extractf32x4_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    /// Rows of W in a tile.
    const COLUMNS: usize = 4;

    /// A kernel over tiles of up to `$most` rows of x and four rows of W, whose sums stay in registers.
    macro_rules! kernel {
        ($name:ident, $tile:ident, $features:literal, $lanes:literal, $most:literal, [$($rows:literal),+], $zero:ident, $load:ident, $fma:ident, $reduce:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(x: &[f32], w: &[f32], width: usize, to: *mut f32, stride: usize) {
                let (rows, outputs) = (x.len() / width, w.len() / width);
                // As many tiles as must be, of about the same size.
                let tiles = rows.div_ceil($most);
                let fetched = COLUMNS.div_ceil(tiles);
                // What comes next of W is fetched meanwhile.
                let mut ahead = w.as_ptr_range().end;
                for tile in 0..tiles {
                    let (start, end) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                    let xs = unsafe { x.as_ptr().add(start * width) };
                    for output in (0..outputs).step_by(COLUMNS) {
                        let columns = (outputs - output).min(COLUMNS);
                        // At the edge the last row of W is read again, and what is its own is written.
                        let mut ws = [w.as_ptr(); COLUMNS];
                        for (at, w) in ws.iter_mut().enumerate() {
                            *w = unsafe { w.add((output + at.min(columns - 1)) * width) };
                        }
                        let to = unsafe { to.add(start * stride + output) };
                        match end - start {
                            $($rows => unsafe { $tile::<$rows>(xs, &ws, width, to, stride, columns, (ahead, fetched)) },)+
                            _ => unreachable!("a tile has at most {} rows", $most),
                        }
                        ahead = ahead.wrapping_add(fetched * width);
                    }
                }
            }

            // Closures would not be inlined: they do not have the features.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn $tile<const ROWS: usize>(
                x: *const f32,
                ws: &[*const f32; COLUMNS],
                width: usize,
                to: *mut f32,
                stride: usize,
                columns: usize,
                (mut ahead, fetched): (*const f32, usize),
            ) {
                let mut sums = [[$zero(); COLUMNS]; ROWS];
                let mut at = 0;
                while at < width {
                    let mut weights = [$zero(); COLUMNS];
                    for column in 0..COLUMNS {
                        weights[column] = unsafe { $load(ws[column].add(at)) };
                    }
                    for row in 0..ROWS {
                        let entry = unsafe { $load(x.add(row * width + at)) };
                        for column in 0..COLUMNS {
                            sums[row][column] = $fma(entry, weights[column], sums[row][column]);
                        }
                    }
                    at += $lanes;
                    if at % 16 == 0 {
                        for _ in 0..fetched {
                            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                            ahead = ahead.wrapping_add(16);
                        }
                    }
                }
                for row in 0..ROWS {
                    let reduced = $reduce(&sums[row]);
                    for column in 0..columns {
                        unsafe { *to.add(row * stride + column) = reduced[column] };
                    }
                }
            }
        };
    }

    kernel!(
        avx512,
        tile_16,
        "avx512f",
        16,
        6,
        [1, 2, 3, 4, 5, 6],
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_fmadd_ps,
        reduce_16
    );
    kernel!(avx2, tile_8, "avx2,fma", 8, 3, [1, 2, 3], _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, reduce_8);

    /// Registers of a mixture that are computed at once, where it is that wide.
    const VECTORS: usize = 4;

    /// Mixtures of rows of V, in tiles of up to `$most` mixtures, whose sums stay in registers.
    macro_rules! mixer {
        ($name:ident, $tile:ident, $features:literal, $lanes:literal, $most:literal, [$($rows:literal),+], $zero:ident, $one:ident, $load:ident, $store:ident, $fma:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(p: &[f32], v: &[f32], width: usize, y: &mut [f32]) {
                let (rows, count) = (y.len() / width, v.len() / width);
                for first in (0..rows).step_by($most) {
                    let p = unsafe { p.as_ptr().add(first * count) };
                    let mut at = 0;
                    while at < width {
                        let whole = width - at >= VECTORS * $lanes;
                        let (v, to) = unsafe { (v.as_ptr().add(at), y.as_mut_ptr().add(first * width + at)) };
                        match ((rows - first).min($most), whole) {
                            $(
                                ($rows, true) => unsafe { $tile::<$rows, VECTORS>(p, v, width, count, to) },
                                ($rows, false) => unsafe { $tile::<$rows, 1>(p, v, width, count, to) },
                            )+
                            _ => unreachable!("a tile has at most {} rows", $most),
                        }
                        at += if whole { VECTORS * $lanes } else { $lanes };
                    }
                }
            }

            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn $tile<const ROWS: usize, const WIDE: usize>(
                p: *const f32,
                v: *const f32,
                width: usize,
                count: usize,
                to: *mut f32,
            ) {
                let mut sums = [[$zero(); WIDE]; ROWS];
                for at in 0..count {
                    let mut values = [$zero(); WIDE];
                    for part in 0..WIDE {
                        values[part] = unsafe { $load(v.add(at * width + part * $lanes)) };
                    }
                    for row in 0..ROWS {
                        let weight = $one(unsafe { *p.add(row * count + at) });
                        for part in 0..WIDE {
                            sums[row][part] = $fma(weight, values[part], sums[row][part]);
                        }
                    }
                }
                for row in 0..ROWS {
                    for part in 0..WIDE {
                        unsafe { $store(to.add(row * width + part * $lanes), sums[row][part]) };
                    }
                }
            }
        };
    }

    mixer!(
        weighted_sums_avx512,
        mix_tile_16,
        "avx512f",
        16,
        4,
        [1, 2, 3, 4],
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps
    );
    mixer!(
        weighted_sums_avx2,
        mix_tile_8,
        "avx2,fma",
        8,
        2,
        [1, 2],
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps
    );

    /// The sums of four registers, all four at once.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn reduce_16(sums: &[__m512; COLUMNS]) -> [f32; COLUMNS] {
        let [a, b, c, d] = *sums;
        let ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        let cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
        let four =
            _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
        let quarters = _mm_add_ps(
            _mm_add_ps(_mm512_castps512_ps128(four), _mm512_extractf32x4_ps::<1>(four)),
            _mm_add_ps(_mm512_extractf32x4_ps::<2>(four), _mm512_extractf32x4_ps::<3>(four)),
        );
        let mut reduced = [0.0; COLUMNS];
        unsafe { _mm_storeu_ps(reduced.as_mut_ptr(), quarters) };
        reduced
    }

    /// The same of narrower registers.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn reduce_8(sums: &[__m256; COLUMNS]) -> [f32; COLUMNS] {
        let four = _mm256_hadd_ps(_mm256_hadd_ps(sums[0], sums[1]), _mm256_hadd_ps(sums[2], sums[3]));
        let halves = _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four));
        let mut reduced = [0.0; COLUMNS];
        unsafe { _mm_storeu_ps(reduced.as_mut_ptr(), halves) };
        reduced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(size: [i64; 2], seed: i64) -> Tensor {
        tch::manual_seed(seed);
        Tensor::randn(size, (Kind::Float, tch::Device::Cpu))
    }

    #[test]
    fn linear_is_right_for_every_number_of_rows_and_outputs() {
        let _generator = crate::seeded(6);
        if kernel().is_none() {
            return;
        }
        for rows in 1..20 {
            for outputs in [1, 3, 4, 5, 257, 600] {
                let (x, w) = (random([rows, 48], rows), random([outputs, 48], outputs));
                let b = random([1, outputs], 7).view([outputs]);
                let found = linear(&x, &w, Some(&b)).unwrap();
                let expected = x.to_kind(Kind::Double).matmul(&w.to_kind(Kind::Double).tr()) + b.to_kind(Kind::Double);
                let apart = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
                assert!(apart < 1e-4, "{rows} rows, {outputs} outputs: {apart:e}");
            }
        }
    }

    #[test]
    fn weighted_sums_are_right_for_every_number_of_rows_and_width() {
        let _generator = crate::seeded(6);
        for rows in 1..10 {
            for (count, width) in [(1, 16), (7, 64), (100, 128), (33, 80), (5, 12)] {
                let (p, v) = (random([rows, count], rows), random([count, width], count));
                let (mut mixed, mut scores) =
                    (Tensor::ones([rows, width], (Kind::Float, tch::Device::Cpu)), p.zeros_like());
                weighted_sums(as_f32_slice(&p), as_f32_slice(&v), width as usize, as_f32_slice_mut(&mut mixed));
                matmul_nt(as_f32_slice(&mixed), as_f32_slice(&v), width as usize, as_f32_slice_mut(&mut scores));
                let apart = |found: &Tensor, expected: Tensor| (found - expected).abs().max().double_value(&[]);
                assert!(apart(&mixed, p.matmul(&v)) < 1e-4, "{rows} rows of {count}, {width} wide");
                assert!(apart(&scores, mixed.matmul(&v.tr())) < 1e-2, "{rows} rows of {count}, {width} wide");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others_to_the_bit() {
        let _generator = crate::seeded(6);
        if kernel().is_none() {
            return;
        }
        let (x, w) = (random([23, 64], 1), random([1000, 64], 2));
        let together = linear(&x, &w, None).unwrap();
        for row in 0..23 {
            let alone = linear(&x.narrow(0, row, 1).contiguous(), &w, None).unwrap();
            assert!(alone.equal(&together.narrow(0, row, 1)), "row {row}");
        }
    }

    #[test]
    fn what_is_not_for_it_is_left_to_libtorch() {
        let _generator = crate::seeded(6);
        let w = random([8, 32], 1);
        assert!(linear(&random([MOST_ROWS + 1, 32], 2), &w, None).is_none());
        assert!(linear(&random([2, 20], 2), &random([8, 20], 1), None).is_none());
        assert!(linear(&random([2, 32], 2).to_kind(Kind::BFloat16), &w.to_kind(Kind::BFloat16), None).is_none());
    }
}

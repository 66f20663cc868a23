//! Products of a few rows with a large matrix, as decoding has them: y = x·Wᵀ for x (n, D) and W (V, D), on the CPU in fp32. General
//! kernels read W far below the memory's speed when n is small; here every row of W is read once for all rows of x. Each number is one
//! sum in one order, whatever n is, so that a row's product does not depend, to the bit, on the rows beside it. (Attention is not
//! computed here.)

use std::thread;

use tch::{Kind, Tensor};

use crate::memory::{elements, elements_mut, share, takes};

/// From so many rows on, general kernels are as good.
const MOST_ROWS: i64 = 48;

/// x·Wᵀ + b, for (n, D), (V, D) and (V); nothing where this is not the way to compute it: other devices and dtypes, many rows, or a
/// processor without the instructions.
pub(super) fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<Tensor> {
    let (rows, width) = input.size2().ok()?;
    let kernel = kernel()?;
    if rows > MOST_ROWS || rows == 0 || width % LANES as i64 != 0 || !takes(weight) || !takes(input) {
        return None;
    }
    let (outputs, _) = weight.size2().ok()?;
    let mut output = Tensor::empty([rows, outputs], (Kind::Float, tch::Device::Cpu));
    multiply(kernel, elements(input), elements(weight), elements_mut(&mut output), width as usize);
    Some(match bias {
        Some(bias) => output.g_add_(bias),
        None => output,
    })
}

/// Computes some outputs of all rows: (x, the rows of W, D, V, the first output, y).
type Kernel = unsafe fn(&[f32], &[f32], usize, usize, usize, Outputs);

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
            return Some(wide::by_16);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(wide::by_8);
        }
    }
    None
}

/// D is a multiple of this.
const LANES: usize = 16;
/// Outputs that a thread takes at once.
const BLOCK: usize = 256;

#[expect(unsafe_code, reason = "threads write to disjoint places of one matrix")]
fn multiply(kernel: Kernel, x: &[f32], w: &[f32], y: &mut [f32], width: usize) {
    let outputs = w.len() / width;
    assert_eq!(x.len() / width * outputs, y.len(), "expected a place for every row and output");
    let to = Outputs(y.as_mut_ptr());
    let blocks: Vec<(usize, &[f32])> = (0..).step_by(BLOCK).zip(w.chunks(BLOCK * width)).collect();
    let share = share(w.len(), blocks.len());
    // SAFETY: the processor has the kernel's instructions. Outputs first..first + the rows of `w` of every row are written by one
    // thread alone, and `y` is borrowed until all are done.
    let work = move |blocks: &[(usize, &[f32])], to: Outputs| {
        blocks.iter().for_each(|(first, w)| unsafe { kernel(x, w, width, outputs, *first, to) });
    };
    thread::scope(|scope| {
        let mut shares = blocks.chunks(share);
        let own = shares.next();
        for blocks in shares {
            scope.spawn(move || work(blocks, to));
        }
        own.into_iter().for_each(|blocks| work(blocks, to));
    });
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that the compiler does not choose by itself")]
mod wide {
    use std::arch::x86_64::{
        __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_reduce_add_ps, _mm512_setzero_ps,
    };

    use super::Outputs;

    /// A kernel over tiles of `$rows` rows of x and `$outputs` rows of W, whose sums stay in registers.
    macro_rules! kernel {
        ($name:ident, $tile:ident, $features:literal, $lanes:literal, $rows:literal, $outputs:literal, $zero:ident, $load:ident, $fma:ident, $reduce:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(x: &[f32], w: &[f32], width: usize, stride: usize, first: usize, to: Outputs) {
                let (rows, outputs) = (x.len() / width, w.len() / width);
                let mut output = 0;
                while output < outputs {
                    let columns = (outputs - output).min($outputs);
                    let mut row = 0;
                    while row < rows {
                        let taken = (rows - row).min($rows);
                        // A tile at the edge reads its last row again, and writes what is its own.
                        let (mut xs, mut ws) = ([x.as_ptr(); $rows], [w.as_ptr(); $outputs]);
                        for (at, x) in xs.iter_mut().enumerate() {
                            *x = unsafe { x.add((row + at.min(taken - 1)) * width) };
                        }
                        for (at, w) in ws.iter_mut().enumerate() {
                            *w = unsafe { w.add((output + at.min(columns - 1)) * width) };
                        }
                        let sums = unsafe { $tile(&xs, &ws, width) };
                        for (at, sums) in sums.iter().enumerate().take(taken) {
                            for (column, sum) in sums.iter().enumerate().take(columns) {
                                unsafe { *to.0.add((row + at) * stride + first + output + column) = *sum };
                            }
                        }
                        row += taken;
                    }
                    output += columns;
                }
            }

            // Closures would not be inlined: they do not have the features.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn $tile(
                xs: &[*const f32; $rows],
                ws: &[*const f32; $outputs],
                width: usize,
            ) -> [[f32; $outputs]; $rows] {
                let mut sums = [[$zero(); $outputs]; $rows];
                let mut at = 0;
                while at < width {
                    let mut weights = [$zero(); $outputs];
                    for column in 0..$outputs {
                        weights[column] = unsafe { $load(ws[column].add(at)) };
                    }
                    for row in 0..$rows {
                        let entry = unsafe { $load(xs[row].add(at)) };
                        for column in 0..$outputs {
                            sums[row][column] = $fma(entry, weights[column], sums[row][column]);
                        }
                    }
                    at += $lanes;
                }
                let mut reduced = [[0.0; $outputs]; $rows];
                for row in 0..$rows {
                    for column in 0..$outputs {
                        reduced[row][column] = $reduce(sums[row][column]);
                    }
                }
                reduced
            }
        };
    }

    kernel!(
        by_16,
        tile_16,
        "avx512f",
        16,
        6,
        4,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_fmadd_ps,
        _mm512_reduce_add_ps
    );
    kernel!(by_8, tile_8, "avx2,fma", 8, 3, 4, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, reduce_8);

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn reduce_8(sum: __m256) -> f32 {
        let halves = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
        _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps::<1>(pairs, pairs)))
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
    fn it_is_the_product_for_every_number_of_rows_and_outputs() {
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
    fn a_row_does_not_depend_on_the_others_to_the_bit() {
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
        let w = random([8, 32], 1);
        assert!(linear(&random([MOST_ROWS + 1, 32], 2), &w, None).is_none());
        assert!(linear(&random([2, 20], 2), &random([8, 20], 1), None).is_none());
        assert!(linear(&random([2, 32], 2).to_kind(Kind::BFloat16), &w.to_kind(Kind::BFloat16), None).is_none());
    }
}

//! The algorithm of Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication", with the
//! names of BLIS: the inputs are packed in panels, those of b NR wide (four registers), those of a MR high,
//! so that all sums of a tile fit in the other registers. A panel of b stays in the L2 cache while it is
//! multiplied with panels of a. What is needed next is prefetched: without that, a quarter of the time is
//! spent waiting.
#![expect(unsafe_code, reason = "instructions that the compiler does not choose by itself")]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castps_pd, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi16,
    _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};
use std::cell::RefCell;

use super::{Element, MatMut, MatRef, Size, Write};

/// Rows of a panel of a.
const MR: usize = 6;
/// Columns of a panel of b.
const NR: usize = 4 * LANES;
const LANES: usize = 16;
/// The depth of a panel, in elements or bfloat16 pairs: a panel of b takes 96 KB.
const KC: usize = 384;
/// Rows of a that stay in the L2 cache together: 216 KB.
const MC: usize = 24 * MR;
/// Columns of b that are packed together: 3 MB.
const NC: usize = 32 * NR;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; LANES]);

thread_local! {
    /// Memory for the panels of a, then of b.
    static PANELS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// See [`super::multiply`].
///
/// # Safety
/// As there; the processor must have the instructions.
pub(super) unsafe fn multiply(dtype: Element, size: Size, out: MatMut, a: MatRef, b: MatRef) {
    PANELS.with_borrow_mut(|panels| {
        panels.resize((MC + NC) * KC / LANES, Line([0.0; LANES]));
        let (of_a, of_b) = panels.split_at_mut(MC * KC / LANES);
        let panels = Panels { a: of_a.as_mut_ptr().cast(), b: of_b.as_mut_ptr().cast() };
        // SAFETY: the caller's; panels have room for MC rows and NC columns of KC elements.
        unsafe {
            match dtype {
                Element::F32 => panels.single(size, out, a, b),
                Element::Bfloat16 => panels.bfloat16(size, out, a, b),
            }
        }
    });
}

struct Panels {
    a: *mut f32,
    b: *mut f32,
}

/// The loops around a microkernel. `$depth` elements along k are one element of a panel.
macro_rules! loops {
    ($name:ident, $features:literal, $depth:literal, $pack:ident, $along:ident, $kernel:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(&self, size: Size, out: MatMut, a: MatRef, b: MatRef) {
            let Size { m, k, n } = size;
            // SAFETY: the caller's; every access is within the matrices.
            unsafe {
                for column in (0..n).step_by(NC) {
                    let columns = NC.min(n - column);
                    let mut first = 0;
                    while first < k {
                        let numbers = ($depth * KC).min(k - first);
                        let deep = numbers.div_ceil($depth);
                        $pack::<NR>(self.b, b.transposed().from(column, first), columns, numbers);
                        for row in (0..m).step_by(MC) {
                            let rows = MC.min(m - row);
                            // Contiguous rows of a are read in place, or copied as rows at the edge;
                            // strided ones are packed.
                            let part = a.from(row, first);
                            let is_contiguous = a.strides[1] == 1;
                            let whole = if is_contiguous && a.is_read_as($depth, numbers) { rows / MR * MR } else { 0 };
                            let length = deep.next_multiple_of(LANES);
                            if is_contiguous {
                                for row in whole..rows {
                                    for at in (0..deep).step_by(LANES) {
                                        let block = $along(part.from(row, $depth * at), numbers - $depth * at);
                                        _mm512_mask_storeu_ps(self.a.add((row - whole) * length + at), !0, block);
                                    }
                                }
                            } else {
                                $pack::<MR>(self.a, part, rows, numbers);
                            }
                            for (at_b, left) in (0..columns).step_by(NR).enumerate() {
                                let panel = self.b.add(at_b * NR * deep);
                                for top in (0..rows).step_by(MR) {
                                    let out = MatMut {
                                        start: out.start.add((row + top) * out.stride + column + left),
                                        write: if first > 0 { Write::Add } else { out.write },
                                        ..out
                                    };
                                    let room = [MR.min(rows - top), NR.min(columns - left)];
                                    if top < whole {
                                        $kernel::<true>(
                                            part.from(top, 0).start.cast(),
                                            a.strides[0] / $depth,
                                            panel,
                                            deep,
                                            out,
                                            room,
                                        );
                                    } else if is_contiguous {
                                        $kernel::<true>(
                                            self.a.add((top - whole) * length),
                                            length,
                                            panel,
                                            deep,
                                            out,
                                            room,
                                        );
                                    } else {
                                        $kernel::<false>(self.a.add(top * deep), 1, panel, deep, out, room);
                                    }
                                }
                            }
                        }
                        first += numbers;
                    }
                }
            }
        }
    };
}

impl Panels {
    loops!(single, "avx512f,avx512bw", 1, pack_single, along_single, kernel_single);
    loops!(bfloat16, "avx512f,avx512bw,avx512bf16", 2, pack_pairs, along_pairs, kernel_pairs);
}

/// One panel of a (deep, MR) times one of b (deep, NR), into `room` rows and columns of `out`.
macro_rules! kernel {
    ($name:ident, $features:literal, $add:ident, $as:ident) => {
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $name<const DIRECT: bool>(
            a: *const f32,
            stride: usize,
            b: *const f32,
            deep: usize,
            out: MatMut,
            room: [usize; 2],
        ) {
            let mut sums = [[_mm512_setzero_ps(); NR / LANES]; MR];
            // SAFETY: panels hold `deep` times MR and NR elements; what is written is within the room.
            unsafe {
                // Prefetches the output, which is written last.
                for row in 0..MR {
                    let place = out.start.wrapping_add(row * out.stride);
                    for part in 0..NR / LANES {
                        _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(part * LANES).cast());
                    }
                    _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(NR - 1).cast());
                }
                for at in 0..deep {
                    let a = if DIRECT { a.add(at) } else { a.add(at * MR) };
                    let b = b.add(at * NR);
                    let b = [load(b), load(b.add(LANES)), load(b.add(2 * LANES)), load(b.add(3 * LANES))];
                    for row in 0..MR {
                        let a = _mm512_set1_ps(*a.add(if DIRECT { row * stride } else { row }));
                        for part in 0..NR / LANES {
                            sums[row][part] = $add(sums[row][part], $as(a), $as(b[part]));
                        }
                    }
                }
                if room == [MR, NR] {
                    for row in 0..MR {
                        for half in 0..NR / LANES {
                            let place = out.start.add(row * out.stride + half * LANES);
                            let sum = if out.write == Write::Add {
                                _mm512_add_ps(load(place), sums[row][half])
                            } else {
                                sums[row][half]
                            };
                            _mm512_mask_storeu_ps(place, !0, sum);
                        }
                    }
                } else {
                    let masks: [__mmask16; NR / LANES] =
                        std::array::from_fn(|part| mask(room[1].saturating_sub(part * LANES)));
                    // Keeps the compiler from merging this with the branch above, whose sums would then go
                    // through memory.
                    let sums = std::hint::black_box(sums);
                    for (row, sums) in sums.iter().enumerate().take(room[0]) {
                        for half in 0..NR / LANES {
                            let place = out.start.add(row * out.stride).wrapping_add(half * LANES);
                            let before = if out.write == Write::Add {
                                _mm512_maskz_loadu_ps(masks[half], place)
                            } else {
                                _mm512_setzero_ps()
                            };
                            _mm512_mask_storeu_ps(place, masks[half], _mm512_add_ps(before, sums[half]));
                        }
                    }
                }
            }
        }
    };
}

kernel!(kernel_single, "avx512f,avx512bw", multiply_add, same);
kernel!(kernel_pairs, "avx512f,avx512bw,avx512bf16", multiply_add_pairs, pairs);

#[target_feature(enable = "avx512f")]
#[inline]
fn multiply_add(sum: __m512, a: __m512, b: __m512) -> __m512 {
    _mm512_fmadd_ps(a, b, sum)
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn multiply_add_pairs(sum: __m512, a: __m512bh, b: __m512bh) -> __m512 {
    _mm512_dpbf16_ps(sum, a, b)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn same(register: __m512) -> __m512 {
    register
}

#[target_feature(enable = "avx512f")]
#[inline]
fn pairs(register: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes, of which any are allowed.
    unsafe { std::mem::transmute(register) }
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(from: *const f32) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_maskz_loadu_ps(!0, from) }
}

/// The first `count` lanes, at most all.
fn mask(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// Packs rows (count, numbers) of a matrix in panels (deep, W), padded with zeros.
macro_rules! pack {
    ($name:ident, $features:literal, $depth:literal, $along:ident, $across:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const W: usize>(to: *mut f32, from: MatRef, count: usize, numbers: usize) {
            let deep = numbers.div_ceil($depth);
            // SAFETY: the caller's: panels have room, and what is read is within the matrix.
            unsafe {
                // Elements that are loaded for several panels at once are stored in each.
                let is_contiguous = from.strides[1] == 1;
                let together = if is_contiguous || W >= LANES { 1 } else { LANES / W };
                for first in (0..count).step_by(together * W) {
                    for lane in (0..W).step_by(LANES) {
                        let to = to.add(first * deep + lane);
                        let written = mask(W - lane);
                        let left = (count - first).saturating_sub(lane);
                        if is_contiguous {
                            for at in (0..deep).step_by(LANES) {
                                let number = $depth * at;
                                let mut block = [_mm512_setzero_ps(); LANES];
                                for (row, block) in block.iter_mut().enumerate().take(LANES.min(left)) {
                                    let place = |row| from.from(first + lane + row, number);
                                    *block = $along(place(row), numbers - number);
                                    _mm_prefetch::<_MM_HINT_T0>(place(row + LANES).start.cast());
                                }
                                for (row, block) in transposed(block).into_iter().enumerate().take(deep - at) {
                                    _mm512_mask_storeu_ps(to.add((at + row) * W), written, block);
                                }
                            }
                        } else {
                            let panels = together.min(left.div_ceil(W).max(1));
                            for at in 0..deep {
                                let number = $depth * at;
                                let lanes = LANES.min(left);
                                let block = $across(from.from(first + lane, number), lanes, numbers - number);
                                let ahead = first + lane + W.max(LANES);
                                for number in number..number + $depth {
                                    _mm_prefetch::<_MM_HINT_T0>(from.from(ahead, number).start.cast());
                                }
                                for panel in 0..panels {
                                    let row = to.add((panel * deep + at) * W).wrapping_sub(panel * W);
                                    _mm512_mask_storeu_ps(row, written << (panel * W), block);
                                }
                            }
                        }
                    }
                }
            }
        }
    };
}

pack!(pack_single, "avx512f,avx512bw", 1, along_single, across_single);
pack!(pack_pairs, "avx512f,avx512bw,avx512bf16", 2, along_pairs, across_pairs);

/// At most 16 contiguous elements of a row.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn along_single(from: MatRef, numbers: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_maskz_loadu_ps(mask(numbers), from.start.cast()) }
}

/// One element of each of `lanes` rows.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn across_single(from: MatRef, lanes: usize, _: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_maskz_loadu_ps(mask(lanes), from.start.cast()) }
}

/// At most 16 contiguous pairs of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn along_pairs(from: MatRef, numbers: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        match from.element {
            Element::F32 => {
                let from = from.start.cast::<f32>();
                let low = _mm512_maskz_loadu_ps(mask(numbers), from);
                let high = _mm512_maskz_loadu_ps(mask(numbers.saturating_sub(LANES)), from.wrapping_add(LANES));
                std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))
            }
            Element::Bfloat16 => {
                let loaded = if numbers >= 2 * LANES { !0 } else { (1 << numbers) - 1 };
                _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(loaded, from.start.cast()))
            }
        }
    }
}

/// One pair of each of `lanes` rows; the second of it 0 where `numbers` is 1.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn across_pairs(from: MatRef, lanes: usize, numbers: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let halves = |from: MatRef, lanes: usize| match from.element {
            Element::F32 => {
                let loaded = _mm512_maskz_loadu_ps(mask(lanes), from.start.cast());
                _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(loaded)))
            }
            Element::Bfloat16 => {
                let loaded = _mm512_maskz_loadu_epi16(u32::from(mask(lanes)), from.start.cast());
                _mm512_cvtepu16_epi32(_mm512_castsi512_si256(loaded))
            }
        };
        let low = halves(from, lanes);
        let high = if numbers > 1 { halves(from.from(0, 1), lanes) } else { _mm512_setzero_si512() };
        _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
    }
}

/// Transposes 16 rows of 16.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: [__m512; LANES]) -> [__m512; LANES] {
    let zero = _mm512_setzero_ps();
    // Pairs of rows, then fours: within each quarter of a register.
    let mut twos = [zero; LANES];
    for at in 0..LANES / 2 {
        twos[2 * at] = _mm512_unpacklo_ps(rows[2 * at], rows[2 * at + 1]);
        twos[2 * at + 1] = _mm512_unpackhi_ps(rows[2 * at], rows[2 * at + 1]);
    }
    let mut fours = [zero; LANES];
    for four in 0..LANES / 4 {
        for half in 0..2 {
            let [one, other] = [twos[4 * four + half], twos[4 * four + half + 2]].map(|row| _mm512_castps_pd(row));
            fours[4 * four + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(one, other));
            fours[4 * four + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(one, other));
        }
    }
    // Then quarters.
    let mut transposed_rows = [zero; LANES];
    for at in 0..LANES / 4 {
        let even_first = _mm512_shuffle_f32x4::<0x88>(fours[at], fours[4 + at]);
        let odd_first = _mm512_shuffle_f32x4::<0xdd>(fours[at], fours[4 + at]);
        let even_last = _mm512_shuffle_f32x4::<0x88>(fours[8 + at], fours[12 + at]);
        let odd_last = _mm512_shuffle_f32x4::<0xdd>(fours[8 + at], fours[12 + at]);
        transposed_rows[at] = _mm512_shuffle_f32x4::<0x88>(even_first, even_last);
        transposed_rows[4 + at] = _mm512_shuffle_f32x4::<0x88>(odd_first, odd_last);
        transposed_rows[8 + at] = _mm512_shuffle_f32x4::<0xdd>(even_first, even_last);
        transposed_rows[12 + at] = _mm512_shuffle_f32x4::<0xdd>(odd_first, odd_last);
    }
    transposed_rows
}

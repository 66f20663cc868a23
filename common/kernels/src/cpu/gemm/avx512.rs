//! The usual way (Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"): factors are copied in panels, those of b as
//! wide as four registers, those of a as high as leaves room for all products in the others. A panel of b stays in the second cache
//! while it meets some panels of a. What is needed next is asked for ahead: without that, a quarter of the time is spent waiting.
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

use super::{Element, Factor, Place, Size};

/// Rows of a panel of a.
const HIGH: usize = 6;
/// Columns of a panel of b.
const WIDE: usize = 4 * LANES;
const LANES: usize = 16;
/// So many numbers of a sum, or pairs, are computed before the next panels are copied: a panel of b takes 96 KB.
const DEEP: usize = 384;
/// Rows of a that stay in the second cache together: 216 KB.
const ROWS: usize = 24 * HIGH;
/// Columns of b that are copied together: 3 MB.
const COLUMNS: usize = 32 * WIDE;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; LANES]);

thread_local! {
    /// Room for panels of a, then of b.
    static PANELS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// See [`super::multiply`].
///
/// # Safety
/// As there; the processor must have the instructions.
pub(super) unsafe fn multiply(by: Element, size: Size, out: Place, a: Factor, b: Factor) {
    PANELS.with_borrow_mut(|panels| {
        panels.resize((ROWS + COLUMNS) * DEEP / LANES, Line([0.0; LANES]));
        let (of_a, of_b) = panels.split_at_mut(ROWS * DEEP / LANES);
        let panels = Panels { a: of_a.as_mut_ptr().cast(), b: of_b.as_mut_ptr().cast() };
        // SAFETY: the caller's; panels have room for as many rows, columns and numbers as are copied at once.
        unsafe {
            match by {
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

/// The loops around a microkernel. `$depth` numbers of a sum are one element of a panel.
macro_rules! loops {
    ($name:ident, $features:literal, $depth:literal, $pack:ident, $along:ident, $kernel:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(&self, size: Size, out: Place, a: Factor, b: Factor) {
            let Size { m, k, n } = size;
            // SAFETY: the caller's; every place is within the matrices.
            unsafe {
                for column in (0..n).step_by(COLUMNS) {
                    let columns = COLUMNS.min(n - column);
                    let mut first = 0;
                    while first < k {
                        let numbers = ($depth * DEEP).min(k - first);
                        let deep = numbers.div_ceil($depth);
                        $pack::<WIDE>(self.b, b.turned().from(column, first), columns, numbers);
                        for row in (0..m).step_by(ROWS) {
                            let rows = ROWS.min(m - row);
                            // Rows whose numbers lie side by side are read where they are, or copied so; others in panels.
                            let part = a.from(row, first);
                            let lies = a.strides[1] == 1;
                            let whole = if lies && a.is_read_as($depth, numbers) { rows / HIGH * HIGH } else { 0 };
                            let length = deep.next_multiple_of(LANES);
                            if lies {
                                for row in whole..rows {
                                    for at in (0..deep).step_by(LANES) {
                                        let block = $along(part.from(row, $depth * at), numbers - $depth * at);
                                        _mm512_mask_storeu_ps(self.a.add((row - whole) * length + at), !0, block);
                                    }
                                }
                            } else {
                                $pack::<HIGH>(self.a, part, rows, numbers);
                            }
                            for (at_b, left) in (0..columns).step_by(WIDE).enumerate() {
                                let panel = self.b.add(at_b * WIDE * deep);
                                for top in (0..rows).step_by(HIGH) {
                                    let out = Place {
                                        start: out.start.add((row + top) * out.stride + column + left),
                                        add: out.add || first > 0,
                                        ..out
                                    };
                                    let room = [HIGH.min(rows - top), WIDE.min(columns - left)];
                                    if top < whole {
                                        $kernel::<true>(
                                            part.from(top, 0).start.cast(),
                                            a.strides[0] / $depth,
                                            panel,
                                            deep,
                                            out,
                                            room,
                                        );
                                    } else if lies {
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

/// One panel of a (deep, HIGH) with one of b (deep, WIDE), to so many rows and columns of `out`.
macro_rules! kernel {
    ($name:ident, $features:literal, $add:ident, $as:ident) => {
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $name<const DIRECT: bool>(
            a: *const f32,
            stride: usize,
            b: *const f32,
            deep: usize,
            out: Place,
            room: [usize; 2],
        ) {
            let mut sums = [[_mm512_setzero_ps(); WIDE / LANES]; HIGH];
            // SAFETY: panels hold `deep` times HIGH and WIDE elements; what is written is within the room.
            unsafe {
                // What is written last is on its way meanwhile.
                for row in 0..HIGH {
                    let place = out.start.wrapping_add(row * out.stride);
                    for part in 0..WIDE / LANES {
                        _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(part * LANES).cast());
                    }
                    _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(WIDE - 1).cast());
                }
                for at in 0..deep {
                    let a = if DIRECT { a.add(at) } else { a.add(at * HIGH) };
                    let b = b.add(at * WIDE);
                    let b = [load(b), load(b.add(LANES)), load(b.add(2 * LANES)), load(b.add(3 * LANES))];
                    for row in 0..HIGH {
                        let a = _mm512_set1_ps(*a.add(if DIRECT { row * stride } else { row }));
                        for part in 0..WIDE / LANES {
                            sums[row][part] = $add(sums[row][part], $as(a), $as(b[part]));
                        }
                    }
                }
                if room == [HIGH, WIDE] {
                    for row in 0..HIGH {
                        for half in 0..WIDE / LANES {
                            let place = out.start.add(row * out.stride + half * LANES);
                            let sum =
                                if out.add { _mm512_add_ps(load(place), sums[row][half]) } else { sums[row][half] };
                            _mm512_mask_storeu_ps(place, !0, sum);
                        }
                    }
                } else {
                    let masks: [__mmask16; WIDE / LANES] =
                        std::array::from_fn(|part| mask(room[1].saturating_sub(part * LANES)));
                    // Kept from being merged with the way above, whose sums would go through memory too.
                    let sums = std::hint::black_box(sums);
                    for (row, sums) in sums.iter().enumerate().take(room[0]) {
                        for half in 0..WIDE / LANES {
                            let place = out.start.add(row * out.stride).wrapping_add(half * LANES);
                            let before =
                                if out.add { _mm512_maskz_loadu_ps(masks[half], place) } else { _mm512_setzero_ps() };
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

/// Copies rows (count, numbers) of a factor in panels (deep, W), with zeros where there are none.
macro_rules! pack {
    ($name:ident, $features:literal, $depth:literal, $along:ident, $across:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const W: usize>(to: *mut f32, from: Factor, count: usize, numbers: usize) {
            let deep = numbers.div_ceil($depth);
            // SAFETY: the caller's: panels have room, and what is read lies within the factor.
            unsafe {
                // Numbers that are loaded for several panels at once are stored in each.
                let lies = from.strides[1] == 1;
                let together = if lies || W >= LANES { 1 } else { LANES / W };
                for first in (0..count).step_by(together * W) {
                    for lane in (0..W).step_by(LANES) {
                        let to = to.add(first * deep + lane);
                        let written = mask(W - lane);
                        let left = (count - first).saturating_sub(lane);
                        if lies {
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

/// At most 16 numbers that lie side by side in a row.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn along_single(from: Factor, numbers: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_maskz_loadu_ps(mask(numbers), from.start.cast()) }
}

/// One number of each of `lanes` rows.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn across_single(from: Factor, lanes: usize, _: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_maskz_loadu_ps(mask(lanes), from.start.cast()) }
}

/// At most 16 pairs of numbers that lie side by side in a row.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn along_pairs(from: Factor, numbers: usize) -> __m512 {
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
unsafe fn across_pairs(from: Factor, lanes: usize, numbers: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let halves = |from: Factor, lanes: usize| match from.element {
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

/// 16 rows of 16, turned.
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
    let mut turned = [zero; LANES];
    for at in 0..LANES / 4 {
        let even_first = _mm512_shuffle_f32x4::<0x88>(fours[at], fours[4 + at]);
        let odd_first = _mm512_shuffle_f32x4::<0xdd>(fours[at], fours[4 + at]);
        let even_last = _mm512_shuffle_f32x4::<0x88>(fours[8 + at], fours[12 + at]);
        let odd_last = _mm512_shuffle_f32x4::<0xdd>(fours[8 + at], fours[12 + at]);
        turned[at] = _mm512_shuffle_f32x4::<0x88>(even_first, even_last);
        turned[4 + at] = _mm512_shuffle_f32x4::<0x88>(odd_first, odd_last);
        turned[8 + at] = _mm512_shuffle_f32x4::<0xdd>(even_first, even_last);
        turned[12 + at] = _mm512_shuffle_f32x4::<0xdd>(odd_first, odd_last);
    }
    turned
}

//! Arithmetic in the widest instructions that the processor has, for loops over slices.

/// A function that calls a generic one, compiled for what the processor can do: `$generic::<true>` where it
/// multiplies and adds in one instruction.
macro_rules! simd_dispatch {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $generic:ident;) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    $generic::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    $generic::<true>($($arg),*)
                }
                #[expect(unsafe_code, reason = "features that were looked for")]
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has it.
                    return unsafe { avx512($($arg),*) };
                } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has them.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $generic::<false>($($arg),*)
        }
    };
}
pub(crate) use simd_dispatch;

/// exp(x) for x ≤ 0 to about one unit in the last place; 0 below −87, NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ½ ln 2; e^r by its series to the seventh power, which leaves less than 1e-9; 2^n
/// by its bits.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding it leaves a whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few bits, so that n times it is exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let rounded = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add::<FMA>(n, -LN2[1], multiply_add::<FMA>(n, -LN2[0], x));
    let mut series = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = multiply_add::<FMA>(series, r, factor);
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let e = series * f32::from_bits(exponent);
    if x < -87.0 { 0.0 } else { e }
}

/// a·b + c, rounded once where the processor can: without such an instruction the call would cost more than
/// the rest.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_standard_library() {
        let mut worst = 0.0f64;
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            for found in [exp::<true>(x), exp::<false>(x)] {
                worst = worst.max((f64::from(found) / f64::from(x).exp() - 1.0).abs());
            }
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!((exp::<true>(0.0), exp::<false>(-0.0)), (1.0, 1.0));
        assert_eq!([-87.1, -1e4, -1e30, f32::NEG_INFINITY].map(exp::<true>), [0.0; 4]);
        assert!(exp::<true>(f32::NAN).is_nan() && exp::<false>(f32::NAN).is_nan());
    }
}

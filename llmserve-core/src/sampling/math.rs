//! Exponential and logarithm, the same to the last bit on every platform.
//!
//! The standard library leaves `exp` and `ln` to the platform, which may differ in the last bit,
//! and a last bit can decide which token is picked. These use only operations that IEEE 754
//! rounds exactly. They are good to about 1e-15, and [`exp`] has no branch, so that a loop over
//! it is vectorised.

use std::f64::consts::{LOG2_E, SQRT_2};

/// ln 2 in two parts; the first has 21 trailing zero bits, so that a small integer times it is
/// exact.
const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);

/// Below this the exponential is taken for zero: it would be subnormal.
const LEAST: f64 = -708.0;

/// Adding 1.5 · 2⁵² leaves the nearest integer in the low bits of the mantissa.
const TO_INTEGER: f64 = 6_755_399_441_055_744.0;

/// 1/n! from n = 13 down to 0.
const EXP_SERIES: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    1.0 / 2.0,
    1.0,
    1.0,
];

/// 1/(2n+1) from n = 11 down to 0.
const ATANH_SERIES: [f64; 12] = [
    1.0 / 23.0,
    1.0 / 21.0,
    1.0 / 19.0,
    1.0 / 17.0,
    1.0 / 15.0,
    1.0 / 13.0,
    1.0 / 11.0,
    1.0 / 9.0,
    1.0 / 7.0,
    1.0 / 5.0,
    1.0 / 3.0,
    1.0,
];

fn horner<const N: usize>(series: &[f64; N], x: f64) -> f64 {
    let (first, rest) = (series[0], &series[1..]);
    rest.iter().fold(first, |sum, term| sum * x + term)
}

/// e^x for x ≤ 0, negative infinity included.
#[inline]
pub(super) fn exp(x: f64) -> f64 {
    // e^x = 2^n · e^r with |r| ≤ ln 2 / 2.
    let clamped = if x < LEAST { LEAST } else { x };
    let shifted = clamped * LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let two_to_n = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let value = horner(&EXP_SERIES, r) * two_to_n;
    if x < LEAST { 0.0 } else { value }
}

/// e^x for x ≤ 0 to about 3e-7 of it, negative infinity included; below −87 it stays at 1.6e-38.
/// For sums, where [`exp`] would cost four times as much.
#[inline]
pub(super) fn rough_exp(x: f32) -> f32 {
    /// ln 2 in two parts; the first has 9 trailing zero bits.
    const LN2_HIGH: f32 = f32::from_bits(0x3f31_7200);
    const LN2_LOW: f32 = f32::from_bits(0x35bf_be8e);
    const TO_INTEGER: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    // The series to r⁶/6!, by pairs of terms (Estrin's scheme): what costs time is one operation
    // waiting for the other.
    let square = r * r;
    let first = (1.0 + r) + square * (0.5 + r * (1.0 / 6.0));
    let last = (1.0 / 24.0 + r * (1.0 / 120.0)) + square * (1.0 / 720.0);
    (first + (square * square) * last) * two_to_n
}

/// At most this many times too great is [`sketchy_exp`].
pub(super) const SKETCHY: f64 = 1.0615;

/// A number from e^x to [`SKETCHY`] times it, give or take 2e-5 of it, for x ≤ 0, negative infinity
/// included; below −87 it stays near 1.2e-38. A quarter of the cost of [`rough_exp`].
///
/// 2^(n + f), 0 ≤ f < 1, is at most 2ⁿ(1 + f), and that is the number with exponent n and
/// mantissa f: its bits are n + f, shifted.
#[inline]
pub(super) fn sketchy_exp(x: f32) -> f32 {
    /// Adding 1.5 · 2⁸ leaves 128 + n + f, from 2 to 128, in the mantissa, in steps of 2⁻¹⁵.
    const TO_MANTISSA: f32 = 384.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + TO_MANTISSA;
    // The exponent's last bit, which is set, becomes the sign's; and the bias is 127, not 128.
    f32::from_bits((shifted.to_bits() << 8).wrapping_sub(1 << 31 | 1 << 23))
}

/// artanh s for |s| ≤ 0.18.
fn artanh(s: f64) -> f64 {
    s * horner(&ATANH_SERIES, s * s)
}

/// ln x for a positive, normal x.
pub(super) fn ln(x: f64) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    let bits = x.to_bits();
    // x = 2^e · m with √½ < m ≤ √2; then ln m = 2 artanh((m − 1) / (m + 1)).
    let mut e = ((bits & EXPONENT) >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & !EXPONENT) | (1023 << 52));
    if m > SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let e = e as f64;
    e * LN2_HIGH + (e * LN2_LOW + 2.0 * artanh((m - 1.0) / (m + 1.0)))
}

/// −ln(1 − v) for 0 < v < 1, exact to rounding however small v is.
pub(super) fn neg_ln_one_minus(v: f64) -> f64 {
    if v < 0.25 {
        2.0 * artanh(v / (2.0 - v))
    } else {
        -ln(1.0 - v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 2e-15 * theirs.abs() + f64::MIN_POSITIVE
    }

    #[test]
    fn they_agree_with_the_platform() {
        let mut x = 1e-20;
        while x < 1e20 {
            assert!(close(ln(x), x.ln()), "ln {x}: {} {}", ln(x), x.ln());
            if x < 708.0 {
                assert!(close(exp(-x), (-x).exp()), "exp -{x}");
            }
            if x < 1.0 {
                assert!(close(neg_ln_one_minus(x), -(-x).ln_1p()), "-ln(1-{x})");
            }
            x *= 1.0037;
        }
    }

    #[test]
    fn the_rough_one_is_as_good_as_it_says() {
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(rough_exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "e^{x}: {error}");
        }
        assert_eq!(rough_exp(0.0), 1.0);
        assert!(rough_exp(f32::NEG_INFINITY) < 2e-38);
        assert!(rough_exp(f32::MIN) < 2e-38);
    }

    #[test]
    fn the_sketchy_one_is_a_bound_from_above() {
        let (mut least, mut most) = (f64::INFINITY, 0f64);
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let ratio = f64::from(sketchy_exp(x)) / f64::from(x).exp();
            (least, most) = (least.min(ratio), most.max(ratio));
        }
        assert!(
            least > 1.0 - 2e-5 && most < SKETCHY * (1.0 + 2e-5),
            "{least} {most}"
        );
        assert!(most > SKETCHY * 0.999, "{most}");
        assert_eq!(sketchy_exp(0.0), 1.0);
        assert!((1e-38..2e-38).contains(&sketchy_exp(f32::NEG_INFINITY)));
        assert!((1e-38..2e-38).contains(&sketchy_exp(f32::MIN)));
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-1e300), 0.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert!(exp(-707.9) > 0.0);
        assert_eq!(ln(1.0), 0.0);
        assert!(neg_ln_one_minus(f64::powi(2.0, -65)) > 0.0);
        assert!(neg_ln_one_minus(1.0 - f64::EPSILON / 2.0).is_finite());
    }

    #[test]
    fn bits_are_pinned() {
        // Platforms must agree on these; a change alters what seeds mean.
        let bits = [exp(-1.5), exp(-37.25), ln(0.3), ln(12345.0)].map(f64::to_bits);
        assert_eq!(bits, PINNED, "{bits:#x?}");
    }

    const PINNED: [u64; 4] = [
        0x3fcc_8f87_724b_5c1d,
        0x3c93_278b_cd70_e981,
        0xbff3_4378_fcbd_a721,
        0x4022_d78e_26ae_18e8,
    ];
}

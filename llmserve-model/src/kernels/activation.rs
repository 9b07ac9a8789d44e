//! The exponential, and the activations made of it.

use super::simd::{LANES, MAGIC, Simd};
use crate::config::Activation;

/// Beyond these the result is clamped: near the smallest normal number, below infinity.
const LOWEST: f32 = -87.33;
const HIGHEST: f32 = 88.37;
/// ln 2 in two parts, the first with so few bits that its multiples are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `eˣ` to about one part in 10⁷ for `-87.33 <= x <= 88.37`, clamped beyond; NaN stays NaN.
///
/// `x = n·ln 2 + r`, `|r| <= ln 2 / 2`; a polynomial of degree 7 for `eʳ` (the coefficients are
/// those of Moshier's Cephes library), and `2ⁿ` put together from its exponent bits.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.min(s.splat(HIGHEST), s.max(s.splat(LOWEST), x));
    let t = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(MAGIC));
    let n = s.sub(t, s.splat(MAGIC));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.987_569_1e-4);
    p = s.fma(p, r, s.splat(1.398_2e-3));
    p = s.fma(p, r, s.splat(8.333_452e-3));
    p = s.fma(p, r, s.splat(4.166_579_6e-2));
    p = s.fma(p, r, s.splat(1.666_666_5e-1));
    p = s.fma(p, r, s.splat(0.5));
    let square = s.mul(r, r);
    let y = s.add(s.fma(p, square, r), s.splat(1.0));
    s.mul(y, s.pow2(t))
}

/// `x · sigmoid(x)`.
#[inline(always)]
fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(one, e))
}

/// `x · Φ(x)` by the tanh formula; `tanh(u) = 1 - 2 / (1 + e²ᵘ)`, so that the half of the sum is
/// `sigmoid(2u)`.
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // 2·√(2/π), and that times 0.044715.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_82;
    let square = s.mul(x, x);
    let u = s.mul(x, s.fma(square, s.splat(CUBIC), s.splat(LINEAR)));
    let e = exp(s, s.sub(s.splat(0.0), u));
    s.div(x, s.add(s.splat(1.0), e))
}

/// `x · Φ(x)`, with the Chebyshev fit of the complementary error function whose relative error is
/// below 1.2·10⁻⁷ everywhere (Press et al., *Numerical Recipes*, `erfcc`).
#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let negative = s.sub(zero, x);
    let z = s.mul(s.max(negative, x), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(s.splat(1.0), s.fma(s.splat(0.5), z, s.splat(1.0)));
    let mut p = s.splat(0.170_872_77);
    for c in [
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = s.fma(p, t, s.splat(c));
    }
    let erfc = s.mul(t, exp(s, s.sub(p, s.mul(z, z))));
    // x·Φ(x) = max(x, 0) - |x|·erfc(|x|/√2)/2, which cancels nowhere.
    let half = s.mul(s.mul(s.max(negative, x), s.splat(0.5)), erfc);
    s.sub(s.max(zero, x), half)
}

/// `function(x)`.
#[inline(always)]
fn activation<S: Simd>(s: S, function: Activation, x: S::V) -> S::V {
    match function {
        Activation::Silu => silu(s, x),
        Activation::Gelu => gelu(s, x),
        Activation::GeluTanh => gelu_tanh(s, x),
    }
}

/// `function(x)`, in place of `x`.
#[inline(always)]
pub(crate) fn activated<S: Simd>(s: S, function: Activation, x: &mut [f32]) {
    for x in x.as_chunks_mut::<LANES>().0 {
        s.store(activation(s, function, s.load(x)), x);
    }
}

/// `function(gate) · up`, in place of `gate`.
#[inline(always)]
pub(crate) fn gated<S: Simd>(s: S, function: Activation, gate: &mut [f32], up: &[f32]) {
    let (gate, _) = gate.as_chunks_mut::<LANES>();
    let (up, _) = up.as_chunks::<LANES>();
    for (gate, up) in gate.iter_mut().zip(up) {
        let y = activation(s, function, s.load(gate));
        s.store(s.mul(y, s.load(up)), gate);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, levels};
    use super::*;

    struct Exp<'a>(&'a mut [f32; LANES]);
    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let y = exp(s, s.load(self.0));
            s.store(y, self.0);
        }
    }

    struct Act<'a>(Activation, &'a mut [f32; LANES]);
    impl Kernel for Act<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            gated(s, self.0, self.1, &[1.0; LANES]);
        }
    }

    #[test]
    fn exp_is_as_good_as_libm() {
        for level in levels() {
            let mut x = -87.3f32;
            while x < 88.3 {
                let inputs: [f32; LANES] = std::array::from_fn(|i| x + i as f32 * 1e-3);
                let mut outputs = inputs;
                level.run(Exp(&mut outputs));
                for (x, y) in inputs.iter().zip(outputs) {
                    let exact = f64::from(*x).exp();
                    let error = ((f64::from(y) - exact) / exact).abs();
                    assert!(error < 2.5e-7, "{level:?} exp({x}) = {y}, off by {error:e}");
                }
                x += 0.017;
            }
            let mut edge = [0.0; LANES];
            edge[1] = f32::NAN;
            edge[2] = f32::NEG_INFINITY;
            edge[3] = f32::INFINITY;
            edge[4] = -1000.0;
            level.run(Exp(&mut edge));
            assert_eq!(edge[0], 1.0);
            assert!(edge[1].is_nan());
            assert!(edge[2] < 2e-38 && edge[4] < 2e-38);
            assert!(edge[3] > 2e38);
        }
    }

    /// erf by its Taylor series, in double precision, for |x| <= 5.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn activations_match_their_definitions() {
        for level in levels() {
            let mut x = -5.0f32;
            while x < 5.0 {
                let wide = f64::from(x);
                let tanh = (0.797_884_560_802_865_4 * (wide + 0.044715 * wide.powi(3))).tanh();
                let cases = [
                    (Activation::Silu, wide / (1.0 + (-wide).exp())),
                    (
                        Activation::Gelu,
                        0.5 * wide * (1.0 + erf(wide * std::f64::consts::FRAC_1_SQRT_2)),
                    ),
                    (Activation::GeluTanh, 0.5 * wide * (1.0 + tanh)),
                ];
                for (activation, exact) in cases {
                    let mut lanes = [x; LANES];
                    level.run(Act(activation, &mut lanes));
                    let error = (f64::from(lanes[7]) - exact).abs();
                    assert!(
                        error < 1e-6 * exact.abs().max(0.3),
                        "{level:?} {activation:?}({x}) = {}, expected {exact}",
                        lanes[7]
                    );
                }
                x += 0.0371;
            }
            for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
                let mut lanes = [f32::NAN; LANES];
                lanes[1] = -200.0;
                lanes[2] = 200.0;
                level.run(Act(activation, &mut lanes));
                assert!(lanes[0].is_nan());
                assert!(lanes[1].abs() < 1e-30);
                assert_eq!(lanes[2], 200.0);
            }
        }
    }
}

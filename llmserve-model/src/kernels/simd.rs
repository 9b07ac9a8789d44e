//! Sixteen `f32` lanes, whatever the CPU makes them of.

use std::fmt::Debug;

/// Lanes of a vector, at every level: results are laid out and folded alike.
pub(crate) const LANES: usize = 16;

/// `t = n + MAGIC` holds the integer `n` in the low bits of its mantissa, for `|n| < 2²²`.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// The operations of one level, as methods of a token that proves that the CPU has them.
pub(crate) trait Simd: Copy + Send + Sync + Debug + 'static {
    /// Sixteen lanes.
    type V: Copy;

    /// Most rows of a register tile.
    const ROWS: usize;
    /// Whether a register tile spans a panel's 32 columns at once, or 16 at a time.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Widens bf16 numbers.
    fn widen(self, from: &[u16; LANES]) -> Self::V;
    /// Widens the bf16 numbers in the low halves.
    fn low(self, from: &[u32; LANES]) -> Self::V;
    /// Widens the bf16 numbers in the high halves.
    fn high(self, from: &[u32; LANES]) -> Self::V;
    /// `a * b + c`, rounded once where the level has fused multiply-add.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// One lane of [`fma`](Self::fma), with the same rounding.
    fn fma1(self, a: f32, b: f32, c: f32) -> f32;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The greater one; `b` when either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller one; `b` when either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2ⁿ` for lanes `n + MAGIC`, `-126 <= n <= 127`.
    fn pow2(self, t: Self::V) -> Self::V;
    /// Asks for the cache line at `at`, which need not be valid.
    fn prefetch<T>(self, at: *const T);

    /// The lanes, for code that looks at each.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        lanes
    }

    /// The sum, halves first: the same tree at every level.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = self.lanes(v);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// Plain Rust, which the compiler vectorises as far as the target's baseline allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// Without the instruction, `mul_add` is a slow call into libm.
const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

impl Simd for Portable {
    type V = [f32; LANES];

    const ROWS: usize = 2;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        *to = v;
    }

    #[inline(always)]
    fn widen(self, from: &[u16; LANES]) -> Self::V {
        from.map(|x| f32::from_bits(u32::from(x) << 16))
    }

    #[inline(always)]
    fn low(self, from: &[u32; LANES]) -> Self::V {
        from.map(|x| f32::from_bits(x << 16))
    }

    #[inline(always)]
    fn high(self, from: &[u32; LANES]) -> Self::V {
        from.map(|x| f32::from_bits(x & 0xffff_0000))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = c;
        for i in 0..LANES {
            out[i] = fused(a[i], b[i], c[i]);
        }
        out
    }

    #[inline(always)]
    fn fma1(self, a: f32, b: f32, c: f32) -> f32 {
        fused(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn pow2(self, t: Self::V) -> Self::V {
        t.map(|t| f32::from_bits(t.to_bits().wrapping_add(127) << 23))
    }

    #[inline(always)]
    fn prefetch<T>(self, _at: *const T) {}
}

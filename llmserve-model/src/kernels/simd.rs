//! Sixteen `f32` lanes, whatever the CPU makes them of.

use std::fmt::Debug;

/// Lanes of a vector, at every level: results are laid out and folded alike.
pub(crate) const LANES: usize = 16;

/// `t = n + MAGIC` holds the integer `n` in the low bits of its mantissa, for `|n| < 2²²`.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// The operations of one level, as methods of a token that proves that the CPU has them.
pub(crate) trait Simd: Copy + Send + Sync + Debug + 'static {
    /// Sixteen `f32` lanes.
    type V: Copy;
    /// Sixteen words of 32 bits.
    type W: Copy;

    /// Most rows of a register tile.
    const ROWS: usize;
    /// Whether a register tile spans a panel's 32 columns at once, or 16 at a time.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Widens the bf16 numbers in the low halves.
    fn low(self, words: Self::W) -> Self::V;
    /// Widens the bf16 numbers in the high halves.
    fn high(self, words: Self::W) -> Self::V;
    /// `a * b + c`, rounded once where the level has fused multiply-add.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
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
    fn words(self, from: &[u32; LANES]) -> Self::W;
    fn splat_word(self, x: u32) -> Self::W;
    /// The bits, taken for `f32` numbers.
    fn float(self, words: Self::W) -> Self::V;
    /// The words as signed integers, converted and rounded to nearest.
    fn to_f32(self, words: Self::W) -> Self::V;
    /// Of each byte, the lower four bits.
    fn low_nibbles(self, words: Self::W) -> Self::W;
    /// Of each byte, the upper four bits.
    fn high_nibbles(self, words: Self::W) -> Self::W;
    /// `acc + a.low · b.low + a.high · b.high`, for words of two bf16 numbers. In which order, with
    /// how many roundings, and whether subnormal numbers count, is the level's own.
    fn dot_bf16(self, a: Self::W, b: Self::W, acc: Self::V) -> Self::V;
    /// `acc` plus the four products of the bytes of `a`, unsigned, with those of `b`, signed: exact,
    /// modulo 2³².
    fn dot_i8(self, a: Self::W, b: Self::W, acc: Self::W) -> Self::W;
    /// Rounded to bf16, to nearest with ties to even; the earlier of two numbers in the low half.
    fn pairs(self, v: Self::V) -> [u32; LANES / 2];
    /// The lowest byte of each lane's bits, the earliest of four in the lowest byte.
    fn low_bytes(self, v: Self::V) -> [u32; LANES / 4];
    /// Asks for the cache line at `at`, which need not be valid.
    fn prefetch<T>(self, at: *const T);

    /// The lanes, for code that looks at each.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        lanes
    }

    /// All the numbers of `from`, sixteen at most, and zeros in the other lanes.
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> Self::V {
        if let Some(all) = from.first_chunk::<LANES>() {
            return self.load(all);
        }
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// As many lanes as `to` has room for.
    #[inline(always)]
    fn store_some(self, v: Self::V, to: &mut [f32]) {
        if let Some(all) = to.first_chunk_mut::<LANES>() {
            return self.store(v, all);
        }
        let len = to.len();
        to.copy_from_slice(&self.lanes(v)[..len]);
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

/// The bits of `x` with its upper half rounded to nearest, ties to even, as bf16; the lower half is
/// left over. What is not finite stays so.
#[inline(always)]
pub(crate) fn rounded_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_finite() {
        bits + 0x7fff + ((bits >> 16) & 1)
    } else {
        bits | (u32::from(x.is_nan()) << 22)
    }
}

/// Two numbers as bf16 in one word, the first in the low half.
#[inline(always)]
pub(crate) fn pair(first: f32, second: f32) -> u32 {
    (rounded_bits(first) >> 16) | (rounded_bits(second) & 0xffff_0000)
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
    type W = [u32; LANES];

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
    fn low(self, words: Self::W) -> Self::V {
        words.map(|x| f32::from_bits(x << 16))
    }

    #[inline(always)]
    fn high(self, words: Self::W) -> Self::V {
        words.map(|x| f32::from_bits(x & 0xffff_0000))
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
    fn words(self, from: &[u32; LANES]) -> Self::W {
        *from
    }

    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::W {
        [x; LANES]
    }

    #[inline(always)]
    fn float(self, words: Self::W) -> Self::V {
        words.map(f32::from_bits)
    }

    #[inline(always)]
    fn to_f32(self, words: Self::W) -> Self::V {
        words.map(|x| x.cast_signed() as f32)
    }

    #[inline(always)]
    fn low_nibbles(self, words: Self::W) -> Self::W {
        words.map(|x| x & 0x0f0f_0f0f)
    }

    #[inline(always)]
    fn high_nibbles(self, words: Self::W) -> Self::W {
        words.map(|x| (x >> 4) & 0x0f0f_0f0f)
    }

    #[inline(always)]
    fn dot_bf16(self, a: Self::W, b: Self::W, acc: Self::V) -> Self::V {
        let low = self.fma(self.low(a), self.low(b), acc);
        self.fma(self.high(a), self.high(b), low)
    }

    #[inline(always)]
    fn dot_i8(self, a: Self::W, b: Self::W, acc: Self::W) -> Self::W {
        let mut out = acc;
        for i in 0..LANES {
            for byte in 0..4 {
                let x = i32::from((a[i] >> (8 * byte)) as u8);
                let y = i32::from(((b[i] >> (8 * byte)) as u8).cast_signed());
                out[i] = out[i].wrapping_add((x * y).cast_unsigned());
            }
        }
        out
    }

    #[inline(always)]
    fn pairs(self, v: Self::V) -> [u32; LANES / 2] {
        std::array::from_fn(|i| pair(v[2 * i], v[2 * i + 1]))
    }

    #[inline(always)]
    fn low_bytes(self, v: Self::V) -> [u32; LANES / 4] {
        std::array::from_fn(|i| {
            u32::from_le_bytes(std::array::from_fn(|byte| v[4 * i + byte].to_bits() as u8))
        })
    }

    #[inline(always)]
    fn prefetch<T>(self, _at: *const T) {}
}

#[cfg(test)]
mod tests;

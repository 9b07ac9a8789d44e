//! How keys and values lie in words, and what is done with such words.

use crate::kernels::activation::exp;
use crate::kernels::simd::{LANES, MAGIC, Simd};

/// Positions of a split.
pub(super) const SPLIT: usize = 256;
/// Positions whose scores are one vector.
pub(super) const CHUNK: usize = LANES;
/// Chunks of a split.
pub(super) const CHUNKS: usize = SPLIT / CHUNK;
/// Scores of one query in one split. The last vector is never used: it keeps the rows of a tile
/// from falling into the same lines of the cache.
pub(super) const SCORES: usize = SPLIT + LANES;

/// One of the two ways in which numbers fill the words of a page.
///
/// A key word holds [`PACKED`](Self::PACKED) dimensions of one slot, a value word as many
/// neighbouring slots of one dimension. Which two dimensions make a key word is nobody's business
/// but this trait's: a score sums over all of them.
pub(crate) trait KvFormat: Copy + Send + Sync + 'static {
    /// Numbers in a word.
    const PACKED: usize;
    /// Scores are scaled by this, for the exponential's sake.
    const UNIT: f32;

    /// `acc` plus the products of the numbers in the words.
    fn dot<S: Simd>(s: S, a: S::W, b: S::W, acc: S::V) -> S::V;

    /// `e^(x / UNIT)`, as accurate as `f32` has it.
    fn exp<S: Simd>(s: S, x: S::V) -> S::V;

    /// The words of sixteen pairs of dimensions, those of `second` being `half` after those of
    /// `first`; `put` receives where they go, counted from the first of them.
    fn keys<S: Simd>(
        s: S,
        first: S::V,
        second: S::V,
        half: usize,
        put: impl FnMut(usize, [u32; LANES]),
    );

    /// Writes the values of one or two neighbouring slots, the even one first, into their words. A
    /// slot that is not given keeps its part of the words. There is an odd one only where two slots
    /// share a word.
    fn values<S: Simd>(s: S, even: Option<&[f32]>, odd: Option<&[f32]>, words: &mut [u32]);

    /// Of a value word, one slot alone; in the place of the even one, with nothing else beside it.
    fn value(word: u32, slot: usize) -> u32;

    /// `word` with what [`value`](Self::value) gave put into the place of `slot`.
    fn with_value(word: u32, slot: usize, value: u32) -> u32;

    /// Turns the first `seen` scores (at least one) into weights `e^((score - peak) / UNIT)`, packed
    /// as value words are, with zeros up to the end of the last word; returns their sum.
    fn weights<S: Simd>(s: S, scores: &mut [f32; SCORES], seen: usize, peak: f32) -> f32;
}

/// One number a word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32;

/// Two bf16 numbers a word.
///
/// Queries and weights are rounded to bf16 as well. The weights are summed as rounded, so that
/// together they still make one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16;

impl KvFormat for F32 {
    const PACKED: usize = 1;
    const UNIT: f32 = 1.0;

    #[inline(always)]
    fn dot<S: Simd>(s: S, a: S::W, b: S::W, acc: S::V) -> S::V {
        s.fma(s.float(a), s.float(b), acc)
    }

    #[inline(always)]
    fn exp<S: Simd>(s: S, x: S::V) -> S::V {
        exp(s, x)
    }

    #[inline(always)]
    fn keys<S: Simd>(
        s: S,
        first: S::V,
        second: S::V,
        half: usize,
        mut put: impl FnMut(usize, [u32; LANES]),
    ) {
        put(0, s.lanes(first).map(f32::to_bits));
        put(half, s.lanes(second).map(f32::to_bits));
    }

    #[inline(always)]
    fn values<S: Simd>(_: S, even: Option<&[f32]>, _: Option<&[f32]>, words: &mut [u32]) {
        for (word, x) in words.iter_mut().zip(even.unwrap_or_default()) {
            *word = x.to_bits();
        }
    }

    #[inline(always)]
    fn value(word: u32, _: usize) -> u32 {
        word
    }

    #[inline(always)]
    fn with_value(_: u32, _: usize, value: u32) -> u32 {
        value
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, scores: &mut [f32; SCORES], seen: usize, peak: f32) -> f32 {
        let peak = s.splat(peak);
        let mut sum = s.splat(0.0);
        let (chunks, _) = scores[..seen.next_multiple_of(CHUNK)].as_chunks_mut::<CHUNK>();
        let (last, whole) = (seen % CHUNK, seen / CHUNK);
        for (at, chunk) in chunks.iter_mut().enumerate() {
            let mut p = exp(s, s.sub(s.load(chunk), peak));
            if at == whole {
                p = only(s, p, last);
            }
            sum = s.add(sum, p);
            s.store(p, chunk);
        }
        s.sum(sum)
    }
}

/// 1.0 twice.
const ONES: u32 = 0x3f80_3f80;

impl KvFormat for Bf16 {
    const PACKED: usize = 2;
    const UNIT: f32 = std::f32::consts::LOG2_E;

    #[inline(always)]
    fn dot<S: Simd>(s: S, a: S::W, b: S::W, acc: S::V) -> S::V {
        s.dot_bf16(a, b, acc)
    }

    #[inline(always)]
    fn exp<S: Simd>(s: S, x: S::V) -> S::V {
        exp(s, s.mul(x, s.splat(std::f32::consts::LN_2)))
    }

    #[inline(always)]
    fn keys<S: Simd>(
        s: S,
        first: S::V,
        second: S::V,
        _: usize,
        mut put: impl FnMut(usize, [u32; LANES]),
    ) {
        put(0, zipped(s, first, second));
    }

    #[inline(always)]
    fn values<S: Simd>(s: S, even: Option<&[f32]>, odd: Option<&[f32]>, words: &mut [u32]) {
        let keep = match (even, odd) {
            (Some(_), Some(_)) => 0,
            (Some(_), None) => 0xffff_0000,
            (None, Some(_)) => 0xffff,
            (None, None) => return,
        };
        let zero = s.splat(0.0);
        for (at, words) in words.chunks_mut(LANES).enumerate() {
            let part = |x: Option<&[f32]>| match x.and_then(|x| x.get(at * LANES..)) {
                Some(x) => s.load_some(&x[..words.len()]),
                None => zero,
            };
            let new = zipped(s, part(even), part(odd));
            for (word, new) in words.iter_mut().zip(new) {
                *word = (*word & keep) | (new & !keep);
            }
        }
    }

    #[inline(always)]
    fn value(word: u32, slot: usize) -> u32 {
        (word >> (16 * (slot % 2))) & 0xffff
    }

    #[inline(always)]
    fn with_value(word: u32, slot: usize, value: u32) -> u32 {
        let shift = 16 * (slot % 2);
        (word & !(0xffff << shift)) | (value << shift)
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, scores: &mut [f32; SCORES], seen: usize, peak: f32) -> f32 {
        const HALF: usize = CHUNK / 2;
        let peak = s.splat(peak);
        let (last, whole) = (seen % CHUNK, seen / CHUNK);
        let chunks = seen.div_ceil(CHUNK).min(CHUNKS);
        for at in 0..chunks {
            let mut p = exp2(
                s,
                s.sub(s.load_some(&scores[at * CHUNK..(at + 1) * CHUNK]), peak),
            );
            if at == whole {
                p = only(s, p, last);
            }
            // Behind the scores that are still to come: half as long, from the beginning on.
            let words = s.pairs(p).map(f32::from_bits);
            scores[at * HALF..(at + 1) * HALF].copy_from_slice(&words);
        }
        scores[chunks * HALF..(chunks + 1) * HALF].fill(0.0);
        let ones = s.splat_word(ONES);
        let mut sum = s.splat(0.0);
        for at in 0..chunks.div_ceil(2) {
            let mut words = [0; LANES];
            let from = &scores[at * LANES..(at + 1) * LANES];
            for (word, x) in words.iter_mut().zip(from) {
                *word = x.to_bits();
            }
            sum = s.dot_bf16(s.words(&words), ones, sum);
        }
        s.sum(sum)
    }
}

/// `2ˣ` for `x <= 0` to one part in 10⁴, far below what rounding to bf16 leaves; the smallest
/// normal number in place of smaller ones; NaN stays NaN.
///
/// `x = n + r`, `|r| <= 1/2`, and the cubic polynomial for `2ʳ` whose greatest relative error is
/// least.
#[inline(always)]
fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-126.0), x);
    let t = s.add(x, s.splat(MAGIC));
    let r = s.sub(x, s.sub(t, s.splat(MAGIC)));
    let mut p = s.splat(0.055_171_67);
    p = s.fma(p, r, s.splat(0.242_611_12));
    p = s.fma(p, r, s.splat(0.693_261));
    p = s.fma(p, r, s.splat(0.999_928_06));
    s.mul(p, s.pow2(t))
}

/// The first `count` lanes, zeros in the others.
#[inline(always)]
fn only<S: Simd>(s: S, v: S::V, count: usize) -> S::V {
    let mut lanes = s.lanes(v);
    lanes[count..].fill(0.0);
    s.load(&lanes)
}

/// Words of two numbers rounded to bf16, one of each vector.
#[inline(always)]
fn zipped<S: Simd>(s: S, low: S::V, high: S::V) -> [u32; LANES] {
    let (low, high) = (s.pairs(low), s.pairs(high));
    let mut words = [0; LANES];
    for (words, (low, high)) in words
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(low.iter().zip(high))
    {
        words[0] = (low & 0xffff) | (high << 16);
        words[1] = (low >> 16) | (high & 0xffff_0000);
    }
    words
}

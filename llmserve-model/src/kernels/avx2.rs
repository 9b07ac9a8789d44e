//! Sixteen lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::Kernel;
use super::simd::{LANES, Simd};

/// Proves that the CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

/// Runs a kernel compiled for these instructions.
#[target_feature(enable = "avx2,fma")]
pub(super) fn enter<K: Kernel>(kernel: K) {
    kernel.run(Avx2(()));
}

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(super) struct Halves(__m256, __m256);

/// Calls intrinsics from a method of the token.
macro_rules! proven {
    ($body:expr) => {{
        // SAFETY: the token is made only in `enter`, which runs only where the features were
        // detected; memory is reached only through references to whole arrays.
        unsafe { $body }
    }};
}

/// Words 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(super) struct Words(__m256i, __m256i);

impl Words {
    #[inline(always)]
    fn each(self, f: impl Fn(__m256i) -> __m256i) -> Self {
        Self(f(self.0), f(self.1))
    }

    #[inline(always)]
    fn float(self) -> Halves {
        proven!(Halves(
            _mm256_castsi256_ps(self.0),
            _mm256_castsi256_ps(self.1)
        ))
    }
}

impl Simd for Avx2 {
    type V = Halves;
    type W = Words;

    const ROWS: usize = 6;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        proven!(Halves(_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        proven!(Halves(
            _mm256_loadu_ps(from.as_ptr()),
            _mm256_loadu_ps(from.as_ptr().add(8))
        ))
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        proven!({
            _mm256_storeu_ps(to.as_mut_ptr(), v.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v.1);
        })
    }

    #[inline(always)]
    fn low(self, words: Self::W) -> Self::V {
        words.each(|w| proven!(_mm256_slli_epi32::<16>(w))).float()
    }

    #[inline(always)]
    fn high(self, words: Self::W) -> Self::V {
        let mask = proven!(_mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
        words.each(|w| proven!(_mm256_and_si256(w, mask))).float()
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        proven!(Halves(
            _mm256_fmadd_ps(a.0, b.0, c.0),
            _mm256_fmadd_ps(a.1, b.1, c.1)
        ))
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(Halves(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(Halves(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(Halves(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(Halves(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(Halves(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(Halves(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn pow2(self, t: Self::V) -> Self::V {
        proven!({
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_add_epi32(_mm256_castps_si256(t.0), bias);
            let second = _mm256_add_epi32(_mm256_castps_si256(t.1), bias);
            Halves(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(first)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(second)),
            )
        })
    }

    #[inline(always)]
    fn words(self, from: &[u32; LANES]) -> Self::W {
        proven!(Words(
            _mm256_loadu_si256(from.as_ptr().cast()),
            _mm256_loadu_si256(from.as_ptr().add(8).cast())
        ))
    }

    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::W {
        let word = proven!(_mm256_set1_epi32(x.cast_signed()));
        Words(word, word)
    }

    #[inline(always)]
    fn float(self, words: Self::W) -> Self::V {
        words.float()
    }

    #[inline(always)]
    fn to_f32(self, words: Self::W) -> Self::V {
        proven!(Halves(
            _mm256_cvtepi32_ps(words.0),
            _mm256_cvtepi32_ps(words.1)
        ))
    }

    #[inline(always)]
    fn low_nibbles(self, words: Self::W) -> Self::W {
        words.each(|w| proven!(_mm256_and_si256(w, _mm256_set1_epi8(15))))
    }

    #[inline(always)]
    fn high_nibbles(self, words: Self::W) -> Self::W {
        words.each(|w| {
            proven!(_mm256_and_si256(
                _mm256_srli_epi32::<4>(w),
                _mm256_set1_epi8(15)
            ))
        })
    }

    #[inline(always)]
    fn dot_bf16(self, a: Self::W, b: Self::W, acc: Self::V) -> Self::V {
        let acc = self.fma(self.low(a), self.low(b), acc);
        self.fma(self.high(a), self.high(b), acc)
    }

    #[inline(always)]
    fn dot_i8(self, a: Self::W, b: Self::W, acc: Self::W) -> Self::W {
        // By way of 16 bits: sums of two products of bytes do not fit there, and the shorter way
        // (`vpmaddubsw`) would saturate them.
        let dot = |a, b, acc| {
            proven!({
                let bytes = _mm256_set1_epi16(0xff);
                let even = _mm256_madd_epi16(
                    _mm256_and_si256(a, bytes),
                    _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
                );
                let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
                _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
            })
        };
        Words(dot(a.0, b.0, acc.0), dot(a.1, b.1, acc.1))
    }

    #[inline(always)]
    fn pairs(self, v: Self::V) -> [u32; LANES / 2] {
        let round = |v| {
            proven!({
                let bits = _mm256_castps_si256(v);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
                let rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, bias));
                // NaN must not be rounded into infinity: it is made quiet instead.
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
                let quiet = _mm256_or_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(1 << 22)));
                _mm256_srli_epi32::<16>(_mm256_castps_si256(_mm256_blendv_ps(rounded, quiet, nan)))
            })
        };
        let (first, second) = (round(v.0), round(v.1));
        // SAFETY: the token proves AVX2; both are 256 bits of which every pattern is a value.
        unsafe {
            // Lanes of 128 bits are packed apart from one another: the middle ones change places.
            let packed = _mm256_packus_epi32(first, second);
            std::mem::transmute::<__m256i, [u32; 8]>(_mm256_permute4x64_epi64::<0b11_01_10_00>(
                packed,
            ))
        }
    }

    #[inline(always)]
    fn low_bytes(self, v: Self::V) -> [u32; LANES / 4] {
        // SAFETY: the token proves AVX2; both are 128 bits of which every pattern is a value.
        unsafe {
            let mask = _mm256_set1_epi32(0xff);
            let first = _mm256_and_si256(_mm256_castps_si256(v.0), mask);
            let second = _mm256_and_si256(_mm256_castps_si256(v.1), mask);
            let packed = _mm256_packus_epi32(first, second);
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            let bytes = _mm_packus_epi16(
                _mm256_castsi256_si128(packed),
                _mm256_extracti128_si256::<1>(packed),
            );
            std::mem::transmute::<__m128i, [u32; 4]>(bytes)
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}

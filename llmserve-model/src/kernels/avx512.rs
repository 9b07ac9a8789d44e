//! Sixteen lanes in one AVX-512 register, with or without instructions for dot products.

use std::arch::x86_64::*;

use super::Kernel;
use super::simd::{LANES, Simd};

/// Proves that the CPU has AVX-512 F, BW, DQ and VL, AVX2 and FMA; and, if they are true, VNNI
/// (`vpdpbusd`) and BF16 (`vdpbf16ps`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512<const VNNI: bool, const BF16: bool>(());

/// Runs a kernel compiled for AVX-512 without dot products.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn enter<K: Kernel>(kernel: K) {
    kernel.run(Avx512::<false, false>(()));
}

/// Runs a kernel compiled for AVX-512 with VNNI.
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn enter_vnni<K: Kernel>(kernel: K) {
    kernel.run(Avx512::<true, false>(()));
}

/// Runs a kernel compiled for AVX-512 with VNNI and BF16.
#[target_feature(enable = "avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn enter_bf16<K: Kernel>(kernel: K) {
    kernel.run(Avx512::<true, true>(()));
}

/// Calls intrinsics from a method of the token.
macro_rules! proven {
    ($body:expr) => {{
        // SAFETY: the token is made only in the functions above, which run only where the features
        // were detected; memory is reached only through references to whole arrays.
        unsafe { $body }
    }};
}

impl<const VNNI: bool, const BF16: bool> Simd for Avx512<VNNI, BF16> {
    type V = __m512;
    type W = __m512i;

    const ROWS: usize = 12;
    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        proven!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        proven!(_mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        proven!(_mm512_storeu_ps(to.as_mut_ptr(), v))
    }

    #[inline(always)]
    fn low(self, words: Self::W) -> Self::V {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)))
    }

    #[inline(always)]
    fn high(self, words: Self::W) -> Self::V {
        let mask = proven!(_mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        proven!(_mm512_castsi512_ps(_mm512_and_si512(words, mask)))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn pow2(self, t: Self::V) -> Self::V {
        proven!({
            let biased = _mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    fn words(self, from: &[u32; LANES]) -> Self::W {
        proven!(_mm512_loadu_si512(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::W {
        proven!(_mm512_set1_epi32(x.cast_signed()))
    }

    #[inline(always)]
    fn float(self, words: Self::W) -> Self::V {
        proven!(_mm512_castsi512_ps(words))
    }

    #[inline(always)]
    fn to_f32(self, words: Self::W) -> Self::V {
        proven!(_mm512_cvtepi32_ps(words))
    }

    #[inline(always)]
    fn low_nibbles(self, words: Self::W) -> Self::W {
        proven!(_mm512_and_si512(words, _mm512_set1_epi8(15)))
    }

    #[inline(always)]
    fn high_nibbles(self, words: Self::W) -> Self::W {
        proven!(_mm512_and_si512(
            _mm512_srli_epi32::<4>(words),
            _mm512_set1_epi8(15)
        ))
    }

    #[inline(always)]
    fn dot_bf16(self, a: Self::W, b: Self::W, acc: Self::V) -> Self::V {
        if BF16 {
            // SAFETY: the token proves BF16; both are 512 bits of which every pattern is a value.
            return unsafe {
                let a = std::mem::transmute::<__m512i, __m512bh>(a);
                let b = std::mem::transmute::<__m512i, __m512bh>(b);
                _mm512_dpbf16_ps(acc, a, b)
            };
        }
        let acc = self.fma(self.low(a), self.low(b), acc);
        self.fma(self.high(a), self.high(b), acc)
    }

    #[inline(always)]
    fn dot_i8(self, a: Self::W, b: Self::W, acc: Self::W) -> Self::W {
        if VNNI {
            return proven!(_mm512_dpbusd_epi32(acc, a, b));
        }
        // By way of 16 bits: sums of two products of bytes do not fit there, and the shorter way
        // (`vpmaddubsw`) would saturate them.
        proven!({
            let bytes = _mm512_set1_epi16(0xff);
            let even = _mm512_madd_epi16(
                _mm512_and_si512(a, bytes),
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b)),
            );
            let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(a), _mm512_srai_epi16::<8>(b));
            _mm512_add_epi32(acc, _mm512_add_epi32(even, odd))
        })
    }

    #[inline(always)]
    fn pairs(self, v: Self::V) -> [u32; LANES / 2] {
        if BF16 {
            // SAFETY: the token proves BF16; both are 256 bits of which every pattern is a value.
            return unsafe { std::mem::transmute::<__m256bh, [u32; 8]>(_mm512_cvtneps_pbh(v)) };
        }
        proven!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_add_epi32(bits, bias);
            // NaN must not be rounded into infinity: it is made quiet instead.
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(1 << 22));
            let rounded = _mm512_mask_mov_epi32(rounded, nan, quiet);
            let narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
            std::mem::transmute::<__m256i, [u32; 8]>(narrow)
        })
    }

    #[inline(always)]
    fn low_bytes(self, v: Self::V) -> [u32; LANES / 4] {
        proven!(std::mem::transmute::<__m128i, [u32; 4]>(
            _mm512_cvtepi32_epi8(_mm512_castps_si512(v))
        ))
    }

    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}

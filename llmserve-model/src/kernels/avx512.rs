//! Sixteen lanes in one AVX-512 register.

use std::arch::x86_64::*;

use super::Kernel;
use super::simd::{LANES, Simd};

/// Proves that the CPU has AVX-512 F, BW, DQ and VL, AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

/// Runs a kernel compiled for these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn enter<K: Kernel>(kernel: K) {
    kernel.run(Avx512(()));
}

/// Calls intrinsics from a method of the token.
macro_rules! proven {
    ($body:expr) => {{
        // SAFETY: the token is made only in `enter`, which runs only where the features were
        // detected; memory is reached only through references to whole arrays.
        unsafe { $body }
    }};
}

impl Simd for Avx512 {
    type V = __m512;

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
    fn widen(self, from: &[u16; LANES]) -> Self::V {
        proven!({
            let narrow = _mm256_loadu_si256(from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow)))
        })
    }

    #[inline(always)]
    fn low(self, from: &[u32; LANES]) -> Self::V {
        proven!({
            let pairs = _mm512_loadu_si512(from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))
        })
    }

    #[inline(always)]
    fn high(self, from: &[u32; LANES]) -> Self::V {
        proven!({
            let pairs = _mm512_loadu_si512(from.as_ptr().cast());
            let mask = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            _mm512_castsi512_ps(_mm512_and_si512(pairs, mask))
        })
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn fma1(self, a: f32, b: f32, c: f32) -> f32 {
        proven!(_mm_cvtss_f32(_mm_fmadd_ss(
            _mm_set_ss(a),
            _mm_set_ss(b),
            _mm_set_ss(c)
        )))
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
    fn prefetch<T>(self, at: *const T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}

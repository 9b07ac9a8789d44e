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

impl Simd for Avx2 {
    type V = Halves;

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
    fn widen(self, from: &[u16; LANES]) -> Self::V {
        proven!({
            let low = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_loadu_si128(from.as_ptr().add(8).cast());
            Halves(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(low))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high))),
            )
        })
    }

    #[inline(always)]
    fn low(self, from: &[u32; LANES]) -> Self::V {
        proven!({
            let first = _mm256_loadu_si256(from.as_ptr().cast());
            let second = _mm256_loadu_si256(from.as_ptr().add(8).cast());
            Halves(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(first)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(second)),
            )
        })
    }

    #[inline(always)]
    fn high(self, from: &[u32; LANES]) -> Self::V {
        proven!({
            let first = _mm256_loadu_si256(from.as_ptr().cast());
            let second = _mm256_loadu_si256(from.as_ptr().add(8).cast());
            let mask = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            Halves(
                _mm256_castsi256_ps(_mm256_and_si256(first, mask)),
                _mm256_castsi256_ps(_mm256_and_si256(second, mask)),
            )
        })
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        proven!(Halves(
            _mm256_fmadd_ps(a.0, b.0, c.0),
            _mm256_fmadd_ps(a.1, b.1, c.1)
        ))
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
    fn prefetch<T>(self, at: *const T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}

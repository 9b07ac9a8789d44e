//! What the machine can do at best: the measure that every figure is held against.

use std::time::Instant;

use super::buffer::Buffer;
use super::simd::{LANES, Simd};
use super::{Kernel, Kernels};
use crate::error::LoadError;
use crate::threads::ThreadTeam;

/// The machine's measured limits, with one level's instructions on some threads (the roofline
/// model: Williams, Waterman and Patterson, 2009).
///
/// ```no_run
/// use llmserve_model::{Ceiling, Kernels};
/// let ceiling = Ceiling::measure(Kernels::detect(), 2)?;
/// println!("{:.1} GB/s, {:.0} GFLOP/s", ceiling.read_gb_s, ceiling.f32_gflop_s);
/// # Ok::<(), llmserve_model::LoadError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ceiling {
    /// Threads that measured.
    pub threads: usize,
    /// Bytes read from memory, in 10⁹ a second.
    pub read_gb_s: f64,
    /// Multiplications and additions of `f32`, in 10⁹ a second.
    pub f32_gflop_s: f64,
    /// Multiplications and additions of bf16 numbers, in 10⁹ a second.
    pub bf16_gflop_s: f64,
    /// Multiplications and additions of bytes, in 10⁹ a second.
    pub int8_gflop_s: f64,
}

/// Bytes that each thread reads: more than its share of any cache.
const BYTES: usize = 384 << 20;
/// Rounds of which the best counts.
const ROUNDS: usize = 4;
/// Steps of the arithmetic loop.
const STEPS: usize = 3_000_000;
/// Independent sums: more than latency times units.
const CHAINS: usize = 24;

impl Ceiling {
    /// Measures for about three seconds, with 384 MiB a thread.
    ///
    /// # Errors
    /// [`LoadError::Kernel`] for a level this CPU lacks, [`LoadError::Threads`] when the threads or
    /// their memory cannot be had.
    pub fn measure(kernels: Kernels, threads: usize) -> Result<Self, LoadError> {
        let level = kernels.level()?;
        let mut team = ThreadTeam::new(threads).map_err(|error| LoadError::Threads {
            reason: error.to_string(),
        })?;
        let threads = team.threads();
        let words = BYTES / size_of::<f32>();
        let mut data =
            Buffer::<f32>::try_zeroed(words * threads).ok_or_else(|| LoadError::Threads {
                reason: format!("no memory to measure with: {BYTES} bytes a thread"),
            })?;
        // Touched, or all pages would be the one page of zeros.
        for (i, x) in data.iter_mut().enumerate() {
            *x = (i % 251) as f32;
        }
        let mut best = |work: &(dyn Fn(usize) + Sync)| {
            (0..ROUNDS).fold(f64::INFINITY, |best: f64, _| {
                let began = Instant::now();
                // Tasks do not panic; one that did would only spoil the figure.
                let _ = team.run(threads, |task, _| work(task));
                best.min(began.elapsed().as_secs_f64())
            })
        };
        let read = best(&|task| {
            let data = &data[task * words..(task + 1) * words];
            level.run(Read { data });
        });
        let rate = |depth: usize, seconds: f64| {
            (threads * STEPS * CHAINS * LANES * 2 * depth) as f64 / seconds / 1e9
        };
        Ok(Self {
            threads,
            read_gb_s: (BYTES * threads) as f64 / read / 1e9,
            f32_gflop_s: rate(1, best(&|_| level.run(Multiply))),
            bf16_gflop_s: rate(2, best(&|_| level.run(MultiplyBf16))),
            int8_gflop_s: rate(4, best(&|_| level.run(MultiplyBytes))),
        })
    }
}

struct Read<'a> {
    data: &'a [f32],
}

impl Kernel for Read<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sums = [s.splat(0.0); 8];
        for chunk in self.data.as_chunks::<LANES>().0.as_chunks::<8>().0 {
            for (sum, lanes) in sums.iter_mut().zip(chunk) {
                *sum = s.add(*sum, s.load(lanes));
            }
        }
        for sum in sums {
            std::hint::black_box(s.sum(sum));
        }
    }
}

struct Multiply;

impl Kernel for Multiply {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let a = s.splat(std::hint::black_box(0.999));
        let b = s.splat(std::hint::black_box(0.001));
        let mut sums = [s.splat(1.0); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.fma(a, *sum, b);
            }
        }
        for sum in sums {
            std::hint::black_box(s.sum(sum));
        }
    }
}

struct MultiplyBf16;

impl Kernel for MultiplyBf16 {
    const BF16: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Pairs of 1 and of 2⁻¹⁰.
        let a = s.splat_word(std::hint::black_box(0x3f80_3f80));
        let b = s.splat_word(std::hint::black_box(0x3a80_3a80));
        let mut sums = [s.splat(1.0); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.dot_bf16(a, b, *sum);
            }
        }
        for sum in sums {
            std::hint::black_box(s.sum(sum));
        }
    }
}

struct MultiplyBytes;

impl Kernel for MultiplyBytes {
    const BYTES: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let a = s.splat_word(std::hint::black_box(0x0302_0104));
        let b = s.splat_word(std::hint::black_box(0x01ff_fe02));
        let mut sums = [s.splat_word(0); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.dot_i8(a, b, *sum);
            }
        }
        for sum in sums {
            std::hint::black_box(s.sum(s.from_i32(sum)));
        }
    }
}

//! What the machine can do at best: the measure that every figure is held against.

use std::time::Instant;

use super::buffer::Buffer;
use super::format::Format;
use super::simd::{LANES, Simd};
use super::{Kernel, Kernels, Level};
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
    /// Multiplications and additions of bf16 numbers, in 10⁹ a second: no fewer than of `f32`, which
    /// they can be widened to.
    pub bf16_gflop_s: f64,
    /// Multiplications and additions of bytes, in 10⁹ a second: no fewer than of `f32`.
    pub int8_gflop_s: f64,
}

/// Bytes that each thread reads: more than its share of any cache.
const READ_BYTES: usize = 384 << 20;
/// Rounds of which the best counts.
const ROUNDS: usize = 4;
/// Steps of the arithmetic loop.
const STEPS: usize = 3_000_000;

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
        let words = READ_BYTES / size_of::<f32>();
        let mut data =
            Buffer::<f32>::try_zeroed(words * threads).ok_or_else(|| LoadError::Threads {
                reason: format!("no memory to measure with: {READ_BYTES} bytes a thread"),
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
            (threads * STEPS * level.chains() * LANES * 2 * depth) as f64 / seconds / 1e9
        };
        let f32 = rate(1, best(&|_| level.run(Multiply::<F32>)));
        Ok(Self {
            threads,
            read_gb_s: (READ_BYTES * threads) as f64 / read / 1e9,
            f32_gflop_s: f32,
            bf16_gflop_s: rate(2, best(&|_| level.run(Multiply::<BF16>))).max(f32),
            int8_gflop_s: rate(4, best(&|_| level.run(Multiply::<BYTES>))).max(f32),
        })
    }
}

struct Read<'a> {
    data: &'a [f32],
}

impl Kernel for Read<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Four streams, each asked for ahead: the hardware's own prefetcher stops at 4 KiB.
        let (chunks, _) = self.data.as_chunks::<LANES>();
        // Not a power of two apart, or all would fall into the same lines and banks.
        let quarter = (chunks.len() / 4).saturating_sub(33);
        let mut sums = [[s.splat(0.0); 2]; 4];
        for at in (0..quarter.saturating_sub(1)).step_by(2) {
            for (stream, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let chunk = &chunks[stream * quarter + at + i];
                    s.prefetch(chunk.as_ptr().wrapping_add(AHEAD));
                    *sum = s.add(*sum, s.load(chunk));
                }
            }
        }
        for sum in sums.into_iter().flatten() {
            std::hint::black_box(s.sum(sum));
        }
    }
}

/// Numbers that are asked for ahead of use: 4 KiB.
const AHEAD: usize = 1024;

const F32: u8 = 0;
const BF16: u8 = 1;
const BYTES: u8 = 2;

/// Chains of products of one kind of numbers.
struct Multiply<const NUMBERS: u8>;

impl Level {
    /// As many sums as a product has, or they would not stay in registers: more than latency times
    /// units wherever that is possible.
    fn chains(self) -> usize {
        match self.tile_rows(Format::F32) {
            12.. => 24,
            6.. => 6,
            _ => 2,
        }
    }
}

impl<const NUMBERS: u8> Kernel for Multiply<NUMBERS> {
    const BF16: bool = NUMBERS == BF16;
    const BYTES: bool = NUMBERS == BYTES;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::ROWS {
            12.. => chains::<S, NUMBERS, 24>(s),
            6.. => chains::<S, NUMBERS, 6>(s),
            _ => chains::<S, NUMBERS, 2>(s),
        }
    }
}

#[inline(always)]
fn chains<S: Simd, const NUMBERS: u8, const CHAINS: usize>(s: S) {
    // From memory, others for each step and chain: nothing can be computed once for all of them. As
    // numbers they are near 2⁻¹⁰ in any format, so that sums stay finite.
    let numbers = std::hint::black_box([[0x3a80_3a80_u32; LANES]; 8]);
    let mut sums = [s.splat(1.0); CHAINS];
    let mut counts = [s.splat_word(0); CHAINS];
    for step in 0..STEPS {
        let b = s.words(&numbers[step % 8]);
        for chain in 0..CHAINS {
            let a = s.words(&numbers[(step + chain) % 8]);
            if NUMBERS == BYTES {
                counts[chain] = s.dot_i8(a, b, counts[chain]);
            } else if NUMBERS == BF16 {
                sums[chain] = s.dot_bf16(a, b, sums[chain]);
            } else {
                sums[chain] = s.fma(s.float(b), sums[chain], s.float(b));
            }
        }
    }
    for (sum, count) in sums.into_iter().zip(counts) {
        std::hint::black_box((s.sum(sum), s.sum(s.to_f32(count))));
    }
}

//! How fast each kernel is on this machine, to be held against its [`Ceiling`].
//!
//! ```text
//!  product       rows × packed weights                     of each way to store weights
//!  conversion    rows ─ norm ─► what a product reads
//!  attention     queries × keys and values in pages        one token of each sequence, or a prompt
//!  cache_write   keys ─ rotate ─► pages, values ─► pages
//! ```
//!
//! A model's weights, and the keys and values of all its layers, are more than any cache holds, so
//! whatever a step reads of them comes from memory. Here calls therefore go in turns through as
//! many copies as make [`KernelBench::memory`]. Activations, which the kernel before has just
//! written, stay where they are.

mod attention;
mod product;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, Instant};

use super::{Ceiling, Kernels, Level};
use crate::decoder::DType;
use crate::error::LoadError;
use crate::threads::{TaskPanicked, ThreadTeam};

pub use attention::AttentionShape;
pub use product::ProductShape;

/// Runs single kernels, with one level's instructions on some threads.
///
/// ```no_run
/// use llmserve_model::measure::{KernelBench, ProductShape};
/// use llmserve_model::{Ceiling, DType, Kernels};
///
/// let (kernels, threads) = (Kernels::detect(), 2);
/// let ceiling = Ceiling::measure(kernels, threads)?;
/// let shape = ProductShape { dtype: DType::BF16, depth: 2048, columns: 8192, paired: false };
/// for sample in KernelBench::new(kernels, threads)?.product(shape, &[1, 32])? {
///     println!("{:.0} % of what {} allows", 100.0 * sample.share(&ceiling), sample.bound(&ceiling));
/// }
/// # Ok::<(), llmserve_model::LoadError>(())
/// ```
#[derive(Debug)]
pub struct KernelBench {
    level: Level,
    team: ThreadTeam,
    time: Duration,
    memory: usize,
}

/// Passes that [`KernelBench::time`] is made of; the best counts.
const PASSES: u32 = 16;

/// No dimension may be larger: then every size fits a machine word.
const MOST: usize = 1 << 20;

impl KernelBench {
    /// A bench with `threads` threads, the calling one among them.
    ///
    /// # Errors
    /// [`LoadError::Kernel`] for a level this CPU lacks, [`LoadError::Threads`] when the threads
    /// cannot be had.
    pub fn new(kernels: Kernels, threads: usize) -> Result<Self, LoadError> {
        let level = kernels.level()?;
        let team = ThreadTeam::new(threads).map_err(|error| LoadError::Threads {
            reason: error.to_string(),
        })?;
        Ok(Self {
            level,
            team,
            time: Duration::from_millis(100),
            memory: 256 << 20,
        })
    }

    /// How long each figure is measured, allocation not counted; 100 ms unless told. A kernel that
    /// takes longer runs at least once.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Bytes of weights, or of keys and values, that calls go through in turns; 256 MiB unless
    /// told, and more where a single matrix or context is larger. They should be several times the
    /// last-level cache, or its speed is measured in place of the memory's.
    #[must_use]
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Copies of something of `bytes` bytes that make up the memory.
    fn copies(&self, bytes: usize) -> usize {
        self.memory.div_ceil(bytes.max(1)).max(1)
    }
}

/// What a kernel did and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Seconds of one call: the mean of a run of calls, of the best such run.
    pub seconds: f64,
    /// Bytes that one call must read and write; each method says which are counted.
    pub bytes: f64,
    /// Multiplications and additions of one call; each method says which are counted.
    pub flops: f64,
    /// The numbers that are multiplied, which says what arithmetic is held against.
    pub numbers: DType,
}

impl Sample {
    /// Bytes, in 10⁹ a second.
    pub fn gb_s(&self) -> f64 {
        self.bytes / self.seconds / 1e9
    }

    /// Multiplications and additions, in 10⁹ a second.
    pub fn gflop_s(&self) -> f64 {
        self.flops / self.seconds / 1e9
    }

    /// What the call cannot be faster than.
    pub fn bound(&self, ceiling: &Ceiling) -> Bound {
        if self.read_seconds(ceiling) >= self.compute_seconds(ceiling) {
            Bound::Memory
        } else {
            Bound::Arithmetic
        }
    }

    /// The least time that the call can take, over the time it took. Above 1 where data came from a
    /// cache.
    pub fn share(&self, ceiling: &Ceiling) -> f64 {
        let least = self
            .read_seconds(ceiling)
            .max(self.compute_seconds(ceiling));
        least / self.seconds
    }

    fn read_seconds(&self, ceiling: &Ceiling) -> f64 {
        self.bytes / (ceiling.read_gb_s * 1e9)
    }

    fn compute_seconds(&self, ceiling: &Ceiling) -> f64 {
        self.flops / (ceiling.gflop_s(self.numbers) * 1e9)
    }
}

/// What limits a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Reading and writing.
    Memory,
    /// Multiplying and adding.
    Arithmetic,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        })
    }
}

impl Ceiling {
    /// Multiplications and additions in products of numbers of this type, in 10⁹ a second. Numbers
    /// of four bits are multiplied as bytes.
    pub fn gflop_s(&self, dtype: DType) -> f64 {
        match dtype {
            DType::F32 => self.f32_gflop_s,
            DType::BF16 => self.bf16_gflop_s,
            DType::Int8 | DType::Int4 => self.int8_gflop_s,
        }
    }
}

/// Seconds of one call: calls are numbered on and on, and timed in passes of several.
fn best(
    time: Duration,
    mut call: impl FnMut(usize) -> Result<(), TaskPanicked>,
) -> Result<f64, LoadError> {
    let (began, mut index, mut best) = (Instant::now(), 0, f64::INFINITY);
    // The first pass finds pages not touched and threads asleep.
    let mut passes = 0;
    loop {
        let (pass, first) = (Instant::now(), index);
        loop {
            call(index).map_err(failed)?;
            index += 1;
            if pass.elapsed() >= time / PASSES {
                break;
            }
        }
        best = (pass.elapsed().as_secs_f64() / (index - first) as f64).min(best);
        passes += 1;
        let elapsed = began.elapsed();
        if elapsed >= time && passes > 1 || elapsed >= 4 * time {
            return Ok(best);
        }
    }
}

fn failed(panic: TaskPanicked) -> LoadError {
    LoadError::Threads {
        reason: panic.to_string(),
    }
}

/// That every one of `sizes` is from 1 to [`MOST`].
fn check(sizes: &[(&'static str, usize)]) -> Result<(), LoadError> {
    match sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
        Some(&(option, size)) => Err(LoadError::InvalidOption {
            option,
            reason: format!("{size}, expected 1 to {MOST}"),
        }),
        None => Ok(()),
    }
}

/// What is there, or the error that there is no memory.
fn allocated<T>(memory: Option<T>) -> Result<T, LoadError> {
    memory.ok_or_else(|| LoadError::InvalidOption {
        option: "shape",
        reason: "no memory to measure with: a smaller one needs less".to_owned(),
    })
}

/// Numbers within ±0.5.
fn noise(into: &mut [f32]) {
    let mut state = 0x9e37_79b9u32;
    for x in into {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *x = state as f32 / u32::MAX as f32 - 0.5;
    }
}

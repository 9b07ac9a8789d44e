//! The arithmetic of a decoder on the CPU.
//!
//! ```text
//!  rows, as words (≤12 a tile)    panels (32 columns, word by word)   out
//!  ┌ r0: w0 w1 … ┐                ┌ c0 c1 … c31 ┐ w0                 ┌──────┐
//!  │ r1: w0 w1 … │        ×       │ c0 c1 … c31 │ w1         =       │ tile │ one register each,
//!  └ …           ┘                └ …           ┘                    └──────┘ first word to last
//! ```
//!
//! A word is one f32, two bf16, four bytes or eight nibbles of consecutive channels. Every kernel is
//! written once, generic over [`Simd`]: sixteen lanes. It is instantiated portably, for AVX2, and
//! for AVX-512 without and with dot products, and [`Level::run`] picks one at run time.
//!
//! The law that all of them keep: a row's result depends on its own inputs and absolute positions
//! alone. Each output of a matrix product is *one* accumulation over words in ascending order (of
//! exact sums of groups, for integers), with the same operations whether its row came alone or
//! among hundreds; each attention score is one accumulation over the head's dimensions, and softmax
//! is cut at fixed absolute positions.

pub(crate) mod activation;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bidirectional;
pub(crate) mod buffer;
mod ceiling;
pub(crate) mod embed;
pub(crate) mod format;
pub(crate) mod gemm;
pub(crate) mod inputs;
pub(crate) mod layer_norm;
pub mod measure;
pub(crate) mod packed;
pub(crate) mod rope;
pub(crate) mod simd;
pub(crate) mod stored;
pub(crate) mod survey;
mod tile;
pub(crate) mod tiling;

use std::fmt;
use std::str::FromStr;

pub use ceiling::Ceiling;

use crate::decoder::by_name;
use crate::error::LoadError;
use format::Format;
use simd::{Portable, Simd};

/// The instructions that the CPU kernels use.
///
/// Results of one level are reproducible bit for bit; another level may round differently.
///
/// ```
/// use llmserve_model::Kernels;
/// let best = Kernels::detect();
/// assert!(Kernels::available().contains(&best));
/// assert!(Kernels::available().contains(&Kernels::Portable));
/// ```
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kernels {
    /// Plain Rust for any CPU, without fused multiply-add where the target lacks it.
    Portable,
    /// AVX2 with FMA (x86-64 since 2013).
    Avx2,
    /// AVX-512 F, BW, DQ and VL (servers since 2017).
    Avx512,
    /// The same with VNNI: dot products of bytes (Cascade Lake, Ice Lake and later).
    Avx512Vnni,
    /// The same with VNNI and BF16: dot products of bf16 too (Zen 4, Sapphire Rapids and later).
    Avx512Bf16,
}

/// All levels, the slowest first.
const LADDER: [Kernels; 5] = [
    Kernels::Portable,
    Kernels::Avx2,
    Kernels::Avx512,
    Kernels::Avx512Vnni,
    Kernels::Avx512Bf16,
];

impl Kernels {
    /// The fastest level that this CPU runs.
    pub fn detect() -> Self {
        Self::available()
            .last()
            .copied()
            .unwrap_or(Kernels::Portable)
    }

    /// All levels that this CPU runs, the slowest first.
    pub fn available() -> Vec<Self> {
        LADDER
            .into_iter()
            .filter(|level| level.runs_here())
            .collect()
    }

    fn runs_here(self) -> bool {
        match self {
            Kernels::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => {
                Kernels::Avx2.runs_here()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512Vnni => {
                Kernels::Avx512.runs_here() && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512Bf16 => {
                Kernels::Avx512Vnni.runs_here() && std::arch::is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The level, checked.
    ///
    /// # Errors
    /// [`LoadError::Kernel`] when this CPU lacks it.
    pub(crate) fn level(self) -> Result<Level, LoadError> {
        if self.runs_here() {
            return Ok(Level(self));
        }
        let names: Vec<_> = Self::available().iter().map(Kernels::to_string).collect();
        Err(LoadError::Kernel {
            requested: self.to_string(),
            available: names.join(", "),
        })
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kernels::Portable => "portable",
            Kernels::Avx2 => "avx2",
            Kernels::Avx512 => "avx512",
            Kernels::Avx512Vnni => "avx512vnni",
            Kernels::Avx512Bf16 => "avx512bf16",
        })
    }
}

/// By the name that [`Display`](fmt::Display) writes, whether or not this CPU runs it.
impl FromStr for Kernels {
    type Err = LoadError;

    fn from_str(name: &str) -> Result<Self, LoadError> {
        by_name("kernels", name, &LADDER)
    }
}

/// A level that this CPU runs: having one is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Kernels);

/// A piece of work, generic over the lanes. `run` must be `#[inline(always)]`, as must everything
/// hot that it calls, so that it is compiled with the level's instructions.
pub(crate) trait Kernel {
    /// Whether it multiplies bytes. Levels that differ in nothing it uses share its code.
    const BYTES: bool = false;
    /// Whether it multiplies bf16 numbers.
    const BF16: bool = false;

    fn run<S: Simd>(self, simd: S);
}

impl Level {
    pub(crate) fn kernels(self) -> Kernels {
        self.0
    }

    /// Most rows of a tile: what the level's registers hold beside what the format needs.
    pub(crate) fn tile_rows(self, format: Format) -> usize {
        match (self.0, format) {
            (Kernels::Portable, _) => Portable::ROWS,
            // Both halves of a word, or of a byte, take registers of their own.
            #[cfg(target_arch = "x86_64")]
            (Kernels::Avx2, Format::F32) => avx2::Avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            (Kernels::Avx2, _) => 4,
            #[cfg(target_arch = "x86_64")]
            (_, Format::Int4) => 8,
            #[cfg(target_arch = "x86_64")]
            (_, _) => avx512::Avx512::<true, true>::ROWS,
            #[cfg(not(target_arch = "x86_64"))]
            (_, _) => Portable::ROWS,
        }
    }

    /// Runs a kernel with this level's instructions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Kernels::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => {
                // SAFETY: a `Level` is made only after its features were detected.
                unsafe { avx2::enter(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => {
                // SAFETY: a `Level` is made only after its features were detected.
                unsafe { avx512::enter(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512Vnni => {
                // SAFETY: a `Level` is made only after its features were detected.
                unsafe {
                    if K::BYTES {
                        avx512::enter_vnni(kernel)
                    } else {
                        avx512::enter(kernel)
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512Bf16 => {
                // SAFETY: a `Level` is made only after its features were detected.
                unsafe {
                    if K::BF16 {
                        avx512::enter_bf16(kernel)
                    } else if K::BYTES {
                        avx512::enter_vnni(kernel)
                    } else {
                        avx512::enter(kernel)
                    }
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => kernel.run(Portable),
        }
    }
}

#[cfg(test)]
pub(crate) fn levels() -> Vec<Level> {
    Kernels::available().into_iter().map(Level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_missing_is_a_typed_error() {
        for kernels in LADDER {
            match kernels.level() {
                Ok(level) => assert!(Kernels::available().contains(&level.kernels())),
                Err(LoadError::Kernel { requested, .. }) => {
                    assert_eq!(requested, kernels.to_string());
                    assert!(!Kernels::available().contains(&kernels));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

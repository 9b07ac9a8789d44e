//! Deterministic random requests.

use std::path::PathBuf;

use llmserve::TokenId;

/// The model that travels with the repository.
pub fn embedded_model() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/models/bard-2m"
    ))
}

/// A source of random lengths and tokens (SplitMix64).
#[derive(Clone, Debug)]
pub struct Workload {
    state: u64,
}

impl Workload {
    /// The workload of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `low..=high`.
    pub fn uniform(&mut self, low: usize, high: usize) -> usize {
        low + (self.unit() * (high - low + 1) as f64) as usize
    }

    /// Log-uniform in `low..=high`.
    pub fn log_uniform(&mut self, low: usize, high: usize) -> usize {
        let (low, high) = (low as f64, high as f64);
        (low * (high / low).powf(self.unit())).round() as usize
    }

    /// `len` tokens of a vocabulary whose first 16 ids are left to special tokens.
    pub fn tokens(&mut self, len: usize, vocab_size: usize) -> Vec<TokenId> {
        let first = 16.min(vocab_size - 1);
        (0..len)
            .map(|_| self.uniform(first, vocab_size - 1) as TokenId)
            .collect()
    }
}

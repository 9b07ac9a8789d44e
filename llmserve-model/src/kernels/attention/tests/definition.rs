//! Against the definition, in double precision.

use half::bf16;
use proptest::prelude::*;

use super::super::{Bf16, F32, KvFormat};
use super::driver::{Case, How, plainly};

impl Case {
    /// Attention by the book, of numbers rounded as `round` does where pages and products round.
    fn naive(&self, round: impl Fn(f64) -> f64) -> Vec<Vec<f64>> {
        let sequences = 0..self.sequences.len();
        sequences.map(|i| self.naive_one(i, &round)).collect()
    }

    fn naive_one(&self, sequence: usize, round: &impl Fn(f64) -> f64) -> Vec<f64> {
        let (dim, shared) = (self.head_dim, self.heads / self.kv_heads);
        let frequencies = self.frequencies();
        let head = |token: usize, head: usize| {
            let at = token * self.width() + head * dim;
            let x = self.sequences[sequence][at..at + dim].iter();
            x.map(|&x| f64::from(x)).collect::<Vec<_>>()
        };
        let rotated = |token: usize, which: usize, scale: f64| {
            let x = head(token, which);
            let mut out = vec![0.0; dim];
            for (pair, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = f64::from(token as f32 * frequency).sin_cos();
                let (a, b) = (x[pair], x[pair + dim / 2]);
                out[pair] = round((a * cos - b * sin) * scale);
                out[pair + dim / 2] = round((b * cos + a * sin) * scale);
            }
            out
        };
        let len = self.len(sequence);
        let keys: Vec<Vec<_>> = (0..self.kv_heads)
            .map(|kv| (0..len).map(|t| rotated(t, self.heads + kv, 1.0)).collect())
            .collect();
        let mut all = Vec::new();
        // What scores are scaled by before they are rounded.
        let unit = std::f64::consts::LOG2_E;
        for token in 0..len {
            for query in 0..self.heads {
                let kv = query / shared;
                let q = rotated(token, query, unit / (dim as f64).sqrt());
                let score = |key: &Vec<f64>| -> f64 {
                    q.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() / unit
                };
                let scores: Vec<f64> = keys[kv][..=token].iter().map(score).collect();
                let peak = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut out = vec![0.0; dim];
                for (t, weight) in weights.iter().enumerate() {
                    let value = head(t, self.heads + self.kv_heads + kv);
                    for (o, v) in out.iter_mut().zip(value) {
                        *o += weight / sum * round(v);
                    }
                }
                all.extend(out);
            }
        }
        all
    }

    fn check<F: KvFormat>(&self, how: How, exact: &[Vec<f64>], tolerance: f64) {
        let got = self.run::<F>(how, &self.whole());
        for (got, exact) in got.iter().flatten().zip(exact.iter().flatten()) {
            let error = (f64::from(*got) - exact).abs();
            assert!(error < tolerance, "{got} {exact} {:?}", how.level);
        }
    }

    fn check_all(&self, how: impl Fn(How) -> How) {
        let exact = self.naive(|x| x);
        let rounded = self.naive(|x| bf16::from_f64(x).to_f64());
        for plain in plainly() {
            self.check::<F32>(how(plain), &exact, 2e-5);
            // Weights are rounded to one part in 2⁸, and values are at most 2.
            self.check::<Bf16>(how(plain), &rounded, 0.012);
        }
    }
}

#[test]
fn shapes_of_all_sorts() {
    for (heads, kv_heads, head_dim, len) in [
        (1, 1, 2, 5),
        (4, 2, 16, 40),
        (6, 1, 24, 33),
        (3, 3, 34, 70),
        (20, 2, 32, 20),
        (9, 3, 64, 61),
        (2, 2, 128, 20),
        (1, 1, 256, 19),
        (26, 1, 8, 9),
    ] {
        Case::new(heads, kv_heads, head_dim, &[len], 11).check_all(|how| how);
    }
}

#[test]
fn contexts_that_cross_splits() {
    Case::new(4, 2, 16, &[530, 256, 257], 3).check_all(|how| How { threads: 2, ..how });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn ragged_batches(
        kv_heads in 1usize..4,
        shared in 1usize..8,
        half in 1usize..24,
        lens in prop::collection::vec(1usize..40, 1..5),
        block_size in prop::sample::select(vec![1usize, 3, 16, 17, 32]),
        seed: u32,
    ) {
        let case = Case::new(kv_heads * shared, kv_heads, 2 * half, &lens, seed);
        case.check_all(|how| How { threads: 2, block_size, ..how });
    }
}

//! Near texts: the scan by size beside the same in `f32`, and what a veto takes.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use llmserve_benches::{Report, median};
use llmserve_cache::semantic::{SemanticIndex, Threshold, veto};
use llmserve_core::Embedder;

/// What MiniLM makes.
const DIMENSIONS: usize = 384;
/// Neighbours that recall counts.
const NEAREST: usize = 10;

/// Says how long vectors are; they come from [`Noise`].
struct Silent;

impl Embedder for Silent {
    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn identity(&self) -> &str {
        "none"
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, llmserve_core::Error> {
        Ok(vec![vec![1.0; DIMENSIONS]; texts.len()])
    }
}

/// Vectors without structure, whose neighbours are the hardest to tell apart.
struct Noise(u64);

impl Noise {
    fn vector(&mut self) -> Vec<f32> {
        let mut vector: Vec<f32> = (0..DIMENSIONS)
            .map(|_| {
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= length);
        vector
    }
}

/// Rows `scan …` and `veto …`.
pub fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let sizes: &[usize] = if quick {
        &[10_000]
    } else {
        &[10_000, 100_000, 300_000, 1_000_000]
    };
    for size in sizes {
        scan(report, *size)?;
    }
    vetoes(report);
    Ok(())
}

fn scan(report: &mut Report, size: usize) -> Result<(), Box<dyn Error>> {
    let index = SemanticIndex::builder(Arc::new(Silent))
        .threshold(Threshold {
            texts: -1.0,
            words: -1.0,
        })
        .max_bytes(size * 2_048 + (1 << 20))
        .build()?;
    let mut noise = Noise(1);
    let mut plain = Vec::with_capacity(size * DIMENSIONS);
    let begun = Instant::now();
    for id in 0..size as u128 {
        let vector = noise.vector();
        index.insert(1, "what is it", &vector, id)?;
        plain.extend_from_slice(&vector);
    }
    let insert = begun.elapsed().as_secs_f64() * 1e6 / size as f64;

    let (mut ours, mut theirs, mut right) = (Vec::new(), Vec::new(), 0);
    const QUERIES: usize = 20;
    for _ in 0..QUERIES {
        let asked = noise.vector();
        let begun = Instant::now();
        black_box(index.lookup(1, "what is it", &asked)?);
        ours.push(begun.elapsed().as_secs_f64() * 1e3);

        let begun = Instant::now();
        let mut exact: Vec<(f32, usize)> = plain
            .chunks_exact(DIMENSIONS)
            .map(|row| dot(row, &asked))
            .zip(0..)
            .collect();
        theirs.push(begun.elapsed().as_secs_f64() * 1e3);
        exact.sort_by(|a, b| b.0.total_cmp(&a.0));
        let found = index.neighbours(1, &asked, NEAREST)?;
        let best = &exact[..NEAREST];
        right += found
            .iter()
            .filter(|near| best.iter().any(|(_, id)| near.0 == *id as u128))
            .count();
    }
    let (ours, theirs) = (median(ours.into_iter()), median(theirs.into_iter()));
    report.row(
        &format!("scan {size} x {DIMENSIONS}"),
        &[
            ("lookup_ms", ours.into()),
            ("f32_ms", theirs.into()),
            ("f32_over_ours", (theirs / ours).into()),
            (
                "recall_at_10",
                (right as f64 / (QUERIES * NEAREST) as f64).into(),
            ),
            ("insert_us", insert.into()),
        ],
    );
    Ok(())
}

/// Sixteen lanes, so that it is as fast as plain Rust is.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum()
}

fn vetoes(report: &mut Report) {
    let short = "How do I convert 15 miles from London to kilometers in Python?";
    // One sentence, so that all of it is read.
    let long = "I would like to know how a person who has never used Rust before, but has written \
                Python and some C++ for about 12 years, could convert 15 miles to kilometers with \
                `f64::round` and print the result for Paris, London and New York on 3 March 2024 at \
                7 pm without any library";
    for (name, text) in [("short", short), ("of 50 words", long)] {
        let other = text.replace("convert", "turn");
        let rounds = 2_000;
        let mut times = Vec::new();
        for _ in 0..9 {
            let begun = Instant::now();
            for _ in 0..rounds {
                black_box(veto(black_box(text), black_box(&other)));
            }
            times.push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
        }
        let words = text.split_whitespace().count();
        report.row(
            &format!("veto {name}"),
            &[
                ("words", words.into()),
                ("veto_us", median(times.into_iter()).into()),
            ],
        );
    }
}

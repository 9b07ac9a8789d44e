//! Near texts: searches by size, by sketches and of all vectors, beside the same in `f32`; and what
//! a veto takes.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use llmserve_benches::{Report, median};
use llmserve_cache::semantic::{SemanticIndex, Threshold, veto};
use llmserve_core::Embedder;

/// What MiniLM makes.
const DIMENSIONS: usize = 384;
/// Neighbours that recall counts: as many as an index reads by default, and some more.
const NEAREST: [usize; 2] = [8, 10];
/// Vectors asked for, each in turn of every kind of search.
const QUERIES: usize = 40;

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

/// What vectors are like.
#[derive(Clone, Copy)]
enum Shape {
    /// Without structure: neighbours are the hardest to tell apart, and none is near.
    Uniform,
    /// About a hundred to a cluster, with cosines of 0.73, and one of a cluster is asked for.
    Clustered,
}

impl Shape {
    /// `size` vectors to store, and some to ask for.
    fn vectors(self, size: usize) -> (impl Iterator<Item = Vec<f32>>, Vec<Vec<f32>>) {
        let mut noise = Noise(1);
        let centres: Vec<_> = (0..(size / 100).max(1)).map(|_| noise.vector()).collect();
        let mut next = move || match self {
            Shape::Uniform => noise.vector(),
            Shape::Clustered => {
                noise.vector();
                let centre = (noise.0 >> 33) as usize % centres.len();
                noise.near(&centres[centre], 0.6)
            }
        };
        let asked = (0..QUERIES).map(|_| next()).collect();
        ((0..size).map(move |_| next()), asked)
    }
}

/// Vectors by chance.
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
        unit(&mut vector);
        vector
    }

    /// One beside another, `far` times as far as that is long.
    fn near(&mut self, vector: &[f32], far: f32) -> Vec<f32> {
        let other = self.vector();
        let mut sum: Vec<f32> = vector.iter().zip(other).map(|(a, b)| a + far * b).collect();
        unit(&mut sum);
        sum
    }
}

fn unit(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
}

/// Rows `search …` and `veto …`.
pub fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let sizes: &[usize] = if quick {
        &[10_000]
    } else {
        &[10_000, 100_000, 300_000, 1_000_000]
    };
    for shape in [Shape::Uniform, Shape::Clustered] {
        for size in sizes {
            search(report, *size, shape)?;
        }
    }
    vetoes(report);
    Ok(())
}

fn search(report: &mut Report, size: usize, shape: Shape) -> Result<(), Box<dyn Error>> {
    let index = |approximate_from| {
        SemanticIndex::builder(Arc::new(Silent))
            .threshold(Threshold {
                texts: -1.0,
                words: -1.0,
                gain: None,
            })
            .max_bytes(size * 2_048 + (1 << 20))
            .approximate_from(approximate_from)
            .build()
    };
    let kinds = [index(size)?, index(usize::MAX)?];
    let mut inserts = [0.0; 2];
    let mut plain = Vec::with_capacity(size * DIMENSIONS);
    let (vectors, queries) = shape.vectors(size);
    for (id, vector) in (0u128..).zip(vectors) {
        for (index, insert) in kinds.iter().zip(&mut inserts) {
            let begun = Instant::now();
            index.insert(1, "what is it", &vector, id)?;
            *insert += begun.elapsed().as_secs_f64() * 1e6 / size as f64;
        }
        plain.extend_from_slice(&vector);
    }

    let (mut times, mut right) = ([const { Vec::new() }; 3], [0; 2]);
    for asked in &queries {
        for (index, times) in kinds.iter().zip(&mut times) {
            let begun = Instant::now();
            black_box(index.lookup(1, "what is it", asked)?);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let begun = Instant::now();
        let mut exact: Vec<(f32, u128)> = plain
            .chunks_exact(DIMENSIONS)
            .map(|row| dot(row, asked))
            .zip(0..)
            .collect();
        times[2].push(begun.elapsed().as_secs_f64() * 1e3);
        exact.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (nearest, right) in NEAREST.into_iter().zip(&mut right) {
            let found = kinds[0].neighbours(1, asked, nearest)?;
            let best = &exact[..nearest];
            *right += found
                .iter()
                .filter(|near| best.iter().any(|(_, id)| near.0 == *id))
                .count();
        }
    }
    let recall = |at: usize| right[at] as f64 / (queries.len() * NEAREST[at]) as f64;
    let bytes = kinds.each_ref().map(|index| index.stats().bytes / size);
    let [ours, all, f32] = times.map(|times| median(times.into_iter()));
    let shape = match shape {
        Shape::Uniform => "uniform",
        Shape::Clustered => "clustered",
    };
    report.row(
        &format!("search {size} x {DIMENSIONS} {shape}"),
        &[
            ("lookup_ms", ours.into()),
            ("all_read_ms", all.into()),
            ("f32_ms", f32.into()),
            ("recall_at_8", recall(0).into()),
            ("recall_at_10", recall(1).into()),
            ("insert_us", inserts[0].into()),
            ("all_read_insert_us", inserts[1].into()),
            ("bytes", bytes[0].into()),
            ("all_read_bytes", bytes[1].into()),
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

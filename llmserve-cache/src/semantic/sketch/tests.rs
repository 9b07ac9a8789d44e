use super::super::quantised::unit;
use super::*;

/// Deterministic numbers, evenly spread over −1…1.
struct Noise(u64);

impl Noise {
    fn unit(&mut self, dimensions: usize) -> Vec<f32> {
        let vector: Vec<f32> = (0..dimensions)
            .map(|_| {
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        unit(&vector).expect("noise has a direction")
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The estimate of one row's cosine, the others of its group being empty.
fn estimate(asked: &Asked, sketch: &Sketch, lane: usize) -> f32 {
    let mut words = vec![0; LANES * sketch.words.len()];
    let mut factors = [0.0; LANES];
    for (at, word) in sketch.words.iter().enumerate() {
        words[at * LANES + lane] = *word;
    }
    factors[lane] = sketch.factor;
    let mut estimates = [f32::NAN; LANES];
    asked.estimate(Counting::new(), &words, &factors, &mut estimates);
    estimates[lane] * asked.step
}

#[test]
fn rotation_keeps_lengths_and_angles_and_spreads() {
    for dimensions in [1, 2, 3, 5, 64, 100, 384, 1_000] {
        let mut noise = Noise(dimensions as u64);
        let (mut a, mut b) = (noise.unit(dimensions), noise.unit(dimensions));
        let cosine = dot(&a, &b);
        rotate(&mut a);
        rotate(&mut b);
        assert!((dot(&a, &a) - 1.0).abs() < 1e-4, "{dimensions}");
        assert!((dot(&a, &b) - cosine).abs() < 1e-4, "{dimensions}");
    }
    // All in one dimension, wherever that is: afterwards in all of them.
    for at in [0, 100, 255, 256, 383] {
        let mut single = vec![0.0; 384];
        single[at] = 1.0;
        rotate(&mut single);
        let largest = single.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(largest < 0.25, "{at}: {largest}");
    }
}

#[test]
fn estimates_are_right_on_average_and_off_by_what_is_said() {
    // Vectors of chance; such that say nearly all in a few dimensions, as embedders' do; and at
    // any angle to what is asked.
    let dimensions = 384;
    let mut noise = Noise(5);
    for few in [false, true] {
        for wanted in [0.0, 0.5, 0.8, 0.95, 1.0] {
            let (mut sum, mut squares, mut said, rounds) = (0.0, 0.0, 0.0, 1_500);
            for round in 0..rounds {
                let mut chance = || {
                    let mut vector = noise.unit(dimensions);
                    if few {
                        vector.iter_mut().skip(20).for_each(|x| *x *= 0.05);
                    }
                    unit(&vector).expect("has a direction")
                };
                let (a, other) = (chance(), chance());
                let far = (1.0f32 - wanted * wanted).sqrt();
                let b: Vec<f32> = a
                    .iter()
                    .zip(&other)
                    .map(|(a, b)| wanted * a + far * b)
                    .collect();
                let b = unit(&b).expect("has a direction");
                let (truth, asked) = (dot(&a, &b), Asked::new(&a));
                let found = estimate(&asked, &Sketch::new(&mut b.clone()), round % LANES);
                sum += f64::from(found - truth);
                squares += f64::from((found - truth) * (found - truth));
                said += f64::from(asked.deviation(truth));
            }
            let rounds = f64::from(rounds as u32);
            let (mean, deviation, said) = (sum / rounds, (squares / rounds).sqrt(), said / rounds);
            let name = format!("few {few}, {wanted}: {mean}, {deviation} for {said}");
            if wanted == 1.0 {
                // Where signs and rounding are of the same numbers: too much, which misses nothing.
                assert!((0.0..0.03).contains(&mean) && deviation < 0.03, "{name}");
                continue;
            }
            assert!(mean.abs() < said / 5.0, "{name}");
            assert!((0.7..1.15).contains(&(deviation / said)), "{name}");
        }
    }
}

#[test]
fn counting_is_the_same_with_and_without_instructions_for_it() {
    for dimensions in [1, 63, 64, 65, 384, 1_000] {
        let mut noise = Noise(dimensions as u64);
        let asked = Asked::new(&noise.unit(dimensions));
        let words: Vec<u64> = (0..(3 * LANES * words(dimensions)) as u64)
            .map(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect();
        let factors: Vec<f32> = (0..3 * LANES).map(|i| 0.01 + i as f32).collect();
        let (mut by, mut plain) = (vec![0.0; 3 * LANES], vec![0.0; 3 * LANES]);
        asked.estimate(Counting::new(), &words, &factors, &mut by);
        Estimate {
            asked: &asked,
            words: &words,
            factors: &factors,
            estimates: &mut plain,
        }
        .call();
        assert_eq!(by, plain, "{dimensions}");
    }
}

#[test]
fn a_vector_is_nearest_to_itself() {
    for dimensions in [1, 2, 7, 64, 384, 70_000] {
        let vector = Noise(3 + dimensions as u64).unit(dimensions);
        let other: Vec<f32> = vector.iter().map(|x| -x).collect();
        let asked = Asked::new(&vector);
        let same = estimate(&asked, &Sketch::new(&mut vector.clone()), 2);
        let opposite = estimate(&asked, &Sketch::new(&mut other.clone()), 7);
        assert!((same - 1.0).abs() < 0.05, "{dimensions}: {same}");
        assert!((opposite + 1.0).abs() < 0.05, "{dimensions}: {opposite}");
    }
}

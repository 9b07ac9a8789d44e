use super::super::quantised::unit;
use super::*;

/// Deterministic numbers, evenly spread over −1…1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn unit(&mut self, dimensions: usize) -> Vec<f32> {
        let vector: Vec<f32> = (0..dimensions).map(|_| self.next()).collect();
        unit(&vector).expect("noise has a direction")
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

fn entries(found: &[Near]) -> Vec<u32> {
    found.iter().map(|near| near.entry).collect()
}

#[test]
fn recall_and_similarity_against_f32() {
    // Vectors without any structure are the hardest: the tenth neighbour is hardly nearer than the
    // eleventh.
    let (dimensions, rows, k) = (384, 4_000, 10);
    let mut noise = Noise(7);
    let vectors: Vec<_> = (0..rows).map(|_| noise.unit(dimensions)).collect();
    let mut shelf = Shelf::new(dimensions);
    for (i, vector) in vectors.iter().enumerate() {
        shelf.push(&Quantised::new(vector), i as u32, i as u64);
    }
    let (mut right, queries) = (0, 50);
    for _ in 0..queries {
        let asked = noise.unit(dimensions);
        let mut exact: Vec<_> = vectors
            .iter()
            .map(|v| cosine(v, &asked))
            .enumerate()
            .collect();
        exact.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = shelf.nearest(&Query::new(asked), k);
        for near in &found {
            let (_, truth) = exact
                .iter()
                .find(|(i, _)| *i == near.entry as usize)
                .expect("a row");
            assert!((truth - f64::from(near.similarity)).abs() < 2e-5);
        }
        let best: Vec<u32> = exact[..k].iter().map(|(i, _)| *i as u32).collect();
        right += best.iter().filter(|i| entries(&found).contains(i)).count();
    }
    assert!(
        right >= queries * k * 99 / 100,
        "{right} of {}",
        queries * k
    );
}

#[test]
fn any_number_of_dimensions() {
    for dimensions in [1, 2, 3, 31, 33, 384, 1_000, 70_000] {
        let mut noise = Noise(dimensions as u64);
        let (a, b) = (noise.unit(dimensions), noise.unit(dimensions));
        // All of one size: the largest sum a scan can come to.
        let flat = unit(&vec![1.0; dimensions]).expect("has a direction");
        let mut shelf = Shelf::new(dimensions);
        for (i, vector) in [&a, &b, &flat].into_iter().enumerate() {
            shelf.push(&Quantised::new(vector), i as u32, 0);
        }
        for (i, vector) in [a, b, flat].into_iter().enumerate() {
            let found = shelf.nearest(&Query::new(vector.clone()), 3);
            let truth = found
                .iter()
                .find(|near| near.entry == i as u32)
                .expect("all three");
            assert!(truth.similarity > 0.9999, "{dimensions}: {found:?}");
            assert!((found[0].similarity - truth.similarity).abs() < 1e-5);
        }
    }
}

#[test]
fn removal_keeps_places_dense_and_the_rest_findable() {
    // Against a plain list, over page borders, every entry looked for after every change.
    let dimensions = 5;
    let mut noise = Noise(3);
    let mut shelf = Shelf::new(dimensions);
    let mut places: Vec<u32> = Vec::new(); // place ─► entry
    let mut vectors = Vec::new();
    for entry in 0..2_500u32 {
        let vector = noise.unit(dimensions);
        let place = shelf.push(&Quantised::new(&vector), entry, u64::from(entry));
        assert_eq!(place as usize, places.len());
        places.push(entry);
        vectors.push(vector);
    }
    let full = shelf.bytes();
    while !places.is_empty() {
        let place = (noise.next().abs() * (places.len() - 1) as f32) as usize;
        let moved = shelf.swap_remove(place as u32);
        let row = Shelf::row_bytes(dimensions);
        let room = (4 * places.len()).min(places.len() + PAGE) * row + 4 * size_of::<Page>();
        assert!(
            shelf.bytes() <= room,
            "{} for {}",
            shelf.bytes(),
            places.len()
        );
        places.swap_remove(place);
        assert_eq!(moved, places.get(place).copied());
        if places.len() % 16 < 2
            && let Some(entry) = places.get(place / 2)
        {
            let found = shelf.nearest(&Query::new(vectors[*entry as usize].clone()), 1);
            assert_eq!(entries(&found), [*entry]);
        }
    }
    assert!(shelf.is_empty());
    assert!(shelf.bytes() < full / 100, "{} of {full}", shelf.bytes());
    assert!(shelf.nearest(&Query::new(vectors[0].clone()), 4).is_empty());
}

#[test]
fn equals_are_ordered_by_tie_and_query_and_not_by_place() {
    let vector = unit(&[3.0, -1.0, 2.0]).expect("has a direction");
    let fill = |order: &[u32]| {
        let mut shelf = Shelf::new(3);
        for entry in order {
            let tie = xxhash_rust::xxh3::xxh3_64(&entry.to_le_bytes());
            shelf.push(&Quantised::new(&vector), *entry, tie);
        }
        shelf
    };
    let up: Vec<u32> = (0..500).collect();
    let down: Vec<u32> = (0..500).rev().collect();
    let (up, down) = (fill(&up), fill(&down));
    let mut firsts = Vec::new();
    for tilt in 0..20 {
        let query = [3.0, -1.0, 2.0 + 0.01 * tilt as f32];
        let query = Query::new(unit(&query).expect("has a direction"));
        let found = entries(&up.nearest(&query, 3));
        assert_eq!(found, entries(&down.nearest(&query, 3)));
        firsts.push(found[0]);
    }
    firsts.sort_unstable();
    firsts.dedup();
    assert!(firsts.len() > 10, "spread over the equals: {firsts:?}");
}

#[test]
fn what_has_no_direction_is_refused() {
    assert!(unit(&[0.0, 0.0]).is_none());
    assert!(unit(&[1.0, f32::NAN]).is_none());
    assert!(unit(&[f32::INFINITY, 0.0]).is_none());
    assert!(unit(&[]).is_none());
    assert!(unit(&[f32::MAX, f32::MAX]).is_some());
    assert!(unit(&[f32::MIN_POSITIVE, 0.0]).is_some());
}

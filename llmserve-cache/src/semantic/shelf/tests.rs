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
    let mut shelf = Shelf::new(dimensions, usize::MAX);
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
        let mut shelf = Shelf::new(dimensions, usize::MAX);
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
    let mut shelf = Shelf::new(dimensions, usize::MAX);
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
        let mut shelf = Shelf::new(3, usize::MAX);
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

/// Clusters of about fifty, in which cosines are about 0.7, as questions about one thing are.
fn clustered(noise: &mut Noise, dimensions: usize, rows: usize) -> Vec<Vec<f32>> {
    let centres: Vec<_> = (0..rows / 50).map(|_| noise.unit(dimensions)).collect();
    let mut member = |i: usize| {
        let centre = &centres[i * 7919 % centres.len()];
        near(noise, centre, 0.65)
    };
    (0..rows).map(&mut member).collect()
}

/// A vector beside another, `far` times as far as that is long.
fn near(noise: &mut Noise, vector: &[f32], far: f32) -> Vec<f32> {
    let other = noise.unit(vector.len());
    let sum: Vec<f32> = vector.iter().zip(other).map(|(a, b)| a + far * b).collect();
    unit(&sum).expect("has a direction")
}

fn filled(vectors: &[Vec<f32>], approximate_from: usize) -> Shelf {
    let mut shelf = Shelf::new(vectors[0].len(), approximate_from);
    for (i, vector) in vectors.iter().enumerate() {
        shelf.push(&Quantised::new(vector), i as u32, i as u64);
    }
    shelf
}

#[test]
fn sketches_miss_few_and_tell_the_same_similarity() {
    let (dimensions, rows) = (384, 5_000);
    let mut noise = Noise(9);
    let chance: Vec<_> = (0..rows).map(|_| noise.unit(dimensions)).collect();
    let clusters = clustered(&mut noise, dimensions, rows);
    // One direction that all share, as the vectors of many embedders do.
    let shared = noise.unit(dimensions);
    let skewed = clusters.iter().map(|vector| {
        let sum: Vec<f32> = vector.iter().zip(&shared).map(|(a, b)| a + b).collect();
        unit(&sum).expect("has a direction")
    });
    let skewed: Vec<_> = skewed.collect();
    for (name, vectors) in [
        ("chance", chance),
        ("clusters", clusters),
        ("skewed", skewed),
    ] {
        let (exact, sketched) = (filled(&vectors, usize::MAX), filled(&vectors, rows));
        for k in [8, 10, 100] {
            let (mut right, queries) = (0, 20);
            for query in 0..queries {
                let asked = match name {
                    "chance" => noise.unit(dimensions),
                    _ => near(&mut noise, &vectors[query * 97], 0.5),
                };
                let query = Query::new(asked);
                let truth = exact.nearest(&query, k);
                let found = sketched.nearest(&query, k);
                assert_eq!(found.len(), k);
                assert!(found.is_sorted_by(|a, b| a.similarity >= b.similarity));
                right += truth.iter().filter(|near| found.contains(near)).count();
            }
            assert!(
                right * 100 >= queries * k * 97,
                "{name}: {right} of {queries} x {k}"
            );
        }
        // What a hit is: one that is far nearer than the rest.
        for place in (0..rows).step_by(61) {
            let query = Query::new(near(&mut noise, &vectors[place], 0.3));
            let best = exact.nearest(&query, 1);
            assert_eq!(sketched.nearest(&query, 1), best, "{name}: {place}");
        }
    }
}

#[test]
fn sketches_are_there_when_they_are_due_and_go_when_they_are_not() {
    let dimensions = 70;
    let mut noise = Noise(21);
    for from in [0, 1, 2, 3, 7, 64, 1_500] {
        let mut shelf = Shelf::new(dimensions, from);
        let sketched = |shelf: &Shelf| shelf.sketches.as_ref().map_or(0, |all| all.rows());
        for entry in 0..2 * from.max(3) {
            let vector = Quantised::new(&noise.unit(dimensions));
            shelf.push(&vector, entry as u32, 0);
            if shelf.rows <= from / 2 {
                assert!(shelf.sketches.is_none(), "{from}: {entry}");
            }
            if shelf.rows >= from {
                assert_eq!(sketched(&shelf), shelf.rows, "{from}");
            }
        }
        while shelf.rows > from / 4 && shelf.rows > 0 {
            shelf.swap_remove((shelf.rows / 3) as u32);
            assert!(sketched(&shelf) <= shelf.rows);
        }
        if shelf.rows > 0 {
            shelf.swap_remove(0);
        }
        let row = 3 * Shelf::row_bytes(dimensions);
        assert!(shelf.bytes() <= (shelf.rows + PAGE) * row, "{from}");
        if from > 3 {
            assert!(shelf.sketches.is_none(), "{from}");
        }
    }
}

#[test]
fn with_sketches_every_change_is_as_without() {
    // Rows come and go by chance, over borders of pages and of the number from which sketches are
    // asked. Whatever is there is found by itself, and nothing that is gone comes back.
    let (dimensions, from) = (128, 900);
    let mut noise = Noise(33);
    let centres: Vec<_> = (0..60).map(|_| noise.unit(dimensions)).collect();
    let (mut exact, mut sketched) = (
        Shelf::new(dimensions, usize::MAX),
        Shelf::new(dimensions, from),
    );
    let mut places: Vec<u32> = Vec::new();
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    for step in 0..10_000u32 {
        // More come than go, and the other way round, in turns.
        let grow = step / 2_000 % 2 == 0;
        let comes = noise.next().abs() < if grow { 0.85 } else { 0.15 };
        if comes || places.is_empty() {
            let vector = near(&mut noise, &centres[step as usize % 60], 0.6);
            let entry = vectors.len() as u32;
            let row = Quantised::new(&vector);
            assert_eq!(exact.push(&row, entry, 5), sketched.push(&row, entry, 5));
            places.push(entry);
            vectors.push(vector);
        } else {
            let place = (noise.next().abs() * (places.len() - 1) as f32) as u32;
            assert_eq!(exact.swap_remove(place), sketched.swap_remove(place));
            places.swap_remove(place as usize);
        }
        if step % 40 == 0 && !places.is_empty() {
            let at = (noise.next().abs() * (places.len() - 1) as f32) as usize;
            let query = Query::new(near(&mut noise, &vectors[places[at] as usize], 0.3));
            let found = sketched.nearest(&query, 8);
            assert_eq!(found.first(), exact.nearest(&query, 1).first(), "{step}");
            assert!(found.iter().all(|near| places.contains(&near.entry)));
        }
    }
    // As if the rows that are left had been all that ever came.
    let mut fresh = Shelf::new(dimensions, 1);
    for entry in &places {
        fresh.push(&Quantised::new(&vectors[*entry as usize]), *entry, 5);
    }
    while sketched.rows < from {
        let (vector, entry) = (noise.unit(dimensions), vectors.len() as u32);
        for shelf in [&mut sketched, &mut fresh] {
            shelf.push(&Quantised::new(&vector), entry, 5);
        }
        vectors.push(vector);
    }
    for centre in &centres {
        let query = Query::new(near(&mut noise, centre, 0.6));
        assert_eq!(sketched.nearest(&query, 8), fresh.nearest(&query, 8));
    }
}

#[test]
fn a_shelf_of_one_size_does_not_grow() {
    let (dimensions, from) = (16, 500);
    let mut noise = Noise(40);
    let vectors: Vec<_> = (0..1_500).map(|_| noise.unit(dimensions)).collect();
    let mut shelf = filled(&vectors, from);
    let bytes = shelf.bytes();
    let rows: Vec<_> = vectors.iter().map(|v| Quantised::new(v)).collect();
    for step in 0..300_000u32 {
        shelf.swap_remove(step.wrapping_mul(2_654_435_761) % 1_500);
        shelf.push(&rows[step as usize % 1_500], step, 0);
        assert!(shelf.bytes() <= bytes, "{step}");
    }
}

#[test]
fn with_sketches_equals_are_ordered_as_without() {
    let vector = unit(&[3.0, -1.0, 2.0]).expect("has a direction");
    let fill = |from| {
        let mut shelf = Shelf::new(3, from);
        for entry in 0..500u32 {
            let tie = xxhash_rust::xxh3::xxh3_64(&entry.to_le_bytes());
            shelf.push(&Quantised::new(&vector), entry, tie);
        }
        shelf
    };
    let (exact, sketched) = (fill(usize::MAX), fill(100));
    for tilt in 0..20 {
        let query = [3.0, -1.0, 2.0 + 0.01 * tilt as f32];
        let query = Query::new(unit(&query).expect("has a direction"));
        assert_eq!(sketched.nearest(&query, 3), exact.nearest(&query, 3));
    }
}

//! Every token sees every split once, and nobody's parts lie over another's.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::agenda::{Agenda, Geometry};
use super::super::format::SPLIT;

fn check(geometry: Geometry, rows: &[(usize, usize)], positions: usize) -> Agenda {
    let tokens = rows.iter().map(|row| row.0).sum();
    let mut agenda = Agenda::new(geometry, tokens, rows.len(), positions);
    let room = geometry.records(rows.len(), positions).unwrap();
    agenda.fill(rows.iter().copied());
    let mut first = 0;
    let mut seen: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut pieces = vec![0; agenda.cuts().len()];
    let mut records = Vec::new();
    for work in agenda.works() {
        let span = work.span;
        assert!(span.len * geometry.shared() <= geometry.most_queries());
        assert!(!work.splits.is_empty());
        for token in span.first..span.first + span.len {
            seen.entry(token).or_default().extend(work.splits.clone());
        }
        if let Some(cut) = work.cut {
            pieces[cut] += 1;
            let splits = span.end().div_ceil(SPLIT);
            let each = geometry.parts_len(span.len * geometry.shared());
            let start = agenda.cuts()[cut].records;
            records.push((start, start + each * splits * geometry.kv_heads));
        }
    }
    for &(len, start) in rows {
        for at in 0..len {
            let mut splits = seen.remove(&(first + at)).unwrap();
            splits.sort_unstable();
            let end = (start + at + 1).div_ceil(SPLIT);
            // Tokens of a span see at least all that the token itself sees.
            assert!(splits.len() >= end);
            assert!(splits.iter().copied().eq(0..splits.len()));
        }
        first += len;
    }
    assert!(seen.is_empty());
    let works: Vec<_> = agenda.cuts().iter().map(|cut| cut.works).collect();
    assert_eq!(works, pieces);
    records.sort_unstable();
    records.dedup();
    assert_eq!(records.len(), pieces.len());
    assert!(records.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    assert!(records.last().is_none_or(|last| last.1 <= room));
    agenda
}

fn geometry(heads: usize, kv_heads: usize, threads: usize) -> Geometry {
    Geometry {
        heads,
        kv_heads,
        head_dim: 64,
        tile: 12,
        threads,
    }
}

#[test]
fn one_long_sequence_is_work_for_all_threads() {
    for threads in [2, 8, 64] {
        let geometry = geometry(9, 3, threads);
        let agenda = check(geometry, &[(1, 131_071)], 131_072);
        assert!(agenda.works().len() * 3 >= 2 * threads);
    }
    // Alone, a thread has nobody to share with.
    assert!(
        check(geometry(9, 3, 1), &[(1, 131_071)], 131_072)
            .cuts()
            .is_empty()
    );
}

#[test]
fn the_longest_begin_first() {
    let rows = [(1, 15), (1, 4095), (1, 255), (40, 0), (1, 2000)];
    let agenda = check(geometry(8, 8, 2), &rows, 4096);
    let ends: Vec<_> = agenda.works().iter().map(|work| work.span.row).collect();
    assert_eq!(ends[0], 1);
    assert_eq!(ends.last(), Some(&0));
}

proptest! {
    #[test]
    fn all_that_is_seen_is_in_one_work(
        kv_heads in 1usize..9,
        shared in 1usize..130,
        tile in prop::sample::select(vec![2usize, 6, 12]),
        threads in 1usize..70,
        rows in prop::collection::vec((1usize..600, 0usize..40_000), 1..20),
    ) {
        let geometry = Geometry {
            heads: kv_heads * shared,
            kv_heads,
            head_dim: 16,
            tile,
            threads,
        };
        check(geometry, &rows, 41_000);
    }
}

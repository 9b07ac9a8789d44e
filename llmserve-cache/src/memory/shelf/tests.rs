use llmserve_core::{Event, Request, TokenEvent};

use super::*;
use crate::tests::Random;

fn key(name: u32) -> Arc<Key> {
    Arc::new(Key::new("", &Request::tokens([name])).unwrap())
}

fn answer(text: usize) -> Arc<Answer> {
    Arc::new(Answer::new(vec![Event::Token(TokenEvent {
        index: 0,
        id: 0,
        text: "x".repeat(text),
        logprobs: None,
    })]))
}

fn seconds(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn entry_bytes(text: usize) -> usize {
    key(0).bytes().len() + answer(text).size() + ENTRY_OVERHEAD
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut shelf = Shelf::new(3 * entry_bytes(10), None);
    let mut let_go = Vec::new();
    for name in 0..3 {
        shelf.put(key(name), answer(10), seconds(0), &mut let_go);
    }
    assert!(shelf.get(&key(0), seconds(0), &mut let_go).is_some());
    assert!(let_go.is_empty());
    shelf.put(key(3), answer(10), seconds(0), &mut let_go);
    assert_eq!(let_go.len(), 1);
    assert_eq!(let_go[0].0, key(1));
    assert!(shelf.get(&key(1), seconds(0), &mut let_go).is_none());
    assert_eq!(shelf.stats().bytes, 3 * entry_bytes(10));
    assert_eq!(shelf.stats().evictions, 1);
}

#[test]
fn one_large_entry_displaces_as_many_as_it_needs() {
    let mut shelf = Shelf::new(4 * entry_bytes(10), None);
    let mut let_go = Vec::new();
    for name in 0..4 {
        shelf.put(key(name), answer(10), seconds(0), &mut let_go);
    }
    let large = 10 + entry_bytes(10);
    assert_eq!(entry_bytes(large), 2 * entry_bytes(10));
    shelf.put(key(9), answer(large), seconds(0), &mut let_go);
    assert_eq!(let_go.len(), 2);
    assert_eq!(shelf.stats().entries, 3);
    assert_eq!(shelf.stats().bytes, 4 * entry_bytes(10));
}

#[test]
fn what_never_fits_changes_nothing() {
    let mut shelf = Shelf::new(entry_bytes(10), None);
    let mut let_go = Vec::new();
    shelf.put(key(0), answer(10), seconds(0), &mut let_go);
    shelf.put(key(0), answer(11), seconds(0), &mut let_go);
    shelf.put(key(1), answer(11), seconds(0), &mut let_go);
    assert!(let_go.is_empty());
    let kept = shelf.get(&key(0), seconds(0), &mut let_go).unwrap();
    assert_eq!(kept.size(), answer(10).size());
}

#[test]
fn time_to_live_runs_from_storing_whatever_the_use() {
    let mut shelf = Shelf::new(1 << 20, Some(seconds(10)));
    let mut let_go = Vec::new();
    shelf.put(key(0), answer(1), seconds(0), &mut let_go);
    shelf.put(key(1), answer(1), seconds(5), &mut let_go);
    assert!(shelf.get(&key(0), seconds(9), &mut let_go).is_some());
    assert!(shelf.get(&key(0), seconds(10), &mut let_go).is_none());
    // Stored again, it lives again.
    shelf.put(key(1), answer(1), seconds(14), &mut let_go);
    assert!(shelf.get(&key(1), seconds(23), &mut let_go).is_some());
    assert!(shelf.get(&key(2), seconds(24), &mut let_go).is_none());
    let stats = shelf.stats();
    assert_eq!((stats.entries, stats.bytes), (0, 0));
    assert_eq!((stats.evictions, stats.expirations), (0, 2));
}

#[test]
fn what_is_over_makes_room_before_what_is_not() {
    let mut shelf = Shelf::new(2 * entry_bytes(1), Some(seconds(10)));
    let mut let_go = Vec::new();
    shelf.put(key(0), answer(1), seconds(0), &mut let_go);
    shelf.put(key(1), answer(1), seconds(5), &mut let_go);
    // More recently used, but over by the time of the next put.
    assert!(shelf.get(&key(0), seconds(6), &mut let_go).is_some());
    shelf.put(key(2), answer(1), seconds(10), &mut let_go);
    assert!(shelf.get(&key(1), seconds(10), &mut let_go).is_some());
    assert_eq!(shelf.stats().evictions, 0);
}

#[test]
fn an_endless_time_to_live_is_no_overflow() {
    let mut shelf = Shelf::new(1 << 20, Some(Duration::MAX));
    let mut let_go = Vec::new();
    shelf.put(key(0), answer(1), seconds(1), &mut let_go);
    assert!(shelf.get(&key(0), seconds(1 << 40), &mut let_go).is_some());
}

#[test]
fn equal_hashes_share_nothing() {
    let collide = |name: u32| {
        let key = Key::new("", &Request::tokens([name])).unwrap();
        Arc::new(key.colliding(42))
    };
    let mut shelf = Shelf::new(1 << 20, None);
    let mut let_go = Vec::new();
    shelf.put(collide(0), answer(1), seconds(0), &mut let_go);
    assert!(shelf.get(&collide(1), seconds(0), &mut let_go).is_none());
    shelf.put(collide(1), answer(2), seconds(0), &mut let_go);
    for (name, text) in [(0, 1), (1, 2)] {
        let found = shelf.get(&collide(name), seconds(0), &mut let_go).unwrap();
        assert_eq!(found.size(), answer(text).size());
    }
}

/// A list, the least recently used first.
struct Naive {
    max_bytes: usize,
    ttl: Option<Duration>,
    list: Vec<(u32, usize, Time)>,
    evictions: u64,
    expirations: u64,
}

impl Naive {
    fn sweep(&mut self, now: Time) {
        let Some(ttl) = self.ttl else { return };
        let before = self.list.len();
        self.list.retain(|(_, _, stored)| *stored + ttl > now);
        self.expirations += (before - self.list.len()) as u64;
    }

    fn bytes(&self) -> usize {
        self.list
            .iter()
            .map(|(_, text, _)| entry_bytes(*text))
            .sum()
    }

    fn get(&mut self, name: u32, now: Time) -> Option<usize> {
        self.sweep(now);
        let place = self.list.iter().position(|(other, _, _)| *other == name)?;
        let entry = self.list.remove(place);
        self.list.push(entry);
        Some(entry.1)
    }

    fn put(&mut self, name: u32, text: usize, now: Time) {
        if entry_bytes(text) > self.max_bytes {
            return;
        }
        self.sweep(now);
        self.list.retain(|(other, _, _)| *other != name);
        while self.bytes() + entry_bytes(text) > self.max_bytes {
            self.list.remove(0);
            self.evictions += 1;
        }
        self.list.push((name, text, now));
    }
}

#[test]
fn random_use_does_as_the_list_says() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let max_bytes = entry_bytes(0) * (1 + random.below(8)) + random.below(200);
        let ttl = (random.below(2) == 0).then(|| seconds(1 + random.below(20) as u64));
        let mut shelf = Shelf::new(max_bytes, ttl);
        let mut naive = Naive {
            max_bytes,
            ttl,
            list: Vec::new(),
            evictions: 0,
            expirations: 0,
        };
        let mut now = Time::ZERO;
        for _ in 0..400 {
            now += seconds(random.below(3) as u64);
            let name = random.below(10) as u32;
            let mut let_go = Vec::new();
            if random.below(2) == 0 {
                let found = shelf.get(&key(name), now, &mut let_go);
                let expected = naive.get(name, now).map(|text| answer(text).size());
                assert_eq!(found.map(|found| found.size()), expected, "seed {seed}");
            } else {
                let text = random.below(600);
                shelf.put(key(name), answer(text), now, &mut let_go);
                naive.put(name, text, now);
            }
            let expected = StoreStats {
                entries: naive.list.len(),
                bytes: naive.bytes(),
                evictions: naive.evictions,
                expirations: naive.expirations,
            };
            assert_eq!(shelf.stats(), expected, "seed {seed}");
            assert_eq!(shelf.by_use.len(), shelf.entries.len());
            assert!(shelf.bytes <= max_bytes);
            if ttl.is_some() {
                assert_eq!(shelf.by_expiry.len(), shelf.entries.len());
            }
        }
    }
}

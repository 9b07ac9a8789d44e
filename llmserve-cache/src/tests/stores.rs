//! Stores that are small, slow or broken.

use std::task::Waker;

use llmserve_core::ManualClock;

use super::*;
use crate::{Answer, BuildError, CacheLayer, Key, Lookup, MemoryStore, Store, StoreStats};

#[test]
fn limits_are_checked() {
    let error = MemoryStore::builder().max_bytes(0).build().err();
    assert!(matches!(error, Some(BuildError::MaxBytes { given: 0, .. })));
    let error = MemoryStore::builder().ttl(Duration::ZERO).build().err();
    assert_eq!(error, Some(BuildError::ZeroTtl));
}

#[test]
fn a_small_store_evicts_and_stays_within_its_bytes() {
    let inner = Scripted::new(|request| says(&format!("{:?}", request.prompt)));
    let max_bytes = 8_000;
    let cached = CacheLayer::builder(inner.clone())
        .store(MemoryStore::builder().max_bytes(max_bytes).build().unwrap())
        .build();
    for prompt in 0..100 {
        cached.generate(Request::tokens([prompt])).wait().unwrap();
        assert!(cached.stats().store.bytes <= max_bytes);
    }
    let stats = cached.stats();
    assert!(stats.store.entries > 1);
    assert_eq!(stats.store.evictions, 100 - stats.store.entries as u64);
    // The last is there, the first is not.
    cached.generate(Request::tokens([99])).wait().unwrap();
    cached.generate(Request::tokens([0])).wait().unwrap();
    assert_eq!((cached.stats().hits, inner.calls()), (1, 101));
}

#[test]
fn an_answer_larger_than_the_store_is_passed_and_not_kept() {
    let inner = Scripted::always(says(&"long ".repeat(1_000)));
    let cached = CacheLayer::builder(inner.clone())
        .store(MemoryStore::builder().max_bytes(4_096).build().unwrap())
        .build();
    for _ in 0..2 {
        let answer = cached.generate(Request::text("")).wait().unwrap();
        assert!(answer.text().len() >= 5_000);
    }
    // Nor is one whose prompt alone is.
    let prompt = Request::text("long ".repeat(1_000));
    cached.generate(prompt).wait().unwrap();
    assert_eq!((inner.calls(), cached.stats().stored), (3, 0));
    assert_eq!(cached.stats().store, StoreStats::default());

    // Nor are two halves that only together are too much.
    let inner = Scripted::always(says(&"half ".repeat(400)));
    let cached = CacheLayer::builder(inner)
        .store(MemoryStore::builder().max_bytes(4_096).build().unwrap())
        .build();
    let prompt = Request::text("half ".repeat(400));
    cached.generate(prompt).wait().unwrap();
    assert_eq!(cached.stats().stored, 0);
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!(cached.stats().stored, 1);
}

#[test]
fn the_largest_entry_a_store_admits_does_fit() {
    let store = MemoryStore::builder().max_bytes(4_096).build().unwrap();
    let key = Arc::new(Key::new("", &Request::text("")).unwrap());
    let empty = Answer::new(vec![]).size() + key.bytes().len();
    for (beyond, entries) in [(0, 1), (1, 0)] {
        let text = store.max_entry_size() - empty - size_of::<Event>() + beyond;
        let answer = Answer::new(vec![Event::Token(TokenEvent {
            index: 0,
            id: 0,
            text: "x".repeat(text),
            logprobs: None,
        })]);
        let store = MemoryStore::builder().max_bytes(4_096).build().unwrap();
        store.put(key.clone(), Arc::new(answer));
        assert_eq!(store.stats().entries, entries);
    }
}

#[test]
fn answers_are_forgotten_after_their_time() {
    let clock = Arc::new(ManualClock::default());
    let inner = Scripted::always(says("a"));
    let store = MemoryStore::builder()
        .ttl(Duration::from_secs(60))
        .clock(clock.clone())
        .build()
        .unwrap();
    let cached = CacheLayer::builder(inner.clone()).store(store).build();
    for (seconds, calls) in [(0, 1), (30, 1), (29, 1), (1, 2), (59, 2), (1, 3)] {
        clock.advance(Duration::from_secs(seconds));
        cached.generate(Request::text("")).wait().unwrap();
        assert_eq!(inner.calls(), calls);
    }
    assert_eq!(cached.stats().store.expirations, 2);
}

/// Panics wherever it is told to.
struct Broken {
    get: bool,
    put: bool,
    size: bool,
    later: bool,
}

impl Store for Broken {
    fn get(&self, _: &Arc<Key>) -> Lookup {
        assert!(!self.get, "get, on purpose");
        if self.later {
            return Lookup::Pending(Box::pin(async { panic!("lookup, on purpose") }));
        }
        Lookup::Ready(None)
    }
    fn put(&self, _: Arc<Key>, _: Arc<Answer>) {
        assert!(!self.put, "put, on purpose");
    }
    fn max_entry_size(&self) -> usize {
        assert!(!self.size, "size, on purpose");
        usize::MAX
    }
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}

#[test]
fn a_broken_store_is_a_miss() {
    for part in 0..4 {
        let broken = Broken {
            get: part == 0,
            put: part == 1,
            size: part == 2,
            later: part == 3,
        };
        let cached = CacheLayer::builder(Scripted::always(says("fine")))
            .store(broken)
            .build();
        for _ in 0..2 {
            let answer = cached.generate(Request::text("")).wait().unwrap();
            assert_eq!(answer.text(), "fineheld back");
        }
        let stats = cached.stats();
        assert_eq!((stats.misses, stats.store_failures), (2, 2), "part {part}");
    }
}

/// A store that answers only when told to.
#[derive(Default)]
struct Slow {
    kept: Mutex<Vec<(Arc<Key>, Arc<Answer>)>>,
    gate: Arc<Mutex<Gate>>,
}

#[derive(Default)]
struct Gate {
    open: bool,
    wakers: Vec<Waker>,
}

impl Slow {
    fn open(&self) {
        let mut gate = self.gate.lock();
        gate.open = true;
        gate.wakers.drain(..).for_each(Waker::wake);
    }
}

struct Wait(Arc<Mutex<Gate>>, Option<Arc<Answer>>);

impl Future for Wait {
    type Output = Option<Arc<Answer>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let gate = self.0.clone();
        let mut gate = gate.lock();
        if gate.open {
            return Poll::Ready(self.1.take());
        }
        gate.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl Store for Slow {
    fn get(&self, key: &Arc<Key>) -> Lookup {
        let kept = self.kept.lock();
        let found = kept.iter().find(|(k, _)| k == key).map(|(_, a)| a.clone());
        Lookup::Pending(Box::pin(Wait(self.gate.clone(), found)))
    }
    fn put(&self, key: Arc<Key>, answer: Arc<Answer>) {
        self.kept.lock().push((key, answer));
    }
    fn max_entry_size(&self) -> usize {
        usize::MAX
    }
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}

#[test]
fn a_slow_store_is_waited_for_in_the_stream() {
    let clock = Arc::new(ManualClock::default());
    let inner = Scripted::always(says("a"));
    let store = Arc::new(Slow::default());
    let cached = CacheLayer::builder(inner.clone())
        .store(store.clone())
        .clock(clock.clone())
        .build();
    let mut request = Request::text("");
    request.deadline = Some(Duration::from_millis(100));
    let mut stream = cached.generate(request);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut stream).poll_next(&mut cx).is_pending());
    assert_eq!((inner.calls(), cached.stats().misses), (0, 0));
    clock.advance(Duration::from_millis(40));
    store.open();
    let miss = stream.wait().unwrap();
    // The wait is taken off the deadline and added to the timings.
    let left = inner.seen.lock()[0].deadline;
    assert_eq!(left, Some(Duration::from_millis(60)));
    assert_eq!(miss.choices[0].timings.latency, Duration::from_millis(70));
    let hit = cached.generate(Request::text("")).wait().unwrap();
    assert_eq!(hit.text(), miss.text());
    let stats = cached.stats();
    assert_eq!((stats.hits, stats.misses, stats.stored), (1, 1, 1));
}

#[test]
fn a_slow_lookup_wakes_its_reader_and_may_be_dropped() {
    let inner = Scripted::always(says("a"));
    let store = Arc::new(Slow::default());
    let cached = CacheLayer::builder(inner.clone())
        .store(store.clone())
        .build();
    let mut cx = Context::from_waker(Waker::noop());
    let mut dropped = cached.generate(Request::text(""));
    assert!(Pin::new(&mut dropped).poll_next(&mut cx).is_pending());
    drop(dropped);
    let stream = cached.generate(Request::text(""));
    let reader = std::thread::spawn(move || stream.wait());
    while store.gate.lock().wakers.len() < 2 {
        std::thread::yield_now();
    }
    store.open();
    assert_eq!(reader.join().unwrap().unwrap().text(), "aheld back");
    assert_eq!((inner.calls(), cached.stats().misses), (1, 1));
}

#[test]
fn a_lookup_that_panics_when_dropped_takes_nobody_along() {
    struct Grenade;
    impl Future for Grenade {
        type Output = Option<Arc<Answer>>;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(None)
        }
    }
    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("drop, on purpose");
        }
    }
    struct Armed;
    impl Store for Armed {
        fn get(&self, _: &Arc<Key>) -> Lookup {
            Lookup::Pending(Box::pin(Grenade))
        }
        fn put(&self, _: Arc<Key>, _: Arc<Answer>) {}
        fn max_entry_size(&self) -> usize {
            0
        }
        fn stats(&self) -> StoreStats {
            StoreStats::default()
        }
    }
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::builder(inner.clone()).store(Armed).build();
    drop(cached.generate(Request::text("")));
    assert_eq!((inner.calls(), cached.stats().store_failures), (0, 1));
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!((inner.calls(), cached.stats().store_failures), (1, 2));
}

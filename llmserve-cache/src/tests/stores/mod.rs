//! Stores that are small, slow or broken.

mod tiered;

use std::sync::LazyLock;
use std::task::Waker;

use llmserve_core::{ManualClock, TextEvent};

use super::*;
use crate::{
    Answer, BuildError, CacheLayer, Entry, Epochs, Key, Lookup, MemoryStore, Scope, Stamp, Store,
    StoreStats, Tiered,
};

#[test]
fn limits_are_checked() {
    let error = MemoryStore::builder().max_bytes(0).build().err();
    assert!(matches!(error, Some(BuildError::MaxBytes { given: 0, .. })));
    let layer = || CacheLayer::builder(Scripted::always(vec![]));
    let error = layer().ttl(Duration::ZERO).build().err();
    assert_eq!(error, Some(BuildError::Ttl(Duration::ZERO)));
    for share in [1.0, -0.1, f64::NAN] {
        let error = layer().ttl_jitter(share).build().err();
        assert!(matches!(error, Some(BuildError::TtlJitter(_))));
    }
}

#[test]
fn a_small_store_evicts_and_stays_within_its_bytes() {
    let inner = Scripted::new(|request| says(&format!("{:?}", request.prompt)));
    let max_bytes = 8_000;
    let cached = CacheLayer::builder(inner.clone())
        .store(MemoryStore::builder().max_bytes(max_bytes).build().unwrap())
        .build()
        .unwrap();
    for prompt in 0..100 {
        cached.generate(Request::tokens([prompt])).wait().unwrap();
        assert!(cached.stats().store.bytes <= max_bytes);
    }
    let stats = cached.stats();
    assert!(stats.store.entries > 1);
    assert_eq!(stats.store.evictions, 100 - stats.store.entries as u64);
}

#[test]
fn a_scan_does_not_flush_what_is_asked_for_often() {
    let inner = Scripted::new(|request| says(&format!("{:?}", request.prompt)));
    let cached = CacheLayer::builder(inner.clone())
        .store(MemoryStore::builder().max_bytes(8_000).build().unwrap())
        .build()
        .unwrap();
    let often = || cached.generate(Request::text("often")).wait().unwrap();
    let scan = |prompts: std::ops::Range<u32>| {
        for prompt in prompts {
            cached.generate(Request::tokens([prompt])).wait().unwrap();
            cached.stats();
        }
    };
    // While there is room, nobody counts.
    scan(0..100);
    (0..20).for_each(|_| drop(often()));
    let before = inner.calls();
    for round in 1..20 {
        scan(round * 100..round * 100 + 50);
        often();
    }
    assert_eq!(inner.calls() - before, 19 * 50);
}

#[test]
fn an_answer_larger_than_the_store_is_passed_and_not_kept() {
    let inner = Scripted::always(says(&"long ".repeat(1_000)));
    let cached = CacheLayer::builder(inner.clone())
        .store(MemoryStore::builder().max_bytes(4_096).build().unwrap())
        .build()
        .unwrap();
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
        .build()
        .unwrap();
    let prompt = Request::text("half ".repeat(400));
    cached.generate(prompt).wait().unwrap();
    assert_eq!(cached.stats().stored, 0);
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!(cached.stats().stored, 1);
}

#[test]
fn the_largest_entry_a_store_admits_does_fit() {
    let entry = |text: usize| {
        let key = Arc::new(Key::new("", &Request::text("")).unwrap());
        let answer = Answer::new(&[Event::Text(TextEvent {
            index: 0,
            text: "x".repeat(text),
        })]);
        Entry::new(key, answer.unwrap(), Stamp::default())
    };
    for (beyond, entries) in [(0, 1), (1, 0)] {
        let store = MemoryStore::builder().max_bytes(4_096).build().unwrap();
        // The length of a text of some thousand bytes takes as many bytes as that of any other.
        let text = store.max_entry_size() - (entry(1_000).size() - 1_000) + beyond;
        let entry = entry(text);
        assert_eq!(entry.size(), store.max_entry_size() + beyond);
        store.put(entry);
        assert_eq!(store.stats().entries, entries);
    }
}

#[test]
fn answers_are_forgotten_after_their_time() {
    let clock = Arc::new(ManualClock::default());
    let inner = Scripted::always(says("a"));
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let cached = CacheLayer::builder(inner.clone())
        .store(store)
        .ttl(Duration::from_secs(60))
        .ttl_jitter(0.0)
        .build()
        .unwrap();
    for (seconds, calls) in [(0, 1), (30, 1), (29, 1), (1, 2), (59, 2), (1, 3)] {
        clock.advance(Duration::from_secs(seconds));
        cached.generate(Request::text("")).wait().unwrap();
        assert_eq!(inner.calls(), calls);
    }
    assert_eq!(cached.stats().store.expirations, 2);
}

#[test]
fn what_is_stored_together_does_not_end_together() {
    let clock = Arc::new(ManualClock::default());
    let inner = Scripted::always(says("a"));
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let cached = CacheLayer::builder(inner.clone())
        .store(store)
        .ttl(Duration::from_secs(1_000))
        .ttl_jitter(0.2)
        .build()
        .unwrap();
    let run = || {
        let before = inner.calls();
        for prompt in 0..200 {
            cached.generate(Request::tokens([prompt])).wait().unwrap();
        }
        inner.calls() - before
    };
    assert_eq!(run(), 200);
    clock.advance(Duration::from_secs(799));
    assert_eq!(run(), 0, "none before its least time");
    clock.advance(Duration::from_secs(101));
    let half = run();
    assert!((60..140).contains(&half), "{half} of 200 ended half way");
    clock.advance(Duration::from_secs(101));
    assert_eq!(run(), 200 - half, "all after the longest");
}

#[test]
fn what_was_invalidated_is_a_miss_though_it_was_under_way() {
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::builder(inner.clone())
        .tags(|request| vec![format!("{}", request.max_tokens.unwrap_or(0))])
        .build()
        .unwrap();
    let ask = |tenant: &str, model: &str, tag: usize| {
        let request = Request::text("")
            .tenant(tenant)
            .model(model)
            .max_tokens(tag);
        let before = inner.calls();
        cached.generate(request).wait().unwrap();
        inner.calls() - before
    };
    let ask_all = || {
        let mut runs = Vec::new();
        for tenant in ["a", "b"] {
            for model in ["m", "n"] {
                runs.extend([1, 2].map(|tag| ask(tenant, model, tag)));
            }
        }
        runs
    };
    assert_eq!(ask_all(), [1; 8]);
    assert_eq!(ask_all(), [0; 8]);
    cached.invalidate(&Scope::tenant("b"));
    assert_eq!(ask_all(), [0, 0, 0, 0, 1, 1, 1, 1]);
    cached.invalidate(&Scope::model("n"));
    assert_eq!(ask_all(), [0, 0, 1, 1, 0, 0, 1, 1]);
    cached.invalidate(&Scope::tag("2"));
    assert_eq!(ask_all(), [0, 1, 0, 1, 0, 1, 0, 1]);
    cached.invalidate(&Scope::All);
    assert_eq!(ask_all(), [1; 8]);
    assert_eq!(cached.stats().stale, 4 + 4 + 4 + 8);
    cached.forget(&Request::text("").tenant("a").model("m").max_tokens(1));
    assert_eq!(ask_all(), [1, 0, 0, 0, 0, 0, 0, 0]);

    // Begun before, it is old though stored after; who asks after does not even listen to it.
    let before = cached.generate(Request::text("new"));
    cached.invalidate(&Scope::All);
    let after = cached.generate(Request::text("new"));
    let calls = inner.calls();
    before.wait().unwrap();
    cached.generate(Request::text("new")).wait().unwrap();
    after.wait().unwrap();
    cached.generate(Request::text("new")).wait().unwrap();
    assert_eq!(inner.calls(), calls);
    assert_eq!(cached.stats().joined, 1);
}

#[test]
fn layers_that_share_a_store_share_epochs() {
    let store = Arc::new(MemoryStore::default());
    let inner = Scripted::always(says("a"));
    let layers = [(); 2].map(|()| {
        let layer = CacheLayer::builder(inner.clone()).store(store.clone());
        layer.build().unwrap()
    });
    layers[0].generate(Request::text("")).wait().unwrap();
    layers[1].generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 1);
    layers[1].invalidate(&Scope::All);
    layers[0].generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 2);
}

/// For stores that nothing is invalidated in.
fn epochs() -> &'static Arc<Epochs> {
    static EPOCHS: LazyLock<Arc<Epochs>> = LazyLock::new(Arc::default);
    &EPOCHS
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
    fn put(&self, _: Entry) {
        assert!(!self.put, "put, on purpose");
    }
    fn remove(&self, _: &Arc<Key>) {}
    fn epochs(&self) -> &Arc<Epochs> {
        epochs()
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
            .build()
            .unwrap();
        for _ in 0..2 {
            let answer = cached.generate(Request::text("")).wait().unwrap();
            assert_eq!(answer.text(), "fineheld back");
        }
        let stats = cached.stats();
        // The store is asked once more when a run is about to start.
        let failures = if part == 0 { 4 } else { 2 };
        assert_eq!(
            (stats.misses, stats.store_failures),
            (2, failures),
            "part {part}"
        );
    }
}

/// A store that answers only when told to.
#[derive(Default)]
struct Slow {
    kept: Mutex<Vec<Entry>>,
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

struct Wait(Arc<Mutex<Gate>>, Option<Entry>);

impl Future for Wait {
    type Output = Option<Entry>;

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
        let found = kept.iter().find(|entry| entry.key == *key).cloned();
        Lookup::Pending(Box::pin(Wait(self.gate.clone(), found)))
    }
    fn put(&self, entry: Entry) {
        self.kept.lock().push(entry);
    }
    fn remove(&self, key: &Arc<Key>) {
        self.kept.lock().retain(|entry| entry.key != *key);
    }
    fn epochs(&self) -> &Arc<Epochs> {
        epochs()
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
        .build()
        .unwrap();
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
        .build()
        .unwrap();
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
        type Output = Option<Entry>;
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
        fn put(&self, _: Entry) {}
        fn remove(&self, _: &Arc<Key>) {}
        fn epochs(&self) -> &Arc<Epochs> {
            epochs()
        }
        fn max_entry_size(&self) -> usize {
            0
        }
        fn stats(&self) -> StoreStats {
            StoreStats::default()
        }
    }
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::builder(inner.clone())
        .store(Armed)
        .build()
        .unwrap();
    drop(cached.generate(Request::text("")));
    assert_eq!((inner.calls(), cached.stats().store_failures), (0, 1));
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!((inner.calls(), cached.stats().store_failures), (1, 2));
}

#[test]
fn tags_are_a_set() {
    let inner = Scripted::always(says("a"));
    let turn = AtomicUsize::new(0);
    let cached = CacheLayer::builder(inner.clone())
        .tags(move |_| match turn.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => vec!["a".to_owned(), "b".to_owned()],
            _ => vec!["b".to_owned(), "a".to_owned(), "b".to_owned()],
        })
        .build()
        .unwrap();
    for _ in 0..4 {
        cached.generate(Request::text("")).wait().unwrap();
    }
    assert_eq!(inner.calls(), 1);
    cached.invalidate(&Scope::tag("a"));
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 2);
}

#[test]
fn keys_that_share_a_hash_share_nothing_else() {
    let store = MemoryStore::default();
    let keys = [1, 2].map(|id| {
        let key = Key::new("", &Request::tokens([id])).unwrap();
        Arc::new(key.colliding(7))
    });
    let answer = |text: &str| {
        let text = text.to_owned();
        Answer::new(&[Event::Text(TextEvent { index: 0, text })]).unwrap()
    };
    let put = |key: &Arc<Key>, text| {
        store.put(Entry::new(key.clone(), answer(text), Stamp::default()));
    };
    let get = |key: &Arc<Key>| match store.get(key) {
        Lookup::Ready(found) => found.map(|entry| entry.answer),
        Lookup::Pending(_) => panic!("memory takes no time"),
    };
    put(&keys[0], "one");
    assert_eq!(get(&keys[1]), None);
    put(&keys[1], "two");
    assert_eq!(get(&keys[0]), Some(answer("one")));
    assert_eq!(get(&keys[1]), Some(answer("two")));
    store.remove(&keys[0]);
    assert_eq!(get(&keys[0]), None);
    assert_eq!(get(&keys[1]), Some(answer("two")));
}

#[test]
fn what_was_forgotten_does_not_come_back_from_a_store_that_takes_time_to_forget() {
    /// Removes later than anybody asks again.
    struct Lazy(MemoryStore);
    impl Store for Lazy {
        fn get(&self, key: &Arc<Key>) -> Lookup {
            self.0.get(key)
        }
        fn put(&self, entry: Entry) {
            // The first is written at once; whatever comes later still waits.
            if matches!(self.0.get(&entry.key), Lookup::Ready(None)) {
                self.0.put(entry);
            }
        }
        fn remove(&self, _: &Arc<Key>) {}
        fn epochs(&self) -> &Arc<Epochs> {
            self.0.epochs()
        }
        fn max_entry_size(&self) -> usize {
            self.0.max_entry_size()
        }
        fn stats(&self) -> StoreStats {
            self.0.stats()
        }
    }
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::builder(inner.clone())
        .store(Tiered::new(
            MemoryStore::default(),
            Lazy(MemoryStore::default()),
        ))
        .build()
        .unwrap();
    cached.generate(Request::text("")).wait().unwrap();
    cached.forget(&Request::text(""));
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 2);
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 2);
}

#[test]
fn the_longest_time_to_live_is_one() {
    for jitter in [0.0, 0.5] {
        let cached = CacheLayer::builder(Scripted::always(says("a"))).ttl(Duration::MAX);
        let cached = cached.ttl_jitter(jitter).build().unwrap();
        for _ in 0..2 {
            cached.generate(Request::text("")).wait().unwrap();
        }
        assert_eq!(cached.stats().hits, 1);
    }
}

#[test]
fn numbers_at_their_ends_break_no_store() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::builder()
        .max_bytes(usize::MAX)
        .clock(clock.clone());
    let store = store.build().unwrap();
    let key = |id: u32| Arc::new(Key::new("", &Request::tokens([id])).unwrap());
    let put = |id, age, ttl| {
        let mut entry = Entry::new(key(id), Answer::new(&[]).unwrap(), Stamp::default()).ttl(ttl);
        entry.age = age;
        store.put(entry);
    };
    let get = |id| match store.get(&key(id)) {
        Lookup::Ready(found) => found.map(|entry| (entry.age, entry.ttl)),
        Lookup::Pending(_) => panic!("memory takes no time"),
    };
    put(1, Duration::MAX, Some(Duration::MAX));
    put(2, Duration::ZERO, Some(Duration::ZERO));
    clock.advance(Duration::from_secs(1));
    let left = Duration::MAX - Duration::from_secs(1);
    assert_eq!(get(1), Some((Duration::MAX, Some(left))));
    assert_eq!(get(2), None, "over before it began");
    let mut most = StoreStats::default();
    (most.entries, most.failures) = (usize::MAX, u64::MAX);
    assert_eq!((most + most).failures, u64::MAX);

    // Larger than the store: nothing is kept, and nothing else goes for it.
    let small = MemoryStore::builder().max_bytes(2_000).build().unwrap();
    small.put(Entry::new(
        key(1),
        Answer::new(&[]).unwrap(),
        Stamp::default(),
    ));
    let text = "x".repeat(100_000);
    let giant = Answer::new(&[llmserve_core::Event::Text(TextEvent { index: 0, text })]);
    small.put(Entry::new(key(2), giant.unwrap(), Stamp::default()));
    assert_eq!(small.stats().entries, 1);
    assert!(matches!(small.get(&key(1)), Lookup::Ready(Some(_))));
    assert!(small.stats().bytes <= 2_000);
}

//! What is kept, what is not, and what a hit looks like.

use std::panic::{AssertUnwindSafe, catch_unwind};

use llmserve_core::ManualClock;

use super::*;
use crate::{CacheLayer, MemoryStore, Store};

#[test]
fn a_hit_is_the_same_answer_event_for_event() {
    let steps = vec![
        started(),
        token(1, "b"),
        Step::Yield,
        token(0, "a"),
        finished(1, FinishReason::StopToken(9)),
        token(0, "a"),
        Step::Yield,
        finished(0, FinishReason::StopString("x".into())),
    ];
    let inner = Scripted::always(steps);
    let cached = CacheLayer::new(inner.clone());
    let request = Request::text("").n(2);
    let first = events(cached.generate(request.clone()));
    let second = events(cached.generate(request.clone()));
    let third = events(cached.generate(request));
    assert_eq!(first.len(), 6);
    assert_eq!(timeless(first.clone()), timeless(second));
    assert_eq!(timeless(first), timeless(third));
    assert_eq!(inner.calls(), 1);
    let stats = cached.stats();
    assert_eq!((stats.hits, stats.misses, stats.stored), (2, 1, 1));
    assert_eq!(stats.store.entries, 1);
}

#[test]
fn a_hits_timings_are_its_own() {
    /// Takes a millisecond to look.
    struct Slow(MemoryStore, Arc<ManualClock>);
    impl Store for Slow {
        fn get(&self, key: &Arc<crate::Key>) -> crate::Lookup {
            self.1.advance(Duration::from_millis(1));
            self.0.get(key)
        }
        fn put(&self, key: Arc<crate::Key>, answer: Arc<crate::Answer>) {
            self.0.put(key, answer);
        }
        fn max_entry_size(&self) -> usize {
            self.0.max_entry_size()
        }
        fn stats(&self) -> crate::StoreStats {
            self.0.stats()
        }
    }
    let clock = Arc::new(ManualClock::default());
    let cached = CacheLayer::builder(Scripted::always(says("a")))
        .store(Slow(MemoryStore::default(), clock.clone()))
        .clock(clock.clone())
        .build();
    let miss = cached.generate(Request::text("")).wait().unwrap();
    assert_eq!(miss.choices[0].timings.latency, Duration::from_millis(30));
    let stream = cached.generate(Request::text(""));
    // A reader's leisure is not the hit's.
    clock.advance(Duration::from_secs(9));
    let hit = stream.wait().unwrap();
    let found = Duration::from_millis(1);
    assert_eq!(
        hit.choices[0].timings,
        Timings {
            queue: found,
            time_to_first_token: found,
            latency: found
        }
    );
    assert_eq!(hit.choices[0].usage, miss.choices[0].usage);
}

#[test]
fn every_end_of_its_own_is_kept() {
    for reason in [
        FinishReason::Eos(1),
        FinishReason::StopToken(1),
        FinishReason::StopString("x".into()),
        FinishReason::Length,
    ] {
        let inner = Scripted::always(vec![started(), finished(0, reason)]);
        let cached = CacheLayer::new(inner.clone());
        for _ in 0..2 {
            cached.generate(Request::text("")).wait().unwrap();
        }
        assert_eq!(inner.calls(), 1);
    }
}

#[test]
fn what_is_not_a_whole_and_sound_answer_is_not_kept() {
    let end = |index| finished(index, FinishReason::Eos(2));
    let cases: Vec<(&str, usize, Vec<Step>)> = vec![
        (
            "deadline",
            1,
            vec![started(), finished(0, FinishReason::Deadline)],
        ),
        (
            "one of two by deadline",
            2,
            vec![started(), end(0), finished(1, FinishReason::Deadline)],
        ),
        ("error at once", 1, vec![Step::Fail(Error::ShutDown)]),
        (
            "error later",
            1,
            vec![started(), token(0, "a"), Step::Fail(Error::Cancelled)],
        ),
        (
            "error after the end",
            1,
            vec![started(), end(0), Step::Fail(Error::ShutDown)],
        ),
        ("nothing", 1, vec![]),
        ("nothing of no choice", 0, vec![]),
        ("unfinished", 1, vec![started(), token(0, "a")]),
        ("one of two", 2, vec![started(), end(0)]),
        ("three of two", 2, vec![started(), end(0), end(1), end(2)]),
        ("wrong choice", 1, vec![started(), end(1)]),
        ("never started", 1, vec![token(0, "a"), end(0)]),
        ("only finished", 1, vec![end(0)]),
        ("started twice", 1, vec![started(), started(), end(0)]),
        ("finished twice", 1, vec![started(), end(0), end(0)]),
        (
            "token after the end",
            1,
            vec![started(), end(0), token(0, "a")],
        ),
    ];
    for (name, n, steps) in cases {
        let inner = Scripted::always(steps);
        let cached = CacheLayer::new(inner.clone());
        let request = Request::text("").n(n);
        let first: Vec<_> = cached.generate(request.clone()).into_iter().collect();
        let second: Vec<_> = cached.generate(request.clone()).into_iter().collect();
        // Passed on as it came, both times.
        assert_eq!(first, second, "{name}");
        let bare: Vec<_> = inner.generate(request).into_iter().collect();
        assert_eq!(first, bare, "{name}");
        let stats = cached.stats();
        assert_eq!((stats.misses, stats.stored), (2, 0), "{name}");
        assert_eq!(stats.store.bytes, 0, "{name}");
    }
}

#[test]
fn a_dropped_stream_stores_nothing_and_cancels() {
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::new(inner.clone());
    for read in 0..=3 {
        let mut stream = cached.generate(Request::text(""));
        assert_eq!((&mut stream).into_iter().take(read).count(), read);
        assert_eq!(inner.live.load(Ordering::SeqCst), 1);
        drop(stream);
        assert_eq!(inner.live.load(Ordering::SeqCst), 0);
        assert_eq!(cached.stats().stored, 0);
    }
    // Read to the end, though then kept: stored, and the inner stream is gone.
    let mut stream = cached.generate(Request::text(""));
    assert_eq!((&mut stream).into_iter().count(), 3);
    assert_eq!(inner.live.load(Ordering::SeqCst), 0);
    assert_eq!(cached.stats().stored, 1);
    // A hit dropped in the middle leaves the entry.
    assert_eq!(
        cached
            .generate(Request::text(""))
            .into_iter()
            .take(1)
            .count(),
        1
    );
    assert_eq!(events(cached.generate(Request::text(""))).len(), 3);
    assert_eq!(inner.calls(), 5);
}

#[test]
fn an_inner_panic_leaves_no_holed_recording() {
    let inner = Scripted::always(vec![
        started(),
        Step::Panic,
        token(0, "after"),
        finished(0, FinishReason::Length),
    ]);
    let cached = CacheLayer::new(inner);
    let mut stream = cached.generate(Request::text(""));
    assert!(stream.blocking_next().is_some());
    let panicked = catch_unwind(AssertUnwindSafe(|| stream.blocking_next()));
    assert!(panicked.is_err());
    // Somebody goes on reading all the same.
    assert_eq!(stream.into_iter().count(), 2);
    assert_eq!(cached.stats().stored, 0);
}

#[test]
fn chance_and_processors_pass_untouched() {
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::new(inner.clone());
    let request = Request::text("").temperature(0.7);
    for _ in 0..2 {
        let mut request = request.clone();
        request.deadline = Some(Duration::from_secs(1));
        cached.generate(request).wait().unwrap();
    }
    assert_eq!(inner.calls(), 2);
    let stats = cached.stats();
    assert_eq!((stats.hits, stats.misses, stats.bypassed), (0, 0, 2));
    for _ in 0..2 {
        cached.generate(request.clone().seed(1)).wait().unwrap();
    }
    assert_eq!(inner.calls(), 3);
}

#[test]
fn tenants_models_and_namespaces_never_share() {
    let inner = Scripted::new(|request| says(&format!("{:?} {:?}", request.tenant, request.model)));
    let store = Arc::new(MemoryStore::default());
    let layers = ["one", "two"].map(|namespace| {
        CacheLayer::builder(inner.clone())
            .store(store.clone())
            .namespace(namespace)
            .build()
    });
    let requests = [
        Request::text("same"),
        Request::text("same").tenant("a"),
        Request::text("same").tenant("b"),
        Request::text("same").model("a"),
        Request::text("same").model("b").tenant("a"),
    ];
    for _ in 0..2 {
        for layer in &layers {
            for request in &requests {
                let bare = inner.author.as_ref()(request);
                let Step::Emit(Event::Token(token)) = &bare[2] else {
                    panic!("the third step is the token");
                };
                let answer = layer.generate(request.clone()).wait().unwrap();
                assert!(answer.text().starts_with(&token.text));
            }
        }
    }
    assert_eq!(inner.calls(), layers.len() * requests.len());
    assert_eq!(store.stats().entries, layers.len() * requests.len());
}

#[test]
fn the_inner_service_gets_the_whole_request() {
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::new(inner.clone());
    let mut request = Request::text("p").id("7").tenant("t").stop("x").priority(2);
    request.deadline = Some(Duration::from_secs(5));
    cached.generate(request.clone()).wait().unwrap();
    let seen = inner.seen.lock();
    assert_eq!(format!("{:?}", seen[0]), format!("{request:?}"));
    assert_eq!(seen[0].prompt, request.prompt);
    assert_eq!(seen[0].deadline, request.deadline);
    assert_eq!(
        (&seen[0].tenant, &seen[0].stop),
        (&request.tenant, &request.stop)
    );
}

#[test]
fn a_miss_reaches_the_inner_service_in_generate() {
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::new(inner.clone());
    let stream = cached.generate(Request::text(""));
    assert_eq!(inner.calls(), 1);
    drop(stream);
}

#[test]
fn equal_requests_together_all_run_and_leave_one_entry() {
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::new(inner.clone());
    let streams: Vec<_> = (0..3).map(|_| cached.generate(Request::text(""))).collect();
    for stream in streams {
        stream.wait().unwrap();
    }
    assert_eq!(inner.calls(), 3);
    let stats = cached.stats();
    assert_eq!((stats.stored, stats.store.entries), (3, 1));
    assert_eq!((stats.store.evictions, stats.hits), (0, 0));
}

#[test]
fn layers_nest() {
    let inner = Scripted::always(says("a"));
    let far = CacheLayer::new(inner.clone());
    let near = CacheLayer::builder(far.clone())
        .store(MemoryStore::builder().max_bytes(300).build().unwrap())
        .build();
    for _ in 0..3 {
        near.generate(Request::text("")).wait().unwrap();
    }
    // Too small to hold it, the near one always asks the far one.
    assert_eq!((near.stats().hits, near.stats().stored), (0, 0));
    assert_eq!((far.stats().hits, inner.calls()), (2, 1));
}

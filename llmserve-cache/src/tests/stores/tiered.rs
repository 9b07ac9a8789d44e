//! One store before another.

use super::*;

#[test]
fn what_is_found_far_is_kept_near_for_the_rest_of_its_time() {
    let clock = Arc::new(ManualClock::default());
    let store = || {
        let store = MemoryStore::builder().clock(clock.clone());
        Arc::new(store.build().unwrap())
    };
    let (near, far, elsewhere) = (store(), store(), store());
    let inner = Scripted::always(says("a"));
    let layer = |near: &Arc<MemoryStore>| {
        CacheLayer::builder(inner.clone())
            .store(Tiered::new(near.clone(), far.clone()))
            .ttl(Duration::from_secs(100))
            .ttl_jitter(0.0)
            .build()
            .unwrap()
    };
    let (here, there) = (layer(&near), layer(&elsewhere));
    there.generate(Request::text("")).wait().unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!(near.stats().entries, 0);
    here.generate(Request::text("")).wait().unwrap();
    assert_eq!((inner.calls(), near.stats().entries), (1, 1));
    far.remove(&Arc::new(Key::new("", &Request::text("")).unwrap()));
    clock.advance(Duration::from_secs(39));
    here.generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 1, "kept near");
    clock.advance(Duration::from_secs(1));
    here.generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 2, "no longer than it had left");
    // Whoever invalidates, it holds for all that share the far store.
    there.invalidate(&Scope::All);
    here.generate(Request::text("")).wait().unwrap();
    assert_eq!(inner.calls(), 3);
}

#[test]
fn a_slow_far_store_is_waited_for_and_kept_near() {
    let near = Arc::new(MemoryStore::default());
    let far = Arc::new(Slow::default());
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::builder(inner.clone())
        .store(Tiered::new(near.clone(), far.clone()))
        .build()
        .unwrap();
    far.open();
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!((far.kept.lock().len(), near.stats().entries), (1, 1));
    near.remove(&far.kept.lock()[0].key);
    cached.generate(Request::text("")).wait().unwrap();
    assert_eq!((inner.calls(), near.stats().entries), (1, 1));
}

#[test]
fn a_lookup_under_way_does_not_bring_back_what_is_forgotten() {
    let near = Arc::new(MemoryStore::default());
    let far = Arc::new(Slow::default());
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::builder(inner.clone())
        .store(Tiered::new(near.clone(), far.clone()))
        .build()
        .unwrap();
    far.open();
    cached.generate(Request::text("")).wait().unwrap();
    near.remove(&far.kept.lock()[0].key);
    far.gate.lock().open = false;
    let mut late = cached.generate(Request::text(""));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut late).poll_next(&mut cx).is_pending());
    cached.forget(&Request::text(""));
    far.open();
    late.wait().unwrap();
    assert_eq!(inner.calls(), 2, "what it found is not given out");
}

#[test]
fn a_near_store_that_panics_loses_nothing_that_is_far() {
    for part in 0..4 {
        let near = Broken {
            get: part == 0,
            put: part == 1,
            size: part == 2,
            later: part == 3,
        };
        let far = Arc::new(MemoryStore::default());
        let inner = Scripted::always(says("a"));
        let cached = CacheLayer::builder(inner.clone())
            .store(Tiered::new(near, far.clone()))
            .build()
            .unwrap();
        for _ in 0..3 {
            cached.generate(Request::text("")).wait().unwrap();
        }
        assert_eq!((inner.calls(), far.stats().entries), (1, 1), "part {part}");
        let stats = cached.stats();
        assert_eq!(stats.store_failures, 0);
        assert!(stats.store.failures > 0);
    }
}

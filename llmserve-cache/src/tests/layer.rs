//! What is kept, what is not, and what a hit looks like.

use llmserve_core::ManualClock;

use super::*;
use crate::{CacheLayer, Entry, Epochs, MemoryStore, Policy, Source, Store};

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
        fn put(&self, entry: Entry) {
            self.0.put(entry);
        }
        fn remove(&self, key: &Arc<crate::Key>) {
            self.0.remove(key);
        }
        fn epochs(&self) -> &Arc<Epochs> {
            self.0.epochs()
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
        .build()
        .unwrap();
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
fn every_end_of_its_own_is_kept_and_others_when_asked() {
    let other = |name: &str| FinishReason::Other(name.into());
    let loose = Policy::default().truncated(true).tool_calls(true);
    for (reason, kept, kept_if_asked) in [
        (FinishReason::Eos(1), true, true),
        (FinishReason::StopToken(1), true, true),
        (FinishReason::StopString("x".into()), true, true),
        (FinishReason::Complete, true, true),
        (FinishReason::Stop, true, true),
        (FinishReason::Length, false, true),
        (other("tool_calls"), false, true),
        (other("content_filter"), false, false),
        (FinishReason::Deadline, false, false),
    ] {
        for (policy, kept) in [(Policy::default(), kept), (loose.clone(), kept_if_asked)] {
            let inner = Scripted::always(vec![started(), finished(0, reason.clone())]);
            let cached = CacheLayer::builder(inner.clone()).policy(policy);
            let cached = cached.build().unwrap();
            for _ in 0..2 {
                cached.generate(Request::text("")).wait().unwrap();
            }
            assert_eq!(inner.calls(), 2 - usize::from(kept), "{reason:?}");
        }
    }
}

#[test]
fn the_policy_says_who_takes_part() {
    let inner = Scripted::always(says("a"));
    let policy = Policy::default()
        .sampled(true)
        .only(|request| request.max_tokens.expect("or panics") < 10);
    let cached = CacheLayer::builder(inner.clone()).policy(policy);
    let cached = cached.build().unwrap();
    let hot = Request::text("").temperature(1.0);
    for (request, calls) in [
        (hot.clone().max_tokens(9), 1),
        (hot.clone().max_tokens(10), 2),
        (hot, 2),
    ] {
        let before = inner.calls();
        for _ in 0..2 {
            cached.generate(request.clone()).wait().unwrap();
        }
        assert_eq!(inner.calls() - before, calls);
    }
}

#[test]
fn where_an_answer_comes_from_is_told() {
    let clock = Arc::new(ManualClock::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let recorder = Arc::new(llmserve_core::MemoryRecorder::default());
    let cached = CacheLayer::builder(Scripted::always(says("a")))
        .store(store)
        .recorder(recorder.clone())
        .on_answer(move |id, source| {
            heard.lock().push((id.map(str::to_owned), source));
            panic!("on purpose");
        })
        .build()
        .unwrap();
    let ask = |id: &str, temperature: f32| {
        cached.generate_traced(Request::text("").id(id).temperature(temperature))
    };
    let (first, model) = ask("1", 0.0);
    let (second, joined) = ask("2", 0.0);
    assert_eq!(joined.source(), None);
    first.wait().unwrap();
    second.wait().unwrap();
    clock.advance(Duration::from_secs(7));
    let (third, exact) = ask("3", 0.0);
    let age = Duration::from_secs(7);
    assert_eq!(exact.source(), Some(Source::Exact { age }));
    third.wait().unwrap();
    let (_, bypassed) = ask("4", 1.0);
    assert_eq!(model.source(), Some(Source::Model));
    assert_eq!(joined.source(), Some(Source::Joined));
    assert_eq!(bypassed.source(), Some(Source::Bypassed));
    let sources = ["model", "joined", "exact", "bypassed"];
    for (place, (id, source)) in told.lock().iter().enumerate() {
        assert_eq!(id.as_deref(), Some(&*(place + 1).to_string()));
        assert_eq!(source.as_str(), sources[place]);
    }
    let stats = cached.stats();
    assert_eq!(
        (stats.hits, stats.joined, stats.misses, stats.bypassed),
        (1, 1, 1, 1)
    );
    assert_eq!(
        (stats.saved_tokens, stats.saved_time),
        (2, Duration::from_millis(60))
    );
    let text = recorder.render();
    for line in [
        "llmserve_cache_hits_total{level=\"exact\"} 1\n",
        "llmserve_cache_hits_total{level=\"joined\"} 1\n",
        "llmserve_cache_hit_ratio{level=\"exact\"} 0.5\n",
        "llmserve_cache_saved_tokens_total 2\n",
        "llmserve_cache_saved_seconds 0.06\n",
        "llmserve_cache_age_seconds_sum{level=\"exact\"} 7\n",
        "llmserve_cache_entries 1\n",
        "llmserve_cache_bypassed_total 1\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
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
fn an_inner_panic_is_an_error_and_is_not_kept() {
    struct Throws;
    impl Generate for Throws {
        fn generate(&self, _: Request) -> EventStream {
            panic!("generate, on purpose");
        }
    }
    let later = Scripted::always(vec![started(), Step::Panic, token(0, "after")]);
    for (inner, before) in [(Arc::new(Throws) as Arc<dyn Generate>, 0), (later, 1)] {
        let cached = CacheLayer::new(inner);
        for _ in 0..2 {
            let mut stream = cached.generate(Request::text(""));
            assert_eq!((&mut stream).into_iter().take(before).count(), before);
            let error = stream.blocking_next().unwrap().unwrap_err();
            assert!(matches!(error, Error::Panicked { .. }), "{error}");
            assert!(stream.blocking_next().is_none());
        }
        assert_eq!((cached.stats().stored, cached.stats().running), (0, 0));
    }
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
            .unwrap()
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
fn layers_nest() {
    let inner = Scripted::always(says("a"));
    let far = CacheLayer::new(inner.clone());
    let near = CacheLayer::builder(far.clone())
        .store(MemoryStore::builder().max_bytes(300).build().unwrap())
        .build()
        .unwrap();
    for _ in 0..3 {
        near.generate(Request::text("")).wait().unwrap();
    }
    // Too small to hold it, the near one always asks the far one.
    assert_eq!((near.stats().hits, near.stats().stored), (0, 0));
    assert_eq!((far.stats().hits, inner.calls()), (2, 1));
}

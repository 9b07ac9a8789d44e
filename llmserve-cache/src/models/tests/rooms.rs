//! Who is in memory, and who goes for whom.

use llmserve_core::ManualClock;

use super::*;

#[test]
fn idle_models_go_when_their_room_is_needed() {
    let scene = scene(&[("a", 4), ("b", 4), ("c", 4), ("huge", 11)]);
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .preload_popular(None)
        // All loads take as long.
        .clock(Arc::new(ManualClock::default()))
        .build()
        .unwrap();
    for name in ["a", "a", "a", "b", "c", "a", "b"] {
        answers(&models, name);
    }
    // a was asked for more often, so b went for c, and c for b.
    assert_eq!(scene.loads(), ["a", "b", "c", "b"]);
    assert_eq!(models.stats().evictions, 2);
    assert!(scene.bytes.lock().1 <= 10);
    // What can never fit is refused at once, and nobody goes for it.
    for _ in 0..2 {
        let huge = models.generate(ask("huge")).wait().unwrap_err();
        let text =
            "model \"huge\" cannot be loaded: it takes 11 bytes, there are 10: raise the budget";
        assert_eq!(huge.to_string(), text);
    }
    assert_eq!(models.stats().bytes, 8);
    ends(models, &scene);
}

#[test]
fn a_model_in_use_stays_whoever_waits() {
    let scene = scene(&[("a", 6), ("b", 6), ("c", 1)]);
    let clock = Arc::new(ManualClock::default());
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .clock(clock.clone())
        .patience(Duration::from_secs(1))
        .build()
        .unwrap();
    let mut using = models.generate(held("a"));
    read_some(&mut using);
    let waits = models.generate(ask("b"));
    // In order: c would fit, but b was first.
    let behind = models.generate(ask("c"));
    eventually("both wait", || models.stats().waiting == 2);
    // As long as b has patience, others still get a.
    answers(&models, "a");
    clock.advance(Duration::from_secs(1));
    eventually("a closes", || {
        state(&models, "a") == Some(ModelState::Closing)
    });
    // Then they have to wait behind it.
    let again = models.generate(ask("a"));
    eventually("three wait", || models.stats().waiting == 3);
    assert_eq!(scene.loads(), ["a"]);
    drop(using);
    assert_eq!(waits.wait().unwrap().text(), "b");
    assert_eq!(behind.wait().unwrap().text(), "c");
    assert_eq!(again.wait().unwrap().text(), "a");
    assert_eq!(scene.loads(), ["a", "b", "c", "a"]);
    assert!(scene.bytes.lock().1 <= 10);
    ends(models, &scene);
}

#[test]
fn a_model_closes_for_nobody_once_who_waited_has_gone() {
    let scene = scene(&[("a", 6), ("b", 6)]);
    let builder = ModelCache::builder(Scripts(scene.clone()), 10);
    let models = builder.patience(Duration::ZERO).build().unwrap();
    let mut using = models.generate(held("a"));
    read_some(&mut using);
    let waits = models.generate(ask("b"));
    eventually("a closes", || {
        state(&models, "a") == Some(ModelState::Closing)
    });
    let again = models.generate(ask("a"));
    assert_eq!(models.stats().waiting, 2);
    drop(waits);
    assert_eq!(again.wait().unwrap().text(), "a");
    assert_eq!(scene.loads(), ["a"]);
    drop(using);
    ends(models, &scene);
}

#[test]
fn a_use_ends_with_the_answer_and_not_with_its_stream() {
    let scene = scene(&[("a", 1), ("b", 1)]);
    let models = ModelCache::builder(Scripts(scene.clone()), 1)
        .build()
        .unwrap();
    // Read to its last event, past which nobody reads.
    let mut stream = models.generate(ask("a"));
    for _ in 0..3 {
        assert!(stream.blocking_next().is_some());
    }
    answers(&models, "b");
    assert!(stream.blocking_next().is_none());
    drop(stream);
    // The service says that it is done, and the stream is not read at all.
    struct Ready;
    impl Generate for Ready {
        fn generate(&self, request: Request) -> EventStream {
            request.on_end.iter().for_each(|ended| ended());
            EventStream::ready([Ok(started()), Ok(text("ready")), Ok(finished())])
        }
    }
    struct Readies;
    impl Loader for Readies {
        fn names(&self) -> Vec<String> {
            vec!["a".into(), "b".into()]
        }
        fn estimate(&self, _: &str) -> Result<u64, Error> {
            Ok(1)
        }
        fn load(&self, _: &str, _: &Arc<LoadProgress>) -> Result<Loaded, Error> {
            Ok(Loaded::new(Ready, 1))
        }
    }
    let readies = ModelCache::builder(Readies, 1).build().unwrap();
    let unread = readies.generate(ask("a"));
    eventually("a is there", || {
        state(&readies, "a") == Some(ModelState::Loaded)
    });
    assert_eq!(readies.generate(ask("b")).wait().unwrap().text(), "ready");
    assert_eq!(unread.wait().unwrap().text(), "ready");
    ends(models, &scene);
}

#[test]
fn a_model_is_not_unloaded_under_its_caller() {
    /// Says that it is done, and takes its time to return.
    struct Slow(Arc<AtomicUsize>);
    impl Generate for Slow {
        fn generate(&self, request: Request) -> EventStream {
            request.on_end.iter().for_each(|ended| ended());
            thread::sleep(Duration::from_millis(30));
            EventStream::ready([Ok(started()), Ok(finished())])
        }
    }
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    struct Slows(Arc<AtomicUsize>);
    impl Loader for Slows {
        fn names(&self) -> Vec<String> {
            vec!["a".into(), "b".into()]
        }
        fn estimate(&self, _: &str) -> Result<u64, Error> {
            Ok(1)
        }
        fn load(&self, _: &str, _: &Arc<LoadProgress>) -> Result<Loaded, Error> {
            assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
            Ok(Loaded::new(Slow(self.0.clone()), 1))
        }
    }
    let models = ModelCache::builder(Slows(Arc::default()), 1)
        .build()
        .unwrap();
    assert!(models.generate(ask("a")).wait().is_ok());
    let caller = thread::spawn({
        let models = models.clone();
        move || models.generate(ask("a")).wait()
    });
    eventually("a is called", || models.stats().hits == 1);
    assert!(models.generate(ask("b")).wait().is_ok());
    assert!(caller.join().unwrap().is_ok());
}

#[test]
fn what_a_model_really_takes_is_what_counts() {
    // b takes twice what it said, c more than there is.
    let scene = measured(&[("a", 4, 4), ("b", 3, 6), ("c", 1, 11)]);
    let models = ModelCache::builder(Scripts(scene.clone()), 8)
        .build()
        .unwrap();
    answers(&models, "a");
    // Nobody else is in the way once a is idle.
    answers(&models, "b");
    assert_eq!(models.stats().model("b").unwrap().bytes, Some(6));
    assert_ne!(state(&models, "a"), Some(ModelState::Loaded));
    eventually("a is gone", || models.stats().bytes == 6);
    let too_large = models.generate(ask("c")).wait().unwrap_err();
    assert!(
        too_large.to_string().contains("it takes 11 bytes"),
        "{too_large}"
    );
    eventually("c is gone", || models.stats().bytes <= 8);
    let loads = scene.loads().len();
    assert!(models.generate(ask("c")).wait().is_err());
    assert_eq!(scene.loads().len(), loads, "it is known by now");
    ends(models, &scene);
}

#[test]
fn a_newcomer_that_is_too_large_goes_rather_than_who_is_in_use() {
    let scene = measured(&[("a", 4, 4), ("b", 3, 6)]);
    let clock = Arc::new(ManualClock::default());
    let builder = ModelCache::builder(Scripts(scene.clone()), 8).clock(clock.clone());
    let models = builder.build().unwrap();
    let mut using = models.generate(held("a"));
    read_some(&mut using);
    let waits = models.generate(ask("b"));
    eventually("b came, and went", || {
        scene.loads().len() == 2 && models.stats().bytes == 4 && models.stats().waiting == 1
    });
    assert_eq!(state(&models, "a"), Some(ModelState::Loaded));
    drop(using);
    assert_eq!(waits.wait().unwrap().text(), "b");
    assert_eq!(scene.loads(), ["a", "b", "b"]);
    ends(models, &scene);
}

#[test]
fn pins_stay_and_come_by_themselves() {
    let scene = scene(&[("a", 4), ("b", 4), ("c", 8)]);
    let builder = ModelCache::builder(Scripts(scene.clone()), 8);
    let models = builder.pin("a").preload_popular(None).build().unwrap();
    eventually("a is there", || {
        state(&models, "a") == Some(ModelState::Loaded)
    });
    answers(&models, "b");
    let refused = models.generate(ask("c")).wait().unwrap_err();
    assert!(
        refused.to_string().contains("4 of 8 are pinned"),
        "{refused}"
    );
    models.unpin("a");
    answers(&models, "c");
    assert_eq!(scene.loads(), ["a", "b", "c"]);
    // A pin makes room.
    models.pin("a").unwrap();
    eventually("a is there", || {
        state(&models, "a") == Some(ModelState::Loaded)
    });
    assert!(models.stats().model("a").unwrap().pinned);
    ends(models, &scene);
}

#[test]
fn popular_models_come_back_into_room_that_nobody_wants() {
    let scene = scene(&[("a", 4), ("b", 9), ("c", 2), ("d", 5)]);
    let clock = Arc::new(ManualClock::default());
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .clock(clock.clone())
        .preload_popular(3.0)
        .half_life(Duration::from_secs(60))
        .preload("c")
        .build()
        .unwrap();
    eventually("c is there", || {
        state(&models, "c") == Some(ModelState::Loaded)
    });
    for _ in 0..4 {
        answers(&models, "a");
    }
    // For b both go; with d in its place there is room for a again, and none for c as well.
    answers(&models, "b");
    assert_eq!(scene.loads(), ["c", "a", "b"]);
    answers(&models, "d");
    eventually("a is back", || {
        state(&models, "a") == Some(ModelState::Loaded)
    });
    assert_eq!(scene.loads(), ["c", "a", "b", "d", "a"]);
    // What was popular long ago is not.
    answers(&models, "b");
    clock.advance(Duration::from_secs(600));
    answers(&models, "d");
    answers(&models, "d");
    assert_eq!(scene.loads(), ["c", "a", "b", "d", "a", "b", "d"]);
    ends(models, &scene);
}

#[test]
fn what_loads_on_suspicion_makes_way() {
    let scene = scene(&[("a", 6), ("b", 6)]).gated();
    let builder = ModelCache::builder(Scripts(scene.clone()), 10);
    let models = builder.preload("a").build().unwrap();
    eventually("a loads", || scene.loads().len() == 1);
    // Its room is needed, so it is cancelled.
    let asked = models.generate(ask("b"));
    eventually("b loads", || scene.loads().len() == 2);
    scene.pass();
    assert_eq!(asked.wait().unwrap().text(), "b");
    assert_eq!(scene.loads(), ["a", "b"]);
    assert_eq!(models.stats().failures, 0);
    ends(models, &scene);
}

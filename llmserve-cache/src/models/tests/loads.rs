//! One load for all who ask, and what becomes of loads that fail.

use std::sync::OnceLock;

use llmserve_core::{Counter, Gauge, Histogram, ManualClock, MemoryRecorder, Recorder};

use super::*;
use crate::models::ModelCacheError;

#[test]
fn all_who_ask_while_it_loads_share_one_load() {
    let scene = scene(&[("a", 1)]).gated();
    let recorder = Arc::new(MemoryRecorder::default());
    let builder = ModelCache::builder(Scripts(scene.clone()), 10);
    let models = builder.recorder(recorder.clone()).build().unwrap();
    let mut streams: Vec<_> = (0..100).map(|_| models.generate(ask("a"))).collect();
    eventually("the load begins", || scene.loads().len() == 1);
    let stats = models.stats();
    let loading = stats.model("a").unwrap();
    let half = ModelState::Loading {
        progress: Some(0.5),
    };
    assert_eq!((loading.state, loading.waiting), (half, 100));
    // Who goes away stops nobody, not even the first.
    drop(streams.drain(..30));
    let also = thread::spawn({
        let models = models.clone();
        move || answers(&models, "a")
    });
    eventually("the other waits", || models.stats().waiting == 71);
    scene.pass();
    for stream in streams {
        assert_eq!(stream.wait().unwrap().text(), "a");
    }
    also.join().unwrap();
    answers(&models, "a");
    assert_eq!(scene.loads(), ["a"]);
    let stats = models.stats();
    assert_eq!((stats.waits, stats.gave_up, stats.hits), (101, 30, 1));
    assert_eq!((stats.loads, stats.bytes, stats.waiting), (1, 1, 0));
    let asked = recorder.value("llmserve_model_cache_requests_total");
    assert_eq!(asked, Some(102.0));
    ends(models, &scene);
    eventually("the keeper has told", || {
        recorder.value("llmserve_model_cache_loads_total") == Some(1.0)
            && recorder.value("llmserve_model_cache_bytes") == Some(0.0)
    });
    assert_eq!(
        recorder.value("llmserve_model_cache_load_seconds"),
        Some(1.0)
    );
}

#[test]
fn a_recorder_may_ask_the_cache() {
    /// Every observation asks for the cache's own figures.
    #[derive(Clone, Default)]
    struct Curious(Arc<OnceLock<ModelCache>>, Arc<Mutex<usize>>);
    impl Curious {
        fn look(&self) {
            if let Some(models) = self.0.get() {
                *self.1.lock() += models.stats().models.len();
            }
        }
    }
    impl Counter for Curious {
        fn add(&self, _: u64) {
            self.look();
        }
    }
    impl Gauge for Curious {
        fn set(&self, _: f64) {
            self.look();
        }
    }
    impl Histogram for Curious {
        fn record(&self, _: f64) {
            self.look();
        }
    }
    impl Recorder for Curious {
        fn counter(
            &self,
            _: &'static str,
            _: &'static str,
            _: &[(&str, &str)],
        ) -> Arc<dyn Counter> {
            Arc::new(self.clone())
        }
        fn gauge(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Gauge> {
            Arc::new(self.clone())
        }
        fn histogram(
            &self,
            _: &'static str,
            _: &'static str,
            _: &'static [f64],
            _: &[(&str, &str)],
        ) -> Arc<dyn Histogram> {
            Arc::new(self.clone())
        }
    }

    let scene = scene(&[("a", 1), ("b", 1)]);
    let recorder = Curious::default();
    let builder = ModelCache::builder(Scripts(scene.clone()), 1);
    let models = builder
        .recorder(Arc::new(recorder.clone()))
        .build()
        .unwrap();
    assert!(recorder.0.set(models.clone()).is_ok());
    let (over, end) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for name in ["a", "b", "a", "a"] {
            answers(&models, name);
        }
        models.shutdown();
        over.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(60))
        .expect("nobody waits for themselves");
    assert!(*recorder.1.lock() > 0);
}

#[test]
fn a_load_that_nobody_waits_for_any_more_is_not_begun() {
    let scene = scene(&[("a", 1), ("b", 1)]).gated();
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .build()
        .unwrap();
    let a = models.generate(ask("a"));
    eventually("a loads", || scene.loads().len() == 1);
    drop(models.generate(ask("b")));
    scene.pass();
    assert!(a.wait().is_ok());
    answers(&models, "a");
    assert_eq!(scene.loads(), ["a"]);
    ends(models, &scene);
}

#[test]
fn models_are_named_and_known() {
    let scene = scene(&[("a", 1), ("b", 1)]);
    let builder = || ModelCache::builder(Scripts(scene.clone()), 10);
    let models = builder().build().unwrap();
    let unknown = models.generate(ask("c")).wait().unwrap_err();
    assert_eq!(unknown.to_string(), "unknown model \"c\"; known: a, b");
    let nameless = models.generate(Request::text("Hi")).wait().unwrap_err();
    assert!(
        matches!(&nameless, Error::InvalidRequest { field: "model", reason } if reason.contains("a, b"))
    );
    assert!(matches!(models.pin("c"), Err(Error::UnknownModel { .. })));
    assert!(matches!(
        models.preload("c"),
        Err(Error::UnknownModel { .. })
    ));
    assert_eq!(models.stats().models, []);
    ends(models, &scene);
    let models = builder().default_model("b").build().unwrap();
    let answer = models.generate(Request::text("Hi")).wait().unwrap();
    assert_eq!(answer.text(), "b");
    ends(models, &scene);
    for wrong in [
        builder().default_model("c").build(),
        builder().pin("c").build(),
        builder().preload("c").build(),
    ] {
        let unknown = ModelCacheError::Model(unknown.clone());
        assert_eq!(wrong.unwrap_err().to_string(), unknown.to_string());
    }
    let zero = ModelCache::builder(Scripts(scene.clone()), 0).build();
    assert!(matches!(zero, Err(ModelCacheError::NoBudget)));
    assert!(matches!(
        builder().loads(0).build(),
        Err(ModelCacheError::NoLoads)
    ));
    let never = builder().half_life(Duration::ZERO).build();
    assert!(matches!(never, Err(ModelCacheError::NoHalfLife)));
}

#[test]
fn failures_are_told_remembered_and_tried_again_later_and_later() {
    let scene = scene(&[("a", 1), ("b", 1)]);
    let clock = Arc::new(ManualClock::default());
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .clock(clock.clone())
        .retry(Duration::from_secs(1), Duration::from_secs(3))
        .build()
        .unwrap();
    let fails = |after| Error::LoadFailed {
        model: "a".into(),
        reason: "its disk is gone".into(),
        retry_after: after,
    };
    let mut loads = 0;
    for wait in [1, 2, 3, 3] {
        let wait = Duration::from_secs(wait);
        scene.fault(Fault::Fail(fails(None)));
        let asked = models.generate(ask("a")).wait().unwrap_err();
        assert_eq!(asked, fails(Some(wait)));
        loads += 1;
        // Not again before its time, and no other suffers.
        clock.advance(wait - Duration::from_millis(1));
        let soon = models.generate(ask("a")).wait().unwrap_err();
        assert_eq!(soon, fails(Some(Duration::from_millis(1))));
        assert_eq!(soon.retry_after(), Some(Duration::from_millis(1)));
        answers(&models, "b");
        assert_eq!(
            scene.loads().iter().filter(|name| *name == "a").count(),
            loads
        );
        clock.advance(Duration::from_millis(1));
    }
    answers(&models, "a");
    assert_eq!(models.stats().failures, 4);
    // A success forgets them.
    assert_eq!(models.stats().refused, 4);
    ends(models, &scene);
}

#[test]
fn a_loader_that_panics_is_an_error_of_its_own_requests() {
    let scene = scene(&[("a", 1), ("b", 1)]);
    let clock = Arc::new(ManualClock::default());
    let builder = ModelCache::builder(Scripts(scene.clone()), 10);
    let models = builder.clock(clock.clone()).build().unwrap();
    scene.fault(Fault::Panic);
    let panicked = models.generate(ask("a")).wait().unwrap_err();
    let expected = Error::Panicked {
        part: "loader",
        message: "load, on purpose".into(),
    };
    assert_eq!(panicked, expected);
    answers(&models, "b");
    clock.advance(Duration::from_secs(1));
    answers(&models, "a");
    ends(models, &scene);
}

#[test]
fn a_model_that_panics_when_asked_is_an_error_and_not_in_use() {
    let scene = scene(&[("a", 1), ("b", 1)]);
    let models = ModelCache::builder(Scripts(scene.clone()), 1)
        .build()
        .unwrap();
    let panics = || models.generate(Request::text("panic").model("a"));
    // Asked by the keeper, and by the host.
    for _ in 0..2 {
        let panicked = panics().wait();
        assert!(matches!(
            panicked,
            Err(Error::Panicked {
                part: "service",
                ..
            })
        ));
    }
    // It can go.
    answers(&models, "b");
    ends(models, &scene);
}

#[test]
fn who_waits_too_long_is_told_and_too_many_are_refused() {
    let scene = scene(&[("a", 1)]).gated();
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .max_waiting(2)
        .max_wait(Duration::from_millis(40))
        .build()
        .unwrap();
    let first = models.generate(ask("a").deadline(Duration::from_millis(5)));
    let second = models.generate(ask("a"));
    let third = models.generate(ask("a")).wait().unwrap_err();
    assert!(
        matches!(
            third,
            Error::Overloaded {
                waiting: 2,
                limit: 2,
                ..
            }
        ),
        "{third}"
    );
    let timed_out = |limit| Error::TimedOut {
        what: "loaded model",
        limit: Duration::from_millis(limit),
    };
    assert_eq!(first.wait(), Err(timed_out(5)));
    assert_eq!(second.wait(), Err(timed_out(40)));
    eventually("the load begins", || scene.loads().len() == 1);
    // The load goes on, for whoever comes next.
    scene.pass();
    eventually("a is loaded", || {
        state(&models, "a") == Some(ModelState::Loaded)
    });
    answers(&models, "a");
    assert_eq!(scene.loads(), ["a"]);
    ends(models, &scene);
}

#[test]
fn waiting_counts_for_deadlines_and_timings() {
    struct Clocked(Arc<ManualClock>);
    impl Loader for Clocked {
        fn names(&self) -> Vec<String> {
            vec!["a".into()]
        }
        fn estimate(&self, _: &str) -> Result<u64, Error> {
            Ok(1)
        }
        fn load(&self, _: &str, _: &Arc<LoadProgress>) -> Result<Loaded, Error> {
            self.0.advance(Duration::from_secs(3));
            Ok(Loaded::new(Deadline, 1))
        }
    }
    /// Answers with what is left of the deadline.
    struct Deadline;
    impl Generate for Deadline {
        fn generate(&self, request: Request) -> EventStream {
            let left = request.deadline.unwrap().as_secs().to_string();
            EventStream::ready([Ok(started()), Ok(text(&left)), Ok(finished())])
        }
    }
    let clock = Arc::new(ManualClock::default());
    let builder = ModelCache::builder(Clocked(clock.clone()), 1).clock(clock);
    let models = builder.build().unwrap();
    let request = || ask("a").deadline(Duration::from_secs(10));
    let waited = models.generate(request()).wait().unwrap();
    assert_eq!(waited.text(), "7");
    assert_eq!(waited.choices[0].timings.latency, Duration::from_secs(3));
    let hit = models.generate(request()).wait().unwrap();
    assert_eq!(hit.text(), "10");
    assert_eq!(hit.choices[0].timings.latency, Duration::ZERO);
    assert_eq!(
        models.stats().model("a").unwrap().load_time,
        Some(Duration::from_secs(3))
    );
}

//! How caches come to an end.

use std::sync::Weak;

use super::*;

/// The threads end when nothing holds the loader any more.
#[track_caller]
fn threads_end(scene: &Arc<Scene>, also: usize) {
    eventually("the threads end", || Arc::strong_count(scene) == 1 + also);
}

#[test]
fn the_last_handle_lets_what_was_accepted_finish() {
    let scene = scene(&[("a", 6), ("b", 6)]).gated();
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .build()
        .unwrap();
    let clone = models.clone();
    let mut using = models.generate(held("a"));
    let waits = models.generate(ask("b"));
    drop(models);
    scene.pass();
    read_some(&mut using);
    drop(clone);
    // Accepted before the end.
    drop(using);
    scene.pass();
    assert_eq!(waits.wait().unwrap().text(), "b");
    threads_end(&scene, 0);
    assert_eq!(scene.live.load(Ordering::SeqCst), 0);
}

#[test]
fn an_idle_cache_ends_at_once() {
    let scene = scene(&[("a", 6)]);
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .build()
        .unwrap();
    drop(models);
    threads_end(&scene, 0);
}

#[test]
fn shutdown_ends_everything_and_waits_for_it() {
    let scene = scene(&[("a", 4), ("b", 4), ("c", 4)]).gated();
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .build()
        .unwrap();
    scene.pass();
    let mut using = models.generate(held("a"));
    read_some(&mut using);
    let loading = models.generate(ask("b"));
    eventually("b loads", || scene.loads().len() == 2);
    let waiting = models.generate(ask("c"));
    models.shutdown();
    assert_eq!(scene.live.load(Ordering::SeqCst), 0);
    assert_eq!(loading.wait().unwrap_err(), Error::ShutDown);
    assert_eq!(waiting.wait().unwrap_err(), Error::ShutDown);
    assert_eq!(
        models.generate(ask("a")).wait().unwrap_err(),
        Error::ShutDown
    );
    assert_eq!(models.pin("a"), Err(Error::ShutDown));
    assert_eq!(models.stats().bytes, 0);
    // Twice is once.
    models.shutdown();
    drop((using, models));
    threads_end(&scene, 0);
}

#[test]
fn a_drop_that_panics_is_a_model_that_has_gone() {
    struct Stubborn;
    impl Generate for Stubborn {
        fn generate(&self, _: Request) -> EventStream {
            EventStream::ready([Ok(started()), Ok(finished())])
        }
    }
    impl Drop for Stubborn {
        fn drop(&mut self) {
            panic!("drop, on purpose");
        }
    }
    struct Loads(#[allow(dead_code)] Arc<()>);
    impl Loader for Loads {
        fn names(&self) -> Vec<String> {
            vec!["a".into(), "b".into()]
        }
        fn estimate(&self, _: &str) -> Result<u64, Error> {
            Ok(1)
        }
        fn load(&self, _: &str, _: &Arc<LoadProgress>) -> Result<Loaded, Error> {
            Ok(Loaded::new(Stubborn, 1))
        }
    }
    let held = Arc::new(());
    let weak: Weak<()> = Arc::downgrade(&held);
    let models = ModelCache::builder(Loads(held), 1).build().unwrap();
    for name in ["a", "b", "a"] {
        assert!(models.generate(ask(name)).wait().is_ok());
    }
    drop(models);
    eventually("the threads end", || weak.strong_count() == 0);
}

#[test]
fn a_recorder_that_panics_stops_no_model() {
    for at_once in [false, true] {
        let scene = scene(&[("a", 60), ("b", 60)]);
        let models = ModelCache::builder(Scripts(scene.clone()), 100)
            .recorder(Arc::new(crate::tests::hostile::Broken { at_once }))
            .build()
            .unwrap();
        for name in ["a", "b", "b", "a"] {
            let answer = models.generate(ask(name)).wait();
            assert_eq!(answer.unwrap().text(), name);
        }
        assert!(models.generate(ask("?")).wait().is_err());
        assert_eq!(models.stats().loads, 3);
        models.shutdown();
    }
}

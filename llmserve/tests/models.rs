//! A cache of models before real engines: two that do not fit together take turns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use llmserve::cache::models::{ModelCache, ModelState};
use llmserve::prelude::*;
use llmserve::{Folders, LoadProgress, Loader, Serve, TokenId};

const MODELS: [&str; 2] = ["bard-2m", "bard-draft"];

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models")
}

/// Small enough for several to be loaded and unloaded many times.
fn small(serve: Serve) -> Serve {
    serve
        .kv_bytes(4 << 20)
        .max_num_seqs(8)
        .max_batched_tokens(128)
        .threads(2)
}

fn folders() -> Folders {
    let folders = Folders::new().models_in(dir()).unwrap();
    folders.options(|_, serve| small(serve))
}

fn request(number: usize) -> Request {
    Request::text(format!("ACT {number}\n\nHAMLET\t")).max_tokens(12)
}

/// What each model answers to each of the first requests, from an engine of its own; and what the
/// engine takes.
fn references() -> BTreeMap<&'static str, (Vec<Vec<TokenId>>, u64)> {
    let reference = |name| {
        let engine = small(serve(dir().join(name))).build().unwrap();
        let answers = (0..4).map(|number| engine.generate(request(number)).wait().unwrap());
        let answers = answers.map(|answer| answer.ids().to_vec()).collect();
        engine.drain();
        (name, (answers, engine.stats().memory_bytes))
    };
    MODELS.map(reference).into()
}

/// Threads of this process that belong to an engine.
#[cfg(target_os = "linux")]
fn engine_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let comm = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks
        .filter_map(comm)
        .filter(|name| name.trim() == "llmserve-engine")
        .count()
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

// One test, as it counts the process's threads.
#[test]
fn two_engines_take_turns_in_the_memory_of_one() {
    let references = references();
    let (larger, sum) = references.values().fold((0, 0), |(most, sum), (_, bytes)| {
        ((*bytes).max(most), sum + bytes)
    });
    let budget = larger + (sum - larger) / 2;
    let models = ModelCache::builder(folders(), budget)
        .preload_popular(None)
        .patience(Duration::from_millis(1))
        .build()
        .unwrap();

    // In turn: each goes for the other, comes back, and says what it said.
    for round in 0..3 {
        for name in MODELS {
            let (answers, bytes) = &references[name];
            let answer = models.generate(request(round).model(name)).wait().unwrap();
            assert_eq!(answer.ids(), answers[round], "{name}, round {round}");
            let stats = models.stats();
            let model = stats.model(name).unwrap();
            assert_eq!(model.state, ModelState::Loaded);
            // Measured, and all there is.
            assert_eq!((model.bytes, stats.bytes), (Some(*bytes), *bytes));
            assert!(stats.bytes <= budget);
            #[cfg(target_os = "linux")]
            assert_eq!(engine_threads(), 1);
        }
    }
    let stats = models.stats();
    assert_eq!((stats.loads, stats.evictions, stats.failures), (6, 5, 0));

    // At once: nobody is cut off, and everybody has the answer of the model asked for.
    thread::scope(|scope| {
        for seat in 0..4 {
            let (models, references) = (&models, &references);
            scope.spawn(move || {
                for number in 0..4 {
                    let name = MODELS[(seat + number) % 2];
                    let answer = models.generate(request(number).model(name)).wait().unwrap();
                    assert_eq!(answer.ids(), references[name].0[number], "{name}");
                }
            });
        }
    });
    let stats = models.stats();
    assert!(stats.bytes <= budget && stats.waiting == 0, "{stats:?}");

    // An answer that nobody has read keeps no model, as the engine says when it is done.
    let unread = models.generate(request(0).model(MODELS[0]));
    let other = models.generate(request(1).model(MODELS[1])).wait().unwrap();
    assert_eq!(other.ids(), references[MODELS[1]].0[1]);
    assert_eq!(unread.wait().unwrap().ids(), references[MODELS[0]].0[0]);

    models.shutdown();
    assert_eq!(models.stats().bytes, 0);
    #[cfg(target_os = "linux")]
    eventually("the engines' threads end", || engine_threads() == 0);

    refuses_and_cancels();
}

fn refuses_and_cancels() {
    let folders = folders()
        .model("nowhere", dir().join("nowhere"))
        .model("readme", dir().join("README.md"));
    assert_eq!(
        folders.names(),
        ["bard-2m", "bard-draft", "nowhere", "readme"]
    );
    assert!(folders.knows("bard-2m") && !folders.knows("bard"));
    for name in ["nowhere", "readme"] {
        let error = folders.estimate(name).unwrap_err();
        assert!(matches!(&error, Error::LoadFailed { model, .. } if model == name));
        let progress = Arc::new(LoadProgress::default());
        assert_eq!(folders.load(name, &progress).unwrap_err(), error);
    }
    let unknown = folders.estimate("bard").unwrap_err();
    assert!(matches!(unknown, Error::UnknownModel { .. }), "{unknown}");

    // What is known beforehand is all but the buffers.
    let progress = Arc::new(LoadProgress::default());
    let estimate = folders.estimate("bard-2m").unwrap();
    let loaded = folders.load("bard-2m", &progress).unwrap();
    assert_eq!(progress.fraction(), Some(1.0));
    assert!(estimate <= loaded.bytes, "{estimate}, {}", loaded.bytes);
    assert!(loaded.bytes < 2 * estimate, "{estimate}, {}", loaded.bytes);
    drop(loaded);
    progress.cancel();
    let cancelled = folders.load("bard-2m", &progress).unwrap_err();
    assert_eq!(cancelled, Error::Cancelled);
    eventually("nothing is left", || Arc::strong_count(&progress) == 1);
}

//! Many threads, more models than room.

use super::*;
use crate::tests::Random;

/// Whether an error is one that a load was told to fail with, or the memory of one.
#[track_caller]
fn on_purpose(name: &str, error: &Error) {
    let known = match error {
        Error::Panicked { part, .. } => *part == "loader",
        Error::LoadFailed { model, .. } => model == name,
        Error::Cancelled => true,
        _ => false,
    };
    assert!(known, "{name}: {error}");
}

#[test]
fn every_answer_is_its_own_models_and_memory_is_never_more_than_there_is() {
    const THREADS: u64 = 6;
    const REQUESTS: usize = 300;
    let sizes = [("a", 3), ("b", 4), ("c", 5), ("d", 2), ("e", 6), ("f", 1)];
    let scene = scene(&sizes);
    let models = ModelCache::builder(Scripts(scene.clone()), 10)
        .loads(2)
        .patience(Duration::from_micros(300))
        .retry(Duration::ZERO, Duration::ZERO)
        .build()
        .unwrap();
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seat in 0..THREADS {
            let (models, scene, answered) = (&models, &scene, &answered);
            scope.spawn(move || {
                let mut random = Random(seat);
                let mut kept = Vec::new();
                for _ in 0..REQUESTS {
                    let (name, _) = sizes[random.below(sizes.len())];
                    match random.below(12) {
                        0 => drop(models.generate(ask(name))),
                        1 => scene.fault(if random.below(8) == 0 {
                            Fault::Panic
                        } else {
                            Fault::Fail(Error::Cancelled)
                        }),
                        // Unread for as long as it likes: of a model that says when it is done.
                        2 => {
                            let request = ask(name).ignore_eos(true);
                            kept.push((name, models.generate(request)));
                        }
                        3 => {
                            models.pin("f").unwrap();
                            models.unpin("f");
                        }
                        _ => match models.generate(ask(name)).wait() {
                            Ok(answer) => {
                                assert_eq!(answer.text(), name);
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => on_purpose(name, &error),
                        },
                    }
                    if kept.len() > 2 {
                        let (name, stream) = kept.remove(random.below(3));
                        match stream.wait() {
                            Ok(answer) => assert_eq!(answer.text(), name),
                            Err(error) => on_purpose(name, &error),
                        }
                    }
                }
            });
        }
    });
    let stats = models.stats();
    assert_eq!(stats.waiting, 0);
    assert!(
        stats.models.iter().all(|model| model.in_use == 0),
        "{stats:?}"
    );
    assert!(
        stats.hits > 0 && stats.evictions > 0 && stats.failures > 0,
        "{stats:?}"
    );
    assert!(answered.into_inner() > 0);
    // By the models' own count.
    assert!(scene.bytes.lock().1 <= 10, "{:?}", scene.bytes.lock());
    ends(models, &scene);
}

//! Many threads, a store too small for all of them.

use super::*;
use crate::{CacheLayer, MemoryStore, Scope};

#[test]
fn every_answer_is_the_requests_own_and_every_count_adds_up() {
    const THREADS: u64 = 8;
    const REQUESTS: u64 = 500;
    // Some prompts fail, some are cut off: neither may ever come back from the store.
    let inner = Scripted::new(|request| {
        let prompt = format!("{:?}", request.prompt);
        match &request.prompt {
            llmserve_core::Prompt::Tokens(ids) if ids[0] % 7 == 3 => {
                vec![started(), Step::Yield, Step::Fail(Error::ShutDown)]
            }
            llmserve_core::Prompt::Tokens(ids) if ids[0] % 7 == 5 => vec![
                started(),
                token(0, &prompt),
                finished(0, FinishReason::Deadline),
            ],
            _ => says(&prompt),
        }
    });
    let max_bytes = 8_000;
    let cached = CacheLayer::builder(inner.clone())
        .store(MemoryStore::builder().max_bytes(max_bytes).build().unwrap())
        .build()
        .unwrap();
    let bypassed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seat in 0..THREADS {
            let (cached, bypassed) = (&cached, &bypassed);
            scope.spawn(move || {
                let mut random = Random(seat);
                for _ in 0..REQUESTS {
                    let prompt = random.below(40) as u32;
                    let mut request = Request::tokens([prompt]);
                    if random.below(10) == 0 {
                        request = request.temperature(1.0);
                        bypassed.fetch_add(1, Ordering::Relaxed);
                    }
                    let expected = format!("{:?}", request.prompt);
                    let mut stream = cached.generate(request);
                    if random.below(5) == 0 {
                        stream.blocking_next();
                        continue;
                    }
                    match stream.wait() {
                        Ok(answer) => {
                            assert!(answer.text().starts_with(&expected));
                            let cut_off = answer.choices[0].reason == Some(FinishReason::Deadline);
                            assert_eq!(cut_off, prompt % 7 == 5);
                        }
                        Err(error) => {
                            assert_eq!(error, Error::ShutDown);
                            assert_eq!(prompt % 7, 3);
                        }
                    }
                    assert!(cached.stats().store.bytes <= max_bytes);
                }
            });
        }
    });
    let stats = cached.stats();
    assert_eq!(
        stats.hits + stats.joined + stats.misses + stats.bypassed,
        THREADS * REQUESTS
    );
    assert_eq!(stats.bypassed as usize, bypassed.into_inner());
    // Who listened to a run that a deadline ended may have needed another.
    let runs = inner.calls() as u64 - stats.bypassed;
    assert!((stats.misses..=stats.misses + stats.joined).contains(&runs));
    assert_eq!(stats.store_failures, 0);
    assert!(stats.hits > 0 && stats.store.evictions > 0);
    assert!(
        stats.stored >= stats.store.entries as u64 + stats.store.evictions,
        "{stats:?}"
    );
    assert_eq!(inner.live.load(Ordering::SeqCst), 0);
}

#[test]
fn a_million_random_operations_leave_nothing_behind() {
    const OPERATIONS: usize = 1_000_000;
    let inner = Scripted::new(|request| match &request.prompt {
        llmserve_core::Prompt::Tokens(ids) if ids[0] % 11 == 3 => {
            vec![started(), Step::Yield, Step::Fail(Error::Cancelled)]
        }
        llmserve_core::Prompt::Tokens(ids) if ids[0] % 11 == 7 => vec![Step::Panic],
        _ => says("a"),
    });
    // The panics are on purpose, and a hundred thousand backtraces are no help.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !format!("{panic}").contains("on purpose") {
            before(panic);
        }
    }));
    let cached = CacheLayer::builder(inner.clone())
        .store(MemoryStore::builder().max_bytes(8_000).build().unwrap())
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        for seat in 0..4 {
            let cached = &cached;
            scope.spawn(move || {
                let mut random = Random(seat);
                let mut open: Vec<EventStream> = Vec::new();
                for _ in 0..OPERATIONS / 4 {
                    match random.below(8) {
                        // The streams of equal requests are open together, here and elsewhere.
                        0 | 1 if open.len() < 8 => {
                            open.push(cached.generate(Request::tokens([random.below(30) as u32])));
                        }
                        2..=5 if !open.is_empty() => {
                            let place = random.below(open.len());
                            if !matches!(open[place].blocking_next(), Some(Ok(_))) {
                                open.swap_remove(place);
                            }
                        }
                        6 if !open.is_empty() => {
                            open.swap_remove(random.below(open.len()));
                        }
                        7 if random.below(100) == 0 => cached.invalidate(&Scope::All),
                        _ => cached.forget(&Request::tokens([random.below(30) as u32])),
                    }
                }
            });
        }
    });
    let stats = cached.stats();
    assert_eq!(stats.running, 0);
    assert_eq!(inner.live.load(Ordering::SeqCst), 0);
    assert!(stats.store.bytes <= 8_000);
    assert!(
        stats.joined > 1_000 && stats.hits > 1_000 && stats.stored > 1_000,
        "{stats:?}"
    );
    // Nothing but the layer itself holds the service: no stream, no run, no landing.
    inner.seen.lock().clear();
    drop(cached);
    assert_eq!(Arc::strong_count(&inner), 1);
}

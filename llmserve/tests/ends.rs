//! Whoever wants to know when an engine has nothing more to do for a request is told, once, and
//! whether or not anybody reads the answer.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmserve::prelude::*;
use support::{PageModel, Sizes, engine};

fn counting(request: Request, count: &Arc<AtomicUsize>) -> Request {
    let count = count.clone();
    request.on_end(move || {
        count.fetch_add(1, Ordering::SeqCst);
    })
}

/// Waits for the engine's thread.
fn reaches(count: &AtomicUsize, ends: usize) {
    for _ in 0..10_000 {
        if count.load(Ordering::SeqCst) >= ends {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(count.swap(0, Ordering::SeqCst), ends);
}

#[test]
fn every_end_is_told_once() {
    let engine = engine(PageModel::hashing(), Sizes::default());
    let count = Arc::new(AtomicUsize::new(0));
    let told = |request: Request| engine.generate(counting(request, &count));

    // Finished, and never read.
    let unread: Vec<_> = (0..5)
        .map(|i| told(Request::tokens([0, 2 + i]).max_tokens(4).n(2)))
        .collect();
    reaches(&count, 5);
    drop(unread);

    // Refused, at once and after encoding.
    drop(told(Request::tokens([0]).max_tokens(0)));
    reaches(&count, 1);
    let long = told(Request::text("a".repeat(4_000))).wait();
    assert!(matches!(long, Err(Error::PromptTooLong { .. })), "{long:?}");
    reaches(&count, 1);

    // Cancelled.
    drop(told(Request::tokens([0, 5]).ignore_eos(true)));
    reaches(&count, 1);

    // A callback that panics harms nobody, and the others of its request are called.
    let request = Request::tokens([0, 6]).max_tokens(2);
    let request = counting(request.on_end(|| panic!("on purpose")), &count);
    assert!(engine.generate(request).wait().is_ok());
    reaches(&count, 1);
    assert!(
        engine
            .generate(Request::tokens([0, 7]).max_tokens(2))
            .wait()
            .is_ok()
    );
}

#[test]
fn a_shut_down_tells_all() {
    let engine = engine(PageModel::hashing(), Sizes::default());
    let count = Arc::new(AtomicUsize::new(0));
    let streams: Vec<_> = (0..9)
        .map(|i| {
            let request = Request::tokens([0, 2 + i]).ignore_eos(true);
            engine.generate(counting(request, &count))
        })
        .collect();
    engine.shutdown();
    assert_eq!(count.load(Ordering::SeqCst), 9);
    drop(streams);
    drop(engine.generate(counting(Request::tokens([0]), &count)));
    assert_eq!(count.load(Ordering::SeqCst), 10);
}

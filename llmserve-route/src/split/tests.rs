//! Copies that hang, fail, panic and stay at home.

use std::sync::Arc;
use std::sync::mpsc;

use llmserve_core::{
    Error, EventStream, Generate, LogitsContext, LogitsProcessor, Request, Routing,
};
use parking_lot::Mutex;

use super::*;
use crate::tests::{Script, Scripted, Step, fails, says};

/// Tells of each call, and then is another service.
struct Telling<G>(Mutex<mpsc::Sender<Request>>, G);

impl<G: Generate> Generate for Telling<G> {
    fn generate(&self, request: Request) -> EventStream {
        let _ = self.0.lock().send(request.clone());
        self.1.generate(request)
    }
}

fn shadow(
    copy: impl Generate + 'static,
    build: impl Fn(ShadowBuilder) -> ShadowBuilder,
) -> (Shadow, mpsc::Receiver<Request>) {
    let (tell, told) = mpsc::channel();
    let main = Scripted::always(says("main"));
    let builder = Shadow::builder(main, Telling(Mutex::new(tell), copy)).seed(1);
    (build(builder).build().unwrap(), told)
}

/// Waits until it is so: the copies have a thread of their own.
#[track_caller]
fn until(mut so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    panic!("it never was so");
}

#[track_caller]
fn main_answers(service: &Shadow, request: Request) {
    assert_eq!(service.generate(request).wait().unwrap().text(), "main");
}

#[test]
fn whatever_a_copy_does_the_answer_is_the_same() {
    let scripts = [
        (Script::Stream(says("copy")), true),
        (Script::Stream(fails(Error::ShutDown)), false),
        (Script::Stream(vec![Step::Yield, Step::Panic]), false),
        (Script::PanicAtOnce, false),
        (Script::PanicOnDrop(says("copy")), true),
        (Script::Stream(vec![]), false),
    ];
    for (script, finishes) in scripts {
        let told = format!("{script:?}");
        let (service, _) = shadow(Scripted::new(move |_| script.clone()), |b| b);
        for _ in 0..3 {
            main_answers(&service, Request::text(""));
            until(|| service.stats().running == 0);
        }
        let stats = service.stats();
        let expected = if finishes { (3, 0) } else { (0, 3) };
        assert_eq!((stats.finished, stats.failed), expected, "{told}");
        assert_eq!(stats.sent, 3);
    }
}

#[test]
fn copies_that_hang_take_their_places_and_no_more() {
    let hung = Scripted::always(vec![Step::Hang]);
    let (service, told) = shadow(hung.clone(), |b| b.concurrent(2));
    for _ in 0..9 {
        main_answers(&service, Request::text(""));
    }
    let stats = service.stats();
    assert_eq!((stats.sent, stats.running, stats.full), (2, 2, 7));
    until(|| hung.live() == 2);
    assert_eq!(told.try_iter().count(), 2);
    // The last handle takes them along.
    let other = service.clone();
    drop(service);
    assert_eq!(other.stats().running, 2);
    drop(other);
    until(|| hung.live() == 0);
}

#[test]
fn sessions_are_copied_whole_or_not_at_all() {
    let (service, told) = shadow(Scripted::always(says("")), |b| {
        b.fraction(0.25).concurrent(9_999)
    });
    for _ in 0..3 {
        for session in 0..400 {
            let routing = Routing::default().session(session.to_string());
            main_answers(&service, Request::text("").routing(routing));
        }
    }
    until(|| service.stats().running == 0);
    let mut copied = std::collections::BTreeMap::new();
    for request in told.try_iter() {
        *copied.entry(request.routing.session).or_insert(0) += 1;
    }
    assert!((70..130).contains(&copied.len()), "{}", copied.len());
    assert!(copied.values().all(|times| *times == 3));
    let of = |fraction| {
        let (service, _) = shadow(Scripted::always(says("")), |b| {
            b.fraction(fraction).concurrent(9_999)
        });
        (0..200).for_each(|_| main_answers(&service, Request::text("")));
        service.stats().sent
    };
    assert_eq!((of(0.0), of(1.0)), (0, 200));
    assert!((20..80).contains(&of(0.25)));
}

#[test]
fn what_must_not_leave_or_be_run_twice_is_not_copied() {
    struct Counts;
    impl LogitsProcessor for Counts {
        fn process(&self, _: &LogitsContext<'_>, _: &mut [f32]) {}
    }
    let eu = || Request::text("").routing(Routing::default().region("eu").region("uk"));
    let copied = |build: fn(ShadowBuilder) -> ShadowBuilder, request: Request| {
        let (service, _) = shadow(Scripted::always(says("")), build);
        main_answers(&service, request);
        let stats = service.stats();
        (stats.sent, stats.elsewhere, stats.unfit)
    };
    assert_eq!(copied(|b| b, Request::text("")), (1, 0, 0));
    assert_eq!(copied(|b| b, eu()), (0, 1, 0));
    assert_eq!(copied(|b| b.region("us"), eu()), (0, 1, 0));
    assert_eq!(copied(|b| b.region("uk"), eu()), (1, 0, 0));
    assert_eq!(copied(|b| b.heeds_regions(), eu()), (1, 0, 0));
    assert_eq!(
        copied(|b| b, Request::text("").processor(Arc::new(Counts))),
        (0, 0, 1)
    );
    // What is to be called at the answer's end is not called at the copy's.
    let (service, told) = shadow(Scripted::always(says("")), |b| b);
    main_answers(&service, Request::text("").on_end(|| ()));
    assert!(told.recv().unwrap().on_end.is_empty());
}

#[test]
fn what_cannot_be_built() {
    let of = |fraction, concurrent| {
        let service = Scripted::always(vec![]);
        let builder = Shadow::builder(service.clone(), service);
        builder
            .fraction(fraction)
            .concurrent(concurrent)
            .build()
            .err()
    };
    assert_eq!(of(1.5, 1), Some(ShadowError::BadFraction { value: 1.5 }));
    assert!(of(f64::NAN, 1).is_some());
    assert_eq!(of(0.5, 0), Some(ShadowError::NoPlaces));
}

//! Admission in virtual time and over threads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{
    Clock, Error, Event, EventStream, FinishReason, Finished, Generate, MemoryRecorder, Request,
    Started, Timings, Usage,
};
use parking_lot::Mutex;

use super::*;
use crate::timer::ManualTimer;

fn finished() -> Event {
    Event::Finished(Finished {
        index: 0,
        reason: FinishReason::Stop,
        text: String::new(),
        usage: Usage::default(),
        timings: Timings::default(),
    })
}

/// Shared with a stream for as long as it shall not end.
type Open = Arc<Mutex<Option<Waker>>>;

/// Answers when told to.
#[derive(Default)]
struct Held {
    begun: Mutex<Vec<(Request, Open)>>,
    live: Arc<AtomicUsize>,
}

struct HeldStream {
    open: Open,
    /// What is said after the end: nothing.
    done: bool,
    live: Arc<AtomicUsize>,
}

impl Stream for HeldStream {
    type Item = Result<Event, Error>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        // Two owners: nobody has said that it shall end.
        if Arc::strong_count(&self.open) > 1 {
            *self.open.lock() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.done = true;
        Poll::Ready(Some(Ok(finished())))
    }
}

impl Drop for HeldStream {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Generate for Held {
    fn generate(&self, request: Request) -> EventStream {
        let open = Arc::new(Mutex::new(None));
        self.live.fetch_add(1, Ordering::SeqCst);
        self.begun.lock().push((request, open.clone()));
        EventStream::new(HeldStream {
            open,
            done: false,
            live: self.live.clone(),
        })
    }
}

impl Held {
    fn ids(&self) -> Vec<String> {
        let begun = self.begun.lock();
        begun
            .iter()
            .map(|(request, _)| request.id.clone().unwrap())
            .collect()
    }
}

fn timed(
    inner: &Arc<Held>,
    places: usize,
    build: impl Fn(AdmissionBuilder) -> AdmissionBuilder,
) -> (Admission, Arc<ManualTimer>) {
    let timer = Arc::new(ManualTimer::default());
    let builder = Admission::builder(inner.clone(), places).timer(timer.clone());
    (build(builder).build().unwrap(), timer)
}

fn named(id: impl std::fmt::Display) -> Request {
    Request::text("").max_tokens(64).id(id.to_string())
}

/// Finishes all that have begun, reading their streams, as often as some begin; in order.
fn run_dry(held: &Held, streams: &mut Vec<EventStream>) -> Vec<String> {
    let mut order = Vec::new();
    loop {
        let begun: Vec<_> = held.begun.lock().drain(..).collect();
        if begun.is_empty() {
            assert!(streams.is_empty());
            return order;
        }
        order.extend(begun.iter().map(|(request, _)| request.id.clone().unwrap()));
        drop(begun);
        streams.retain_mut(|stream| {
            let mut cx = Context::from_waker(Waker::noop());
            match Pin::new(stream).poll_next(&mut cx) {
                Poll::Ready(Some(Ok(Event::Finished(_)))) => false,
                Poll::Pending => true,
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn classes_share_by_weight_and_a_class_alone_has_all() {
    let held = Arc::default();
    let (service, _) = timed(&held, 2, |builder| {
        builder
            .class(Class::new("a").weight(3))
            .class(Class::new("b").weight(1))
            .classify(|request| usize::from(request.id.as_deref() == Some("b")))
    });
    let mut streams: Vec<_> = (0..400)
        .map(|at| service.generate(named(if at % 2 == 0 { "a" } else { "b" })))
        .collect();
    let stats = service.stats();
    assert_eq!(
        (
            stats.running,
            stats.classes[0].waiting + stats.classes[1].waiting
        ),
        (2, 398)
    );
    let order = run_dry(&held, &mut streams);
    let of_b = |part: &[String]| part.iter().filter(|id| *id == "b").count();
    // While both wait, a quarter is b's; then b has all.
    assert!(
        (50..=70).contains(&of_b(&order[..240])),
        "{}",
        of_b(&order[..240])
    );
    assert_eq!(of_b(&order), 200);
    assert_eq!(service.stats().running, 0);
}

#[test]
fn reserved_places_are_kept() {
    let held: Arc<Held> = Arc::default();
    let (service, _) = timed(&held, 4, |builder| {
        builder
            .class(Class::new("gold").reserved(2))
            .class(Class::new("rest"))
            .classify(|request| usize::from(request.id.as_deref() != Some("gold")))
    });
    let rest: Vec<_> = (0..9).map(|_| service.generate(named("rest"))).collect();
    assert_eq!(service.stats().classes[1].running, 2);
    let _gold: Vec<_> = (0..3).map(|_| service.generate(named("gold"))).collect();
    let stats = service.stats();
    assert_eq!((stats.classes[0].running, stats.classes[1].running), (2, 2));
    // The third takes a place that is nobody's, though others have waited longer: those of
    // the same weight in turn.
    drop(rest);
    let stats = service.stats();
    assert_eq!((stats.classes[0].running, stats.classes[0].waiting), (3, 0));
    assert_eq!((stats.classes[1].running, stats.classes[1].waiting), (0, 0));
}

#[test]
fn whoever_has_waited_long_enough_is_next() {
    let held: Arc<Held> = Arc::default();
    let (service, timer) = timed(&held, 1, |builder| {
        builder
            .class(Class::new("heavy").weight(1_000_000))
            .class(Class::new("light"))
            .classify(|request| usize::from(request.id.as_deref() == Some("light")))
            .promote_after(Duration::from_secs(10))
    });
    let mut running = service.generate(named("first"));
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..5 {
        waiting.push_back(service.generate(named("heavy")));
    }
    // It is heavy's turn, and will be for millions of requests.
    drop(std::mem::replace(
        &mut running,
        waiting.pop_front().unwrap(),
    ));
    let light = service.generate(named("light"));
    let mut turns = 0;
    while held.ids().last().unwrap() != "light" {
        assert!(
            timer.now() <= Duration::from_secs(10),
            "light was passed over"
        );
        timer.advance(Duration::from_secs(1));
        waiting.extend((0..3).map(|_| service.generate(named("heavy"))));
        running = waiting.pop_front().unwrap();
        turns += 1;
    }
    assert_eq!(turns, 10);
    assert_eq!(service.stats().classes[1].promoted, 1);
    drop((running, light));
}

#[test]
fn a_full_queue_refuses_and_says_when() {
    let held: Arc<Held> = Arc::default();
    let (service, timer) = timed(&held, 1, |builder| {
        builder.class(Class::new("only").queue(2))
    });
    let refusal = |service: &Admission| match service.generate(named("x")).wait() {
        Err(Error::Overloaded {
            waiting: 2,
            limit: 2,
            retry_after,
            ..
        }) => retry_after,
        other => panic!("{other:?}"),
    };
    let mut streams: Vec<_> = (0..3).map(|at| service.generate(named(at))).collect();
    assert_eq!(refusal(&service), None);
    for at in 3..9 {
        timer.advance(Duration::from_secs(2));
        drop(streams.remove(0));
        streams.push(service.generate(named(at)));
    }
    // One ends every two seconds, and two wait.
    assert_eq!(refusal(&service), Some(Duration::from_secs(4)));
    drop(streams);
    assert_eq!(
        held.ids(),
        (0..9).map(|at| at.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(held.live.load(Ordering::SeqCst), 0);

    // Nobody may wait, and whoever need not is let in.
    let (service, _) = timed(&held, 1, |builder| {
        builder.class(Class::new("only").queue(0))
    });
    let first = service.generate(named("in"));
    let second = service.generate(named("out")).wait();
    assert!(matches!(second, Err(Error::Overloaded { limit: 0, .. })));
    drop(first);
    assert_eq!(held.ids().last().unwrap(), "in");
}

struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn waiting_ends_with_the_deadline_or_the_classes_patience() {
    let held: Arc<Held> = Arc::default();
    let recorder = Arc::new(MemoryRecorder::default());
    let (service, timer) = timed(&held, 1, |builder| {
        builder
            .class(Class::new("only").max_wait(Duration::from_secs(5)))
            .recorder(recorder.clone())
    });
    let running = service.generate(named("running"));
    let mut patient = service.generate(named("patient"));
    let mut hasty = service.generate(named("hasty").deadline(Duration::from_secs(2)));
    let woken = Arc::new(Counts(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let poll =
        |stream: &mut EventStream| Pin::new(stream).poll_next(&mut Context::from_waker(&waker));
    assert!(poll(&mut patient).is_pending() && poll(&mut hasty).is_pending());
    let timed_out = |poll: Poll<Option<Result<Event, Error>>>, seconds| {
        let limit = Duration::from_secs(seconds);
        let error = Error::TimedOut {
            what: "free place",
            limit,
        };
        assert_eq!(poll, Poll::Ready(Some(Err(error))));
    };
    timer.advance(Duration::from_secs(2));
    assert_eq!(woken.0.swap(0, Ordering::SeqCst), 1);
    timed_out(poll(&mut hasty), 2);
    assert!(poll(&mut patient).is_pending());
    assert_eq!(service.stats().classes[0].waiting, 1);
    timer.advance(Duration::from_secs(3));
    assert_eq!(woken.0.swap(0, Ordering::SeqCst), 1);
    timed_out(poll(&mut patient), 5);
    assert_eq!(
        recorder.value("llmserve_route_admission_gave_up_total"),
        Some(2.0)
    );
    drop(running);
    assert_eq!(held.ids(), ["running"]);
    assert_eq!(timer.next(), None);
}

#[test]
fn waiting_counts_for_deadlines_and_timings() {
    let held: Arc<Held> = Arc::default();
    let (service, timer) = timed(&held, 1, |builder| builder);
    let first = service.generate(named("first"));
    let mut second = service.generate(named("second").deadline(Duration::from_secs(9)));
    timer.advance(Duration::from_secs(4));
    drop(first);
    assert_eq!(
        held.begun.lock()[1].0.deadline,
        Some(Duration::from_secs(5))
    );
    held.begun.lock().clear();
    let Some(Ok(Event::Finished(finished))) = second.blocking_next() else {
        panic!("no end");
    };
    assert_eq!(finished.timings.queue, Duration::from_secs(4));
    assert_eq!(finished.timings.latency, Duration::from_secs(4));
}

#[test]
fn a_place_is_free_when_the_work_is_done_though_nobody_reads() {
    let held: Arc<Held> = Arc::default();
    let (service, _) = timed(&held, 1, |builder| builder);
    let unread = service.generate(named("unread"));
    let next = service.generate(named("next"));
    let third = service.generate(named("third"));
    let ends = held.begun.lock()[0].0.on_end.clone();
    ends.iter().for_each(|ended| ended());
    assert_eq!(held.ids(), ["unread", "next"]);
    // Said again, read and dropped: the place is given back once.
    ends.iter().for_each(|ended| ended());
    drop(unread);
    assert_eq!(held.ids(), ["unread", "next"]);
    drop(next);
    assert_eq!(held.ids(), ["unread", "next", "third"]);
    drop(third);
    assert_eq!(service.stats().running, 0);
}

#[test]
fn answers_that_end_at_once_are_a_loop_and_not_a_tower() {
    /// Holds the first, and answers all others while it is being called.
    struct AtOnce(Held);
    impl Generate for AtOnce {
        fn generate(&self, request: Request) -> EventStream {
            if request.id.as_deref() == Some("first") {
                return self.0.generate(request);
            }
            request.on_end.iter().for_each(|ended| ended());
            EventStream::ready([Ok(finished())])
        }
    }
    let inner = Arc::new(AtOnce(Held::default()));
    let service = Admission::builder(inner.clone(), 1)
        .class(Class::new("only").queue(usize::MAX))
        .build()
        .unwrap();
    let first = service.generate(named("first"));
    let others: Vec<_> = (0..100_000).map(|at| service.generate(named(at))).collect();
    drop(first);
    let stats = service.stats();
    assert_eq!((stats.running, stats.classes[0].waiting), (0, 0));
    for stream in others {
        assert!(stream.wait().is_ok());
    }
}

#[test]
fn panics_stay_with_their_request() {
    struct Panics;
    impl Generate for Panics {
        fn generate(&self, request: Request) -> EventStream {
            match request.id.as_deref() {
                Some("service") => panic!("on purpose"),
                _ => EventStream::ready([Ok(Event::Started(Started::default())), Ok(finished())]),
            }
        }
    }
    let service = Admission::builder(Panics, 1)
        .classify(|request| match request.id.as_deref() {
            Some("classifier") => panic!("on purpose"),
            Some("nowhere") => 7,
            _ => 0,
        })
        .build()
        .unwrap();
    for id in ["service", "classifier", "nowhere"] {
        let answer = service.generate(named(id)).wait();
        assert!(matches!(answer, Err(Error::Panicked { .. })), "{answer:?}");
        assert!(service.generate(named("fine")).wait().is_ok());
    }
    assert_eq!(service.stats().running, 0);

    // A waker that panics when its turn comes.
    struct Bad;
    impl Wake for Bad {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }
    let held: Arc<Held> = Arc::default();
    let (service, _) = timed(&held, 1, |builder| builder);
    let first = service.generate(named("first"));
    let mut second = service.generate(named("second"));
    let waker = Waker::from(Arc::new(Bad));
    assert!(
        Pin::new(&mut second)
            .poll_next(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let third = service.generate(named("third"));
    drop(first);
    drop(second);
    assert_eq!(held.ids(), ["first", "second", "third"]);
    drop(third);
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let held: Arc<Held> = Arc::default();
    let build = |places, classes: &[Class]| {
        let builder = Admission::builder(held.clone(), places);
        let builder = classes
            .iter()
            .cloned()
            .fold(builder, AdmissionBuilder::class);
        builder.build().err()
    };
    use AdmissionError::*;
    let name = || "a".to_owned();
    assert_eq!(build(0, &[]), Some(NoPlaces));
    assert_eq!(build(1, &[Class::new("")]), Some(EmptyName { index: 0 }));
    assert_eq!(
        build(1, &[Class::new("a"), Class::new("a")]),
        Some(DuplicateName { name: name() })
    );
    assert_eq!(
        build(1, &[Class::new("a").weight(0)]),
        Some(NoWeight { name: name() })
    );
    assert_eq!(
        build(3, &[Class::new("b").reserved(3), Class::new("a")]),
        Some(NothingLeft {
            name: name(),
            places: 3
        })
    );
    let over = [
        Class::new("b").reserved(usize::MAX),
        Class::new("a").reserved(1),
    ];
    let reserved = usize::MAX;
    assert_eq!(
        build(3, &over),
        Some(OverReserved {
            reserved,
            places: 3
        })
    );
    assert_eq!(
        build(3, &[Class::new("b").reserved(2), Class::new("a")]),
        None
    );
}

#[test]
fn never_more_than_there_are_places_and_none_is_lost() {
    /// Counts who runs at once; each answer ends when it is polled for the second time.
    #[derive(Default)]
    struct Counted {
        running: Arc<AtomicUsize>,
        most: AtomicUsize,
        total: AtomicUsize,
    }
    struct Twice(usize, Arc<AtomicUsize>);
    impl Stream for Twice {
        type Item = Result<Event, Error>;
        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0 += 1;
            match self.0 {
                1 => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                2 => Poll::Ready(Some(Ok(finished()))),
                _ => Poll::Ready(None),
            }
        }
    }
    impl Drop for Twice {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }
    impl Generate for Counted {
        fn generate(&self, _request: Request) -> EventStream {
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            self.total.fetch_add(1, Ordering::SeqCst);
            EventStream::new(Twice(0, self.running.clone()))
        }
    }
    let inner = Arc::new(Counted::default());
    let service = Admission::builder(inner.clone(), 3)
        .class(Class::new("a").reserved(1).queue(5))
        .class(Class::new("b").weight(7).queue(9))
        .classify(|request| request.priority as usize)
        .build()
        .unwrap();
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (service, answered, refused) = (&service, &answered, &refused);
            scope.spawn(move || {
                for at in 0..500 {
                    let class = (at + thread) % 2;
                    let mut stream = service.generate(named(at).priority(class));
                    if at % 7 == 0 {
                        continue;
                    }
                    if at % 11 == 0 {
                        // Polled once, then left.
                        let mut cx = Context::from_waker(Waker::noop());
                        let _ = Pin::new(&mut stream).poll_next(&mut cx);
                        continue;
                    }
                    match stream.wait() {
                        Ok(_) => answered.fetch_add(1, Ordering::SeqCst),
                        Err(Error::Overloaded { .. }) => refused.fetch_add(1, Ordering::SeqCst),
                        Err(other) => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    let stats = service.stats();
    assert_eq!(
        (stats.running, inner.running.load(Ordering::SeqCst)),
        (0, 0)
    );
    assert!(
        stats
            .classes
            .iter()
            .all(|class| (class.waiting, class.running) == (0, 0))
    );
    let admitted: u64 = stats.classes.iter().map(|class| class.admitted).sum();
    assert_eq!(admitted as usize, inner.total.load(Ordering::SeqCst));
    // A place is given back after the reader has seen the end, and its stream goes later.
    assert!(inner.most.load(Ordering::SeqCst) <= 3 + 8);
    assert!(answered.into_inner() > 1_000, "{refused:?} refused");
}

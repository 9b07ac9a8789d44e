//! Measured in virtual time, and scaled by.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{
    Clock, Error, Event, EventStream, FinishReason, Finished, Generate, MemoryRecorder, Request,
    Started, Time, Timings, Usage,
};

use super::*;
use crate::scale::{Autoscaler, Horizontal, Reason, RouterTarget, SignalGauges};
use crate::tests::{Script, Scripted, Step, fails, finished, overloaded, says, started};
use crate::{ManualTimer, Replica};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Answers in virtual time; whoever reads looks again by itself.
#[derive(Clone)]
struct Slow {
    timer: Arc<ManualTimer>,
    first: Duration,
    whole: Duration,
}

struct Slowly {
    of: Slow,
    began: Time,
    started: bool,
    ended: bool,
}

impl Generate for Slow {
    fn generate(&self, _: Request) -> EventStream {
        EventStream::new(Slowly {
            of: self.clone(),
            began: self.timer.now(),
            started: false,
            ended: false,
        })
    }
}

impl Stream for Slowly {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let been = self.of.timer.now() - self.began;
        if !self.started && been >= self.of.first {
            self.started = true;
            return Poll::Ready(Some(Ok(Event::Started(Started::default()))));
        }
        if been < self.of.whole {
            return Poll::Pending;
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Event::Finished(Finished {
            index: 0,
            reason: FinishReason::Length,
            text: String::new(),
            usage: Usage::default(),
            timings: Timings::default(),
        }))))
    }
}

/// A service that is scaled by what is measured of it, a tenth of a second at a time.
struct World {
    timer: Arc<ManualTimer>,
    router: Router,
    meter: Meter,
    service: Measured,
    scaler: Autoscaler,
    open: Vec<EventStream>,
    refused: usize,
}

const STEP: Duration = millis(100);

impl World {
    /// Of replicas that do four requests at once, each in 2 s.
    fn new(horizontal: Horizontal) -> Self {
        let timer = Arc::new(ManualTimer::default());
        let slow = Slow {
            timer: timer.clone(),
            first: millis(200),
            whole: millis(2_000),
        };
        let router = Router::builder()
            .allow_empty(true)
            .timer(timer.clone())
            .seed(1)
            .build()
            .unwrap();
        let meter = Meter::new(router.clone(), Duration::from_secs(30)).unwrap();
        let target = RouterTarget::new(router.clone(), "e", move |name| {
            Ok(Replica::new(name, slow.clone()).capacity(4))
        });
        let scaler = Autoscaler::builder(target).horizontal(horizontal);
        Self {
            service: meter.measure(router.clone()),
            scaler: scaler.build().unwrap(),
            timer,
            router,
            meter,
            open: Vec::new(),
            refused: 0,
        }
    }

    fn replicas(&self) -> usize {
        self.meter.signals().replicas
    }

    /// A request every so many steps, until `end` seconds; none for 0. What the ticks decided.
    fn run(&mut self, until: u64, every: u64) -> Vec<Reason> {
        let mut reasons = Vec::new();
        while self.timer.now() < Duration::from_secs(until) {
            let step = (self.timer.now().as_millis() / STEP.as_millis()) as u64;
            if step.checked_rem(every) == Some(0) {
                self.open.push(self.service.generate(Request::text("")));
            }
            self.timer.advance(STEP);
            let cx = &mut Context::from_waker(Waker::noop());
            let refused = &mut self.refused;
            self.open.retain_mut(|stream| {
                loop {
                    match Pin::new(&mut *stream).poll_next(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(_))) => *refused += 1,
                        Poll::Ready(None) => return false,
                        Poll::Pending => return true,
                    }
                }
            });
            if self.timer.now().as_millis().is_multiple_of(15_000) {
                let signals = self.meter.signals();
                self.scaler.observe(signals);
                let tick = self.scaler.tick(signals.at).unwrap();
                reasons.push(tick.decision.reason);
            }
        }
        reasons
    }
}

#[test]
fn a_router_grows_under_load_and_shrinks_when_it_has_long_been_gone() {
    let mut world = World::new(Horizontal::default().between(1, 20));
    world.scaler.tick(Duration::ZERO).unwrap();
    world.run(120, 10);
    assert_eq!((world.replicas(), world.refused), (1, 0));
    // Twenty at a time where four find room.
    let reasons = world.run(240, 1);
    assert!(reasons.contains(&Reason::Utilization), "{reasons:?}");
    let grown = world.replicas();
    assert!((7..=9).contains(&grown), "{grown}");
    assert!(world.refused > 0, "one was too few");
    world.refused = 0;
    world.run(600, 1);
    assert_eq!((world.replicas(), world.refused), (grown, 0));
    let signals = world.meter.signals();
    let near = |told: Option<f64>, expected: f64| (told.unwrap() / expected - 1.0).abs() < 0.02;
    assert!(near(signals.demand, 10.0), "{signals:?}");
    assert!(near(signals.queue, 2.0), "{signals:?}");
    assert!(
        near(signals.utilization, 20.0 / (4 * grown) as f64),
        "{signals:?}"
    );
    assert!(
        (millis(200)..millis(213)).contains(&signals.p95.unwrap()),
        "{signals:?}"
    );
    // A tenth of it: nothing happens for five minutes, then one goes a minute, and nobody loses
    // an answer by that.
    let reasons = world.run(885, 10);
    assert_eq!(world.replicas(), grown);
    assert_eq!(reasons.last(), Some(&Reason::Stabilizing));
    world.run(1_080, 10);
    assert!(
        (2..grown).contains(&world.replicas()),
        "{}",
        world.replicas()
    );
    world.run(1_800, 10);
    assert_eq!((world.replicas(), world.refused), (1, 0));
    assert_eq!(world.router.fleet().len(), 1, "drained and removed");
}

#[test]
fn from_none_to_one_and_back() {
    let mut world = World::new(Horizontal::default().between(0, 4));
    world.run(60, 0);
    assert_eq!(world.replicas(), 0);
    // Who comes in vain is what there is to go by.
    world.run(75, 20);
    assert!(world.refused > 0 && world.replicas() > 0);
    world.refused = 0;
    world.run(300, 20);
    assert_eq!(world.refused, 0);
    world.run(1_200, 0);
    assert_eq!((world.replicas(), world.open.len()), (0, 0));
}

#[test]
fn however_a_request_ends_it_counts_no_longer() {
    let timer = Arc::new(ManualTimer::default());
    let router = Router::builder()
        .replica(Replica::new("a", Scripted::always(says(""))))
        .timer(timer.clone())
        .build()
        .unwrap();
    let meter = Meter::new(router, Duration::from_secs(60)).unwrap();
    let now = |meter: &Meter| {
        let told = meter.shared.window.lock().told(timer.now());
        (told.waiting, told.in_flight, told.turned_away)
    };
    let scripts = [
        says("whole"),
        fails(Error::ShutDown),
        fails(overloaded()),
        vec![started()],
        vec![],
        vec![started(), Step::Fail(Error::ShutDown)],
        vec![started(), finished(0), Step::Fail(Error::ShutDown)],
    ];
    for (at, steps) in scripts.into_iter().enumerate() {
        let service = meter.measure(Scripted::always(steps));
        let _ = service.generate(Request::text("")).wait();
        assert_eq!(now(&meter).1, 0.0, "script {at}");
    }
    assert_eq!(now(&meter), (0.0, 0.0, 1));
    // Two choices end with the second; a stream that is dropped ends at once, answering or not.
    let service = meter.measure(Scripted::always(vec![
        started(),
        finished(0),
        finished(1),
        Step::Hang,
    ]));
    let mut stream = service.generate(Request::text("").n(2));
    for left in [1.0, 1.0, 0.0] {
        stream.blocking_next();
        assert_eq!(now(&meter).1, left);
    }
    let hung = meter.measure(Scripted::always(vec![started(), Step::Hang]));
    let (mut one, two) = (
        hung.generate(Request::text("")),
        hung.generate(Request::text("")),
    );
    assert_eq!(now(&meter), (2.0, 2.0, 1));
    one.blocking_next();
    assert_eq!(now(&meter), (1.0, 2.0, 1));
    drop((one, two));
    assert_eq!(now(&meter), (0.0, 0.0, 1));
    // And one that panics before there is a stream.
    let panics = meter.measure(Scripted::new(|_| Script::PanicAtOnce));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(panics.generate(Request::text("")));
    }));
    assert!(panicked.is_err());
    assert_eq!(now(&meter), (0.0, 0.0, 1));
    assert_eq!(meter.signals().demand, None, "no time has passed");
    timer.advance(Duration::from_secs(11));
    assert_eq!(meter.signals().demand, Some(1.0));
}

#[test]
fn counts_return_to_nothing_however_many_threads_ask() {
    let router = Router::builder()
        .replica(Replica::new("a", Scripted::always(says("yes"))).capacity(1_000))
        .build()
        .unwrap();
    let meter = Meter::new(router.clone(), Duration::from_secs(60)).unwrap();
    let service = meter.measure(router.clone());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let service = &service;
            scope.spawn(move || {
                for request in 0..500 {
                    let stream = service.generate(Request::text(""));
                    if (thread + request) % 3 > 0 {
                        assert_eq!(stream.wait().unwrap().text(), "yes");
                    }
                }
            });
        }
    });
    let told = meter.shared.window.lock().told(router.now());
    let demand = told.demand.unwrap() * router.now().as_secs_f64();
    assert!(demand > 1_900.0, "{told:?}");
    let later = router.now() + Duration::from_secs(1_000);
    let told = meter.shared.window.lock().told(later);
    assert_eq!((told.waiting, told.in_flight, told.p95), (0.0, 0.0, None));
}

#[test]
fn what_is_not_known_is_no_number_and_no_old_one() {
    let timer = Arc::new(ManualTimer::default());
    let router = Router::builder()
        .replica(Replica::new("a", Scripted::always(says(""))))
        .timer(timer.clone())
        .build()
        .unwrap();
    let meter = Meter::new(router.clone(), Duration::from_secs(60)).unwrap();
    meter
        .measure(router)
        .generate(Request::text(""))
        .wait()
        .unwrap();
    let recorder = MemoryRecorder::default();
    let gauges = SignalGauges::new(&recorder, "chat");
    let value = |name: &str| {
        recorder
            .value(&format!("llmserve_route_scale_{name}"))
            .unwrap()
    };
    timer.advance(Duration::from_secs(1));
    gauges.set(&meter.signals());
    assert!(value("first_token_p95_seconds") < 0.001);
    assert!(value("utilization").is_nan(), "nobody said what it can do");
    timer.advance(Duration::from_secs(100));
    gauges.set(&meter.signals());
    assert!(value("first_token_p95_seconds").is_nan());
    assert_eq!((value("demand"), value("queue")), (0.0, 0.0));
    assert!(
        Meter::new(
            Router::builder().allow_empty(true).build().unwrap(),
            Duration::ZERO
        )
        .is_err()
    );
}

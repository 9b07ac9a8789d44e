//! Health checks that find what no request has met.

use std::sync::atomic::AtomicBool;

use llmserve_core::Clock;

use super::*;
use crate::health::{BreakerConfig, BreakerState, Breakers, HealthChecks};
use crate::{ManualTimer, Replica};

const EVERY: Duration = Duration::from_secs(10);

fn checks() -> HealthChecks {
    HealthChecks::default()
        .interval(EVERY)
        .unhealthy_threshold(1)
        .jitter(0.0)
}

/// Waits for another thread.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A server that is up or not, for requests and for probes.
struct Server {
    up: Arc<AtomicBool>,
    service: Arc<Scripted>,
    probes: Arc<AtomicUsize>,
}

fn server(name: &'static str) -> Server {
    let up = Arc::new(AtomicBool::new(true));
    let seen = up.clone();
    Server {
        service: Scripted::new(move |_| {
            Script::Stream(match seen.load(Ordering::SeqCst) {
                true => says(name),
                false => fails(Error::ShutDown),
            })
        }),
        up,
        probes: Arc::default(),
    }
}

impl Server {
    fn replica(&self, name: &str) -> Replica {
        let (up, probes) = (self.up.clone(), self.probes.clone());
        Replica::new(name, self.service.clone()).probe(move |_| {
            probes.fetch_add(1, Ordering::SeqCst);
            let well = up.load(Ordering::SeqCst);
            async move { if well { Ok(()) } else { Err(Error::ShutDown) } }
        })
    }

    fn set(&self, up: bool) {
        self.up.store(up, Ordering::SeqCst);
    }

    fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }
}

#[test]
fn an_idle_replica_that_dies_is_found_and_taken_back_and_no_request_pays() {
    let timer = Arc::new(ManualTimer::default());
    let breakers = Breakers::new(BreakerConfig::default()).unwrap();
    let (a, b) = (server("a"), server("b"));
    let router = Router::builder()
        .replicas([a.replica("a"), b.replica("b")])
        .strategy(First)
        .availability(breakers.clone())
        .timer(timer.clone())
        .health_checks(checks())
        .build()
        .unwrap();
    let state = |name| breakers.state(name, timer.now()).unwrap();
    let ask = || {
        let answer = router.generate(Request::text("")).wait().unwrap();
        answer.text().to_owned()
    };
    eventually("both are asked at once", || {
        a.probes() == 1 && b.probes() == 1 && timer.next() == Some(EVERY)
    });
    a.set(false);
    timer.advance(EVERY);
    eventually("a is found out", || state("a") != BreakerState::Closed);
    assert_eq!(state("a"), BreakerState::Open { until: None });
    assert_eq!((ask().as_str(), a.service.calls()), ("b", 0));
    // However long it takes, no request is tried on it.
    timer.advance(Duration::from_secs(100_000));
    assert_eq!((ask().as_str(), a.service.calls()), ("b", 0));
    eventually("it has rested", || timer.next().is_some());
    a.set(true);
    timer.advance(EVERY);
    eventually("a is taken back", || state("a") == BreakerState::Closed);
    assert_eq!(ask(), "a");
    assert_eq!(router.stats().replicas[0].failed, 0);
}

#[test]
fn a_replica_that_looks_well_and_fails_stays_with_its_breaker() {
    let timer = Arc::new(ManualTimer::default());
    let breakers = Breakers::new(BreakerConfig::default().consecutive(2)).unwrap();
    let probes = Arc::new(AtomicUsize::new(0));
    let seen = probes.clone();
    let broken = Scripted::always(fails(Error::ShutDown));
    let replica = Replica::new("a", broken.clone()).probe(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    let router = Router::builder()
        .replica(replica)
        .availability(breakers.clone())
        .timer(timer.clone())
        .health_checks(checks().interval(Duration::from_secs(1)))
        .build()
        .unwrap();
    for _ in 0..2 {
        assert!(router.generate(Request::text("")).wait().is_err());
    }
    let open = BreakerState::Open {
        until: Some(Duration::from_secs(5)),
    };
    assert_eq!(breakers.state("a", timer.now()), Some(open));
    for round in 1..=3 {
        eventually("asked and done", || {
            probes.load(Ordering::SeqCst) == round
                && timer.next() == Some(Duration::from_secs(round as u64))
        });
        timer.advance(Duration::from_secs(1));
    }
    assert_eq!(breakers.state("a", timer.now()), Some(open));
    assert_eq!(broken.calls(), 2);
}

#[test]
fn removal_ends_probes_and_the_routers_drop_ends_the_thread() {
    let timer = Arc::new(ManualTimer::default());
    let a = server("a");
    let router = Router::builder()
        .allow_empty(true)
        .timer(timer.clone())
        .health_checks(checks())
        .build()
        .unwrap();
    router.add(a.replica("a")).unwrap();
    let unchecked = Replica::new("b", Scripted::always(says("b")));
    router.add(unchecked).unwrap();
    eventually("asked", || a.probes() == 1 && timer.next() == Some(EVERY));
    router.remove("a").unwrap();
    eventually("forgotten", || {
        timer.next().is_none() && Arc::strong_count(&a.probes) == 1
    });
    // Its successor of the same name is asked anew, by a probe that never answers.
    let alive = Arc::new(());
    let held = alive.clone();
    router
        .add(
            Replica::new("a", Scripted::always(says("a"))).probe(move |_| {
                let held = held.clone();
                async move {
                    std::future::pending::<()>().await;
                    drop(held);
                    Ok(())
                }
            }),
        )
        .unwrap();
    eventually("asking", || Arc::strong_count(&alive) == 3);
    let other = router.clone();
    drop(router);
    assert_eq!(Arc::strong_count(&alive), 3, "a router is left");
    drop(other);
    eventually("the thread has ended", || Arc::strong_count(&alive) == 1);
    assert_eq!(timer.next(), None);
}

#[test]
fn a_stream_outlives_the_router_and_its_checks_go_on_until_then() {
    let hung = Replica::new("a", Scripted::always(vec![started(), Step::Hang]));
    let alive = Arc::new(());
    let held = alive.clone();
    let router = Router::builder()
        .replica(hung.probe(move |_| {
            let _held = &held;
            async { Ok(()) }
        }))
        .health_checks(checks())
        .build()
        .unwrap();
    let stream = router.generate(Request::text(""));
    drop(router);
    assert!(Arc::strong_count(&alive) > 1);
    drop(stream);
    eventually("all has ended", || Arc::strong_count(&alive) == 1);
}

#[test]
fn checks_that_cannot_be_are_an_error() {
    let built = Router::builder()
        .allow_empty(true)
        .health_checks(checks().timeout(Duration::ZERO))
        .build();
    let error = built.unwrap_err().to_string();
    assert_eq!(error, "health checks: timeout is 0: it must be longer");
}

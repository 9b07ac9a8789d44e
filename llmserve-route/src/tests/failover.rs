//! Who is asked next, and when nobody is.

use std::task::Waker;

use llmserve_core::ModelError;

use super::*;
use crate::Replica;

fn pair(first: Arc<Scripted>, second: Arc<Scripted>) -> Router {
    Router::builder()
        .replica(Replica::new("first", first))
        .replica(Replica::new("second", second))
        .strategy(First)
        .build()
        .unwrap()
}

#[test]
fn the_replicas_own_errors_go_to_the_next() {
    let scripts = [
        Script::Stream(fails(overloaded())),
        Script::Stream(fails(Error::ShutDown)),
        Script::Stream(fails(Error::Model(ModelError::Backend("gone".into())))),
        Script::Stream(vec![Step::Panic]),
        Script::PanicAtOnce,
    ];
    for script in scripts {
        let told = format!("{script:?}");
        let first = Scripted::new(move |_| script.clone());
        let second = Scripted::always(says("second"));
        let router = pair(first.clone(), second.clone());
        let answer = router.generate(Request::text("")).wait();
        assert_eq!(answer.unwrap().text(), "second", "{told}");
        assert_eq!((first.calls(), second.calls()), (1, 1), "{told}");
        let stats = router.stats();
        assert_eq!((stats.replicas[0].failed, stats.replicas[1].failed), (1, 0));
        assert_idle(&router);
    }
}

#[test]
fn the_requests_own_errors_end_it() {
    for error in [
        Error::InvalidRequest {
            field: "n",
            reason: "0".into(),
        },
        Error::PromptTooLong {
            tokens: 9,
            limit: 8,
            limited_by: "context".into(),
        },
        Error::Cancelled,
    ] {
        let first = Scripted::always(fails(error.clone()));
        let second = Scripted::always(says("second"));
        let router = pair(first, second.clone());
        assert_eq!(router.generate(Request::text("")).wait(), Err(error));
        assert_eq!(second.calls(), 0);
        assert_eq!(router.stats().replicas[0].failed, 0);
        assert_idle(&router);
    }
}

#[test]
fn after_the_first_event_an_error_is_passed_on() {
    for last in [Step::Fail(Error::ShutDown), Step::Panic] {
        let first = Scripted::always(vec![started(), token("half"), last]);
        let second = Scripted::always(says("second"));
        let router = pair(first, second.clone());
        let mut stream = router.generate(Request::text(""));
        assert!(matches!(
            stream.blocking_next(),
            Some(Ok(Event::Started(_)))
        ));
        assert!(matches!(stream.blocking_next(), Some(Ok(Event::Token(_)))));
        assert!(matches!(
            stream.blocking_next(),
            Some(Err(Error::ShutDown | Error::Panicked { .. }))
        ));
        assert!(stream.blocking_next().is_none());
        assert_eq!(second.calls(), 0);
        assert_eq!(router.stats().replicas[0].failed, 1);
        assert_idle(&router);
    }
}

#[test]
fn nobody_is_asked_twice_and_the_last_error_is_told() {
    for max_attempts in 1..=5 {
        let errors = [
            overloaded(),
            Error::ShutDown,
            Error::Model(ModelError::Backend("third".into())),
        ];
        let replicas = errors.clone().map(|error| Scripted::always(fails(error)));
        let router = Router::builder()
            .replicas(
                (replicas.iter().enumerate())
                    .map(|(i, r)| Replica::new(format!("r{i}"), r.clone()).model("m")),
            )
            .replica(Replica::new("other model", Scripted::always(says("no"))).model("other"))
            .strategy(First)
            .max_attempts(max_attempts)
            .build()
            .unwrap();
        let asked = max_attempts.min(3);
        let answer = router.generate(Request::text("").model("m")).wait();
        assert_eq!(answer, Err(errors[asked - 1].clone()));
        let calls: Vec<_> = replicas.iter().map(|r| r.calls()).collect();
        assert_eq!(calls, [1, usize::from(asked > 1), usize::from(asked > 2)]);
        assert_idle(&router);
    }
}

#[test]
fn failover_happens_in_the_stream() {
    let second = Scripted::always(says("second"));
    let router = pair(Scripted::always(fails(Error::ShutDown)), second.clone());
    let mut stream = router.generate(Request::text(""));
    assert_eq!(second.calls(), 0);
    let mut cx = Context::from_waker(Waker::noop());
    // The first replica is not ready yet; then it fails, and the second starts in the same poll.
    assert!(Pin::new(&mut stream).poll_next(&mut cx).is_pending());
    assert_eq!(second.calls(), 0);
    let item = Pin::new(&mut stream).poll_next(&mut cx);
    assert!(matches!(item, Poll::Ready(Some(Ok(Event::Started(_))))));
    assert_eq!(second.calls(), 1);
}

#[test]
fn a_strategy_sees_only_the_untried_and_may_give_up() {
    /// Declines or panics when only one is left.
    struct Picky {
        panics: bool,
    }
    impl Strategy for Picky {
        fn pick(&self, _: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
            assert!(!(self.panics && candidates.len() == 1), "on purpose");
            // What failed is no longer counted.
            assert!(
                candidates
                    .iter()
                    .all(|slot| candidates.outstanding(slot) == 0)
            );
            let last = candidates.nth(candidates.len() - 1);
            last.filter(|_| candidates.len() > 1)
        }
    }
    for panics in [false, true] {
        let replicas: Vec<_> = (0..3)
            .map(|_| Scripted::always(fails(overloaded())))
            .collect();
        let router = Router::builder()
            .replicas(
                (replicas.iter().enumerate())
                    .map(|(i, r)| Replica::new(format!("r{i}"), r.clone())),
            )
            .strategy(Picky { panics })
            .build()
            .unwrap();
        let error = router.generate(Request::text("")).wait().unwrap_err();
        if panics {
            assert!(matches!(
                error,
                Error::Panicked {
                    part: "routing strategy",
                    ..
                }
            ));
        } else {
            assert_eq!(error, overloaded());
        }
        let calls: Vec<_> = replicas.iter().map(|r| r.calls()).collect();
        assert_eq!(calls, [0, 1, 1]);
        assert_idle(&router);
    }
}

#[test]
fn deadline_and_timings_hold_from_the_call() {
    let clock = Arc::new(crate::ManualTimer::default());
    let first = {
        let clock = clock.clone();
        Scripted::new(move |_| {
            clock.advance(Duration::from_millis(30));
            Script::Stream(fails(Error::ShutDown))
        })
    };
    let second = Scripted::always(says("second"));
    let router = Router::builder()
        .replica(Replica::new("first", first.clone()))
        .replica(Replica::new("second", second.clone()))
        .strategy(First)
        .timer(clock)
        .build()
        .unwrap();
    for (deadline, left) in [(None, None), (Some(100), Some(70)), (Some(20), Some(0))] {
        let mut request = Request::text("");
        request.deadline = deadline.map(Duration::from_millis);
        let answer = router.generate(request.clone()).wait().unwrap();
        let timings = answer.choices[0].timings;
        assert_eq!(timings.queue, Duration::from_millis(31));
        assert_eq!(timings.time_to_first_token, Duration::from_millis(32));
        assert_eq!(timings.latency, Duration::from_millis(33));
        let last = |r: &Scripted| r.seen.lock().last().unwrap().deadline;
        assert_eq!(last(&first), request.deadline);
        assert_eq!(last(&second), left.map(Duration::from_millis));
    }
}

#[test]
fn every_replica_gets_the_whole_request() {
    let first = Scripted::always(fails(Error::ShutDown));
    let second = Scripted::always(vec![started(), finished(1), finished(0)]);
    let router = pair(first.clone(), second.clone());
    let request = Request::text("prompt")
        .id("7")
        .seed(3)
        .n(2)
        .stop("x")
        .tenant("t");
    router.generate(request.clone()).wait().unwrap();
    for replica in [first, second] {
        let seen = replica.seen.lock();
        assert_eq!(seen[0].prompt, request.prompt);
        assert_eq!(seen[0].sampling, request.sampling);
        assert_eq!(format!("{:?}", seen[0]), format!("{request:?}"));
        assert_eq!(
            (&seen[0].tenant, &seen[0].stop),
            (&request.tenant, &request.stop)
        );
    }
}

/// Tells at once that it has nothing more to do for the request, as an engine that refuses does.
struct Refuses(Scripted);

impl Generate for Refuses {
    fn generate(&self, request: Request) -> EventStream {
        let on_end = request.on_end.clone();
        let stream = self.0.generate(request);
        on_end.iter().for_each(|end| end());
        stream
    }
}

#[test]
fn an_attempts_end_is_not_the_requests_while_another_may_follow() {
    let refusing = |replicas: usize| {
        let steps = fails(Error::ShutDown);
        let scripted = Scripted {
            author: Box::new(move |_| Script::Stream(steps.clone())),
            seen: Mutex::default(),
            live: Arc::default(),
        };
        let mut router = Router::builder().replica(Replica::new("first", Refuses(scripted)));
        if replicas > 1 {
            router = router.replica(Replica::new("second", Scripted::always(says("second"))));
        }
        router.strategy(First).build().unwrap()
    };
    for (replicas, ended_at_once) in [(2, 0), (1, 1)] {
        let ended = Arc::new(AtomicUsize::new(0));
        let counted = ended.clone();
        let mut request = Request::text("");
        request.on_end.push(Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }));
        let router = refusing(replicas);
        let stream = router.generate(request);
        assert_eq!(ended.load(Ordering::SeqCst), ended_at_once, "of {replicas}");
        assert_eq!(stream.wait().is_ok(), replicas == 2);
        assert_idle(&router);
    }
}

#[test]
fn one_model_that_does_not_load_takes_no_other_away() {
    let timer = Arc::new(crate::ManualTimer::default());
    let failed = |model: &str| Error::LoadFailed {
        model: model.to_owned(),
        reason: "broken".to_owned(),
        retry_after: None,
    };
    let replica = Scripted::new(move |request| match request.model.as_deref() {
        Some("broken") => Script::Stream(fails(failed("broken"))),
        _ => Script::Stream(says("well")),
    });
    let router = Router::builder()
        .replica(Replica::new("only", replica))
        .timer(timer)
        .availability(
            crate::health::Breakers::new(crate::health::BreakerConfig::default()).unwrap(),
        )
        .build()
        .unwrap();
    for _ in 0..30 {
        let broken = router.generate(Request::text("").model("broken")).wait();
        assert!(
            matches!(broken, Err(Error::LoadFailed { .. })),
            "{broken:?}"
        );
    }
    let well = router.generate(Request::text("").model("well")).wait();
    assert_eq!(well.unwrap().text(), "well");
}

#[test]
fn who_is_better_not_asked_first_is_asked_next() {
    let timer = Arc::new(crate::ManualTimer::default());
    let first = Scripted::always(vec![Step::Hang]);
    let second = Scripted::new(|_| Script::Stream(fails(Error::ShutDown)));
    let router = Router::builder()
        .replica(Replica::new("silent", first.clone()))
        .replica(Replica::new("ill", second.clone()))
        .strategy(First)
        .timer(timer.clone())
        .timeouts(crate::reliability::Timeouts::default().avoid_after(Duration::from_millis(100)))
        .build()
        .unwrap();
    let waiting: Vec<_> = [0, 90]
        .map(|at| {
            timer.advance(Duration::from_millis(at));
            router.generate(Request::text(""))
        })
        .into();
    timer.advance(Duration::from_millis(40));
    let mut stream = router.generate(Request::text(""));
    assert_eq!(
        (first.calls(), second.calls()),
        (2, 1),
        "the silent one is avoided"
    );
    let mut cx = Context::from_waker(Waker::noop());
    while first.calls() == 2 {
        assert!(Pin::new(&mut stream).poll_next(&mut cx).is_pending());
        timer.advance(Duration::from_millis(10));
    }
    drop((waiting, stream));
    assert_idle(&router);
}

//! Building, filtering, counting, nesting.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::{BuildError, LeastLoaded, Replica, RoundRobin, estimated_tokens};

#[test]
fn build_checks_every_part() {
    let replica = |name: &str| Replica::new(name, Scripted::always(says("")));
    let err = |builder: crate::RouterBuilder| builder.build().err();
    assert_eq!(err(Router::builder()), Some(BuildError::NoReplicas));
    assert_eq!(
        err(Router::builder().replica(replica("a")).replica(replica(""))),
        Some(BuildError::EmptyName { index: 1 })
    );
    assert_eq!(
        err(Router::builder().replicas([replica("a"), replica("b"), replica("a")])),
        Some(BuildError::DuplicateName { name: "a".into() })
    );
    assert_eq!(
        err(Router::builder().replica(replica("a").models([""; 0]))),
        Some(BuildError::NoModels { name: "a".into() })
    );
    assert_eq!(
        err(Router::builder().replica(replica("a").model("m").model(""))),
        Some(BuildError::EmptyModel { name: "a".into() })
    );
    assert_eq!(
        err(Router::builder().replica(replica("a")).max_attempts(0)),
        Some(BuildError::NoAttempts)
    );
    let many = Router::builder().replica(replica("a")).max_attempts(99);
    assert!(many.build().is_ok());
}

#[test]
fn only_replicas_that_serve_the_model_are_asked() {
    let small = Scripted::always(says("small"));
    let both = Scripted::always(says("both"));
    let router = Router::builder()
        .replica(Replica::new("s", small.clone()).model("small"))
        // Unsorted and doubled on purpose.
        .replica(
            Replica::new("b", both.clone()).models(["small", "zzz", "large", "large", "small"]),
        )
        .strategy(RoundRobin::new())
        .build()
        .unwrap();
    for _ in 0..4 {
        let request = Request::text("").model("large");
        assert_eq!(router.generate(request).wait().unwrap().text(), "both");
    }
    for _ in 0..4 {
        let request = Request::text("").model("small");
        router.generate(request).wait().unwrap();
    }
    assert_eq!((small.calls(), both.calls()), (2, 6));
    assert_eq!(
        router.generate(Request::text("").model("Small")).wait(),
        Err(Error::UnknownModel {
            name: "Small".into(),
            known: "large, small, zzz".into()
        })
    );
    // No model named: anybody.
    for _ in 0..4 {
        router.generate(Request::text("")).wait().unwrap();
    }
    assert_eq!((small.calls(), both.calls()), (4, 8));
    assert_idle(&router);
}

#[test]
fn a_replica_without_a_list_serves_any_model() {
    let router = Router::builder()
        .replica(Replica::new("listed", Scripted::always(says("listed"))).model("m"))
        .replica(Replica::new("any", Scripted::always(says("any"))))
        .build()
        .unwrap();
    let answer = router.generate(Request::text("").model("unheard")).wait();
    assert_eq!(answer.unwrap().text(), "any");
}

#[test]
fn candidates_show_what_the_router_knows() {
    type Seen = (String, usize, u64, u64, Option<usize>);
    struct Watching(Arc<Mutex<Vec<Seen>>>);
    impl Strategy for Watching {
        fn pick(&self, _: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
            let seen = candidates.iter().filter_map(|slot| candidates.get(slot));
            self.0.lock().extend(seen.map(|c| {
                (
                    format!("{}{}", c.info.name, c.slot.index()),
                    c.outstanding,
                    c.outstanding_tokens,
                    c.dispatched,
                    c.info.models.as_ref().map(Vec::len),
                )
            }));
            candidates.nth(0)
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let router = Router::builder()
        .replica(Replica::new("a", Scripted::always(vec![Step::Hang])).models(["n", "m", "n"]))
        .replica(Replica::new("b", Scripted::always(vec![Step::Hang])))
        .strategy(Watching(log.clone()))
        .build()
        .unwrap();
    let request = Request::tokens([1, 2, 3]).max_tokens(7);
    let first = router.generate(request.clone());
    let second = router.generate(request.clone().model("other"));
    drop(first);
    let third = router.generate(request.model("m"));
    let entry = |name: &str, outstanding, tokens, dispatched, models| {
        (name.to_owned(), outstanding, tokens, dispatched, models)
    };
    assert_eq!(
        *log.lock(),
        [
            entry("a0", 0, 0, 0, Some(2)),
            entry("b1", 0, 0, 0, None),
            entry("b1", 0, 0, 0, None),
            entry("a0", 0, 0, 1, Some(2)),
            entry("b1", 1, 10, 1, None),
        ]
    );
    drop((second, third));
    assert_idle(&router);
}

#[test]
fn the_count_is_given_back_on_every_way_out() {
    let finish_two = vec![started(), finished(0), finished(1), Step::Hang];
    let replica = Scripted::new(move |request| match &request.prompt {
        llmserve_core::Prompt::Text(text) => match text.as_str() {
            "end" => Script::Stream(says("")),
            "two" => Script::Stream(finish_two.clone()),
            "error" => Script::Stream(vec![started(), Step::Fail(Error::ShutDown)]),
            "panic" => Script::Stream(vec![started(), Step::Panic]),
            "at once" => Script::PanicAtOnce,
            "on drop" => Script::PanicOnDrop(vec![started(), Step::Hang]),
            _ => Script::Stream(vec![started(), Step::Hang]),
        },
        _ => Script::Stream(Vec::new()),
    });
    let router = Router::builder()
        .replica(Replica::new("r", replica.clone()))
        .build()
        .unwrap();
    let outstanding = || router.stats().outstanding();

    // End, with the stream still in hand.
    let mut stream = router.generate(Request::text("end"));
    assert_eq!(outstanding(), 1);
    assert_eq!(
        router.stats().replicas[0].outstanding_tokens,
        estimated_tokens(&Request::text("end"))
    );
    assert_eq!((&mut stream).into_iter().count(), 3);
    assert_eq!((outstanding(), replica.live()), (0, 0));

    // Every choice finished, though the reader never comes back for the end.
    let mut stream = router.generate(Request::text("two").n(2));
    assert_eq!((&mut stream).into_iter().take(2).count(), 2);
    assert_eq!(outstanding(), 1);
    assert!(stream.blocking_next().is_some());
    assert_eq!(outstanding(), 0);
    drop(stream);

    // Error and panic, with the stream still in hand.
    for prompt in ["error", "panic"] {
        let mut stream = router.generate(Request::text(prompt));
        assert!(stream.blocking_next().unwrap().is_ok());
        assert_eq!(outstanding(), 1);
        assert!(stream.blocking_next().unwrap().is_err());
        assert_eq!((outstanding(), replica.live()), (0, 0), "{prompt}");
        assert!(stream.blocking_next().is_none());
    }
    let error = router.generate(Request::text("at once")).wait();
    assert!(matches!(
        error,
        Err(Error::Panicked {
            part: "replica",
            ..
        })
    ));
    assert_eq!(outstanding(), 0);

    // Drop before the first poll, in the middle, and while the reader unwinds.
    drop(router.generate(Request::text("hang")));
    let mut stream = router.generate(Request::text("hang"));
    stream.blocking_next();
    drop(stream);
    let stream = router.generate(Request::text("hang"));
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _held = stream;
        panic!("reader, on purpose");
    }));
    assert!(unwound.is_err());
    // A stream that panics in its own drop does not take the reader along.
    drop(router.generate(Request::text("on drop")));
    assert_eq!((outstanding(), replica.live()), (0, 0));
    assert_idle(&router);
}

#[test]
fn streams_outlive_the_router() {
    let router = Router::builder()
        .replica(Replica::new("bad", Scripted::always(fails(overloaded()))))
        .replica(Replica::new("good", Scripted::always(says("still here"))))
        .strategy(First)
        .build()
        .unwrap();
    let stream = router.generate(Request::text(""));
    drop(router);
    assert_eq!(stream.wait().unwrap().text(), "still here");
}

#[test]
fn least_loaded_follows_the_outstanding_requests() {
    let replicas: Vec<_> = (0..3).map(|_| Scripted::always(vec![Step::Hang])).collect();
    let router = Router::builder()
        .replicas(
            (replicas.iter().enumerate()).map(|(i, r)| Replica::new(format!("r{i}"), r.clone())),
        )
        .strategy(LeastLoaded::new())
        .build()
        .unwrap();
    let mut streams: Vec<_> = (0..9).map(|_| router.generate(Request::text(""))).collect();
    let outstanding = || -> Vec<usize> {
        let stats = router.stats();
        stats.replicas.iter().map(|r| r.outstanding).collect()
    };
    assert_eq!(outstanding(), [3, 3, 3]);
    // Whoever gets free gets the next.
    streams.remove(4);
    assert_eq!(outstanding(), [3, 2, 3]);
    streams.push(router.generate(Request::text("")));
    assert_eq!(outstanding(), [3, 3, 3]);
    drop(streams);
    assert_idle(&router);
}

#[test]
fn a_strategy_that_panics_or_errs_disturbs_its_own_request_only() {
    /// Panics, errs or declines as the prompt says.
    struct Moody;
    impl Strategy for Moody {
        fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
            match ask.request.id.as_deref() {
                Some("panic") => panic!("strategy, on purpose"),
                Some("err") => Some(Slot::new(0, 7)),
                Some("decline") => None,
                _ => candidates.nth(0),
            }
        }
    }
    let router = Router::builder()
        .replica(Replica::new("a", Scripted::always(says("fine"))))
        .strategy(Moody)
        .build()
        .unwrap();
    let running = router.generate(Request::text(""));
    let with = |id: &str| router.generate(Request::text("").id(id)).wait();
    assert_eq!(
        with("panic"),
        Err(Error::Panicked {
            part: "routing strategy",
            message: "strategy, on purpose".into()
        })
    );
    assert_eq!(
        with("err"),
        Err(Error::Panicked {
            part: "routing strategy",
            message: "picked Slot { index: 0, generation: 7 }, which is none of the 1 candidates"
                .into()
        })
    );
    assert_eq!(
        with("decline"),
        Err(Error::Overloaded {
            waiting: 1,
            limit: 1,
            unit: "requests",
            retry_after: None
        })
    );
    assert_eq!(running.wait().unwrap().text(), "fine");
    assert_eq!(router.stats().replicas[0].dispatched, 1);
    assert_idle(&router);
}

#[test]
fn routers_nest_and_each_counts_its_own() {
    let leaf = |steps: Vec<Step>| Scripted::always(steps);
    let inner_of = |steps: [Vec<Step>; 2]| {
        let [a, b] = steps.map(leaf);
        Router::builder()
            .replica(Replica::new("a", a).model("m"))
            .replica(Replica::new("b", b).model("m"))
            .strategy(First)
            .build()
            .unwrap()
    };
    let dead = inner_of([fails(Error::ShutDown), fails(overloaded())]);
    let alive = inner_of([
        fails(overloaded()),
        says("second rack of the second region"),
    ]);
    let outer = Router::builder()
        .replica(Replica::new("dead", dead.clone()).model("m"))
        .replica(Replica::new("alive", alive.clone()).model("m"))
        .strategy(First)
        .build()
        .unwrap();
    let stream = outer.generate(Request::text("").model("m"));
    assert_eq!(outer.stats().outstanding(), 1);
    assert_eq!(dead.stats().outstanding(), 1);
    assert_eq!(
        stream.wait().unwrap().text(),
        "second rack of the second region"
    );
    for router in [&outer, &dead, &alive] {
        let stats = router.stats();
        let dispatched: Vec<_> = stats.replicas.iter().map(|r| r.dispatched).collect();
        assert_eq!(dispatched, [1, 1]);
        assert_idle(router);
    }
    assert_eq!(outer.stats().replicas[0].failed, 1);
    assert_eq!(dead.stats().replicas[1].failed, 1);
}

#[test]
fn replicas_cloned_into_two_routers_are_counted_apart() {
    let replica = Replica::new("r", Scripted::always(vec![Step::Hang]));
    let one = Router::builder().replica(replica.clone()).build().unwrap();
    let two = Router::builder().replica(replica).build().unwrap();
    let _stream = one.generate(Request::text(""));
    assert_eq!(
        (one.stats().outstanding(), two.stats().outstanding()),
        (1, 0)
    );
}

//! Coming, draining and going while requests run.

use super::*;
use crate::{
    Answering, BuildError, LeastLoaded, Outcome, Replica, ReplicaInfo, RoundRobin, UnknownReplica,
};

fn hanging(name: &str) -> Replica {
    Replica::new(name, Scripted::always(vec![started(), Step::Hang]))
}

fn names(router: &Router) -> Vec<String> {
    let stats = router.stats();
    stats.replicas.into_iter().map(|r| r.name).collect()
}

#[test]
fn replicas_come_and_go() {
    let router = Router::builder().allow_empty(true).build().unwrap();
    let nobody = router.generate(Request::text("").model("m")).wait();
    assert_eq!(
        nobody,
        Err(Error::NoReplica {
            reason: "there are no replicas".into(),
            retry_after: None
        })
    );
    let says = |name: &str| Replica::new(name, Scripted::always(says(name)));
    let a = router.add(says("a").model("m")).unwrap();
    let b = router.add(says("b").model("m")).unwrap();
    assert_eq!(
        router.add(says("a")),
        Err(BuildError::DuplicateName { name: "a".into() })
    );
    assert_eq!(
        router.add(says("")),
        Err(BuildError::EmptyName { index: 2 })
    );
    let ask = || {
        router
            .generate(Request::text("").model("m"))
            .wait()
            .unwrap()
    };
    let (first, second) = (ask().text().to_owned(), ask().text().to_owned());
    assert_eq!((first.as_str(), second.as_str()), ("a", "b"));

    router.remove("a").unwrap();
    assert_eq!(
        router.remove("a"),
        Err(UnknownReplica {
            name: "a".into(),
            known: "b".into()
        })
    );
    assert!((0..3).all(|_| ask().text() == "b"));
    // The slot is taken again, by somebody else.
    let c = router.add(says("c").model("m")).unwrap();
    assert_eq!((c.index(), b.index()), (a.index(), 1));
    assert_ne!(c, a);
    let fleet = router.fleet();
    assert!(fleet.replica(a).is_none());
    assert_eq!(fleet.find("c"), Some(c));
    assert_eq!(names(&router), ["c", "b"]);
}

#[test]
fn a_drained_replica_finishes_and_gets_nothing_new() {
    let router = Router::builder()
        .replicas([hanging("a"), hanging("b")])
        .build()
        .unwrap();
    let mut first = router.generate(Request::text(""));
    assert!(first.blocking_next().unwrap().is_ok());
    router.drain("a").unwrap();
    let _more: Vec<_> = (0..3).map(|_| router.generate(Request::text(""))).collect();
    let stats = router.stats();
    assert_eq!(stats.replicas[0].outstanding, 1);
    assert!(stats.replicas[0].draining && !stats.replicas[1].draining);
    assert_eq!(stats.replicas[1].outstanding, 3);
    router.drain("b").unwrap();
    assert_eq!(
        router.generate(Request::text("")).wait(),
        Err(Error::NoReplica {
            reason: "of 2: 2 draining".into(),
            retry_after: None
        })
    );
    router.undrain("a").unwrap();
    let _taken = router.generate(Request::text(""));
    drop(first);
    assert_eq!(router.stats().replicas[0].outstanding, 1);
    assert!(router.drain("nobody").is_err());
}

#[test]
fn what_ends_late_is_not_charged_to_the_next_in_the_slot() {
    let router = Router::builder()
        .replicas([hanging("a"), hanging("b")])
        .build()
        .unwrap();
    let mut late = router.generate(Request::text(""));
    assert!(late.blocking_next().unwrap().is_ok());
    router.remove("a").unwrap();
    assert_eq!(names(&router), ["b"]);
    router.add(hanging("c")).unwrap();
    let _new = router.generate(Request::text(""));
    assert_eq!(router.stats().replicas[0].outstanding, 1);
    drop(late);
    assert_eq!(router.stats().replicas[0].outstanding, 1);
}

/// Writes down what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Strategy for Told {
    fn pick(&self, _: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        candidates.nth(0)
    }
    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        self.0
            .lock()
            .push(format!("{} in {}", info.name, slot.index()));
    }
    fn left(&self, slot: Slot) {
        self.0.lock().push(format!("left {}", slot.index()));
    }
    fn dispatched(&self, ask: &Ask<'_>, slot: Slot) -> u64 {
        self.0.lock().push(format!("to {}", slot.index()));
        ask.tokens
    }
    fn answering(&self, slot: Slot, answering: &Answering) {
        self.0
            .lock()
            .push(format!("{} answers {}", slot.index(), answering.credit));
    }
    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        let end = format!("{:?}", outcome.end);
        let end = end.split('(').next().unwrap_or_default().to_owned();
        let line = format!("{} {end} {}", slot.index(), outcome.credit);
        self.0.lock().push(line);
    }
}

#[test]
fn a_strategy_is_told_everything_in_order() {
    let told = Arc::new(Told::default());
    let router = Router::builder()
        .replica(Replica::new("a", Scripted::always(fails(overloaded()))))
        .replica(Replica::new("b", Scripted::always(says("b"))))
        .strategy(told.clone())
        .build()
        .unwrap();
    let request = Request::tokens([1, 2]).max_tokens(3);
    router.generate(request.clone()).wait().unwrap();
    drop(router.generate(request.clone()));
    let kept = router.generate(request);
    router.remove("a").unwrap();
    drop(kept);
    assert_eq!(
        *told.0.lock(),
        [
            "a in 0",
            "b in 1",
            "to 0",
            "0 Failed 5",
            "to 1",
            "1 answers 5",
            "1 Finished 5",
            "to 0",
            "0 Abandoned 5",
            "to 0",
            "left 0"
        ]
    );
}

#[test]
fn hooks_that_panic_disturb_nobody_else() {
    struct Panicky;
    impl Strategy for Panicky {
        fn pick(&self, _: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
            candidates.nth(0)
        }
        fn prepare(&self, request: &Request) -> crate::Prepared {
            assert_ne!(request.id.as_deref(), Some("prepare"), "on purpose");
            crate::Prepared::default()
        }
        fn joined(&self, _: Slot, _: &ReplicaInfo) {
            panic!("joined, on purpose");
        }
        fn left(&self, _: Slot) {
            panic!("left, on purpose");
        }
        fn dispatched(&self, ask: &Ask<'_>, _: Slot) -> u64 {
            assert_ne!(ask.request.id.as_deref(), Some("dispatched"), "on purpose");
            0
        }
        fn answering(&self, _: Slot, _: &Answering) {
            panic!("answering, on purpose");
        }
        fn ended(&self, _: Slot, _: &Outcome<'_>) {
            panic!("ended, on purpose");
        }
    }
    let router = Router::builder()
        .replica(Replica::new("a", Scripted::always(says("fine"))))
        .strategy(Panicky)
        .build()
        .unwrap();
    assert_eq!(
        router.generate(Request::text("")).wait().unwrap().text(),
        "fine"
    );
    for id in ["prepare", "dispatched"] {
        let error = router.generate(Request::text("").id(id)).wait();
        assert!(matches!(
            error,
            Err(Error::Panicked {
                part: "routing strategy",
                ..
            })
        ));
        assert_idle(&router);
    }
    assert_eq!(router.stats().replicas[0].dispatched, 1);
    router.remove("a").unwrap();
}

#[test]
fn capacity_holds_exactly_under_threads() {
    let router = Router::builder()
        .replicas(["a", "b"].map(|name| hanging(name).capacity(3)))
        .strategy(RoundRobin::new())
        .build()
        .unwrap();
    let streams = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let mut stream = router.generate(Request::text(""));
                    if stream.blocking_next().unwrap().is_ok() {
                        streams.lock().push(stream);
                    }
                }
            });
        }
    });
    let mut streams = streams.into_inner();
    assert_eq!(streams.len(), 6);
    assert_eq!(
        router.generate(Request::text("")).wait(),
        Err(Error::NoReplica {
            reason: "of 2: 2 at capacity".into(),
            retry_after: None
        })
    );
    streams.pop();
    streams.push(router.generate(Request::text("")));
    assert_eq!(router.stats().outstanding(), 6);
    drop(streams);
    assert_idle(&router);
}

#[test]
fn a_hundred_thousand_acquires_over_two_replicas_stay_even_and_return_to_zero() {
    let strategies: [Box<dyn Strategy>; 3] = [
        Box::new(LeastLoaded::new()),
        Box::new(RoundRobin::new()),
        Box::new(crate::PowerOfTwo::seeded(5)),
    ];
    for strategy in strategies {
        let router = Router::builder()
            .replicas(["a", "b"].map(hanging))
            .strategy(strategy)
            .build()
            .unwrap();
        let held = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let request = Request::tokens([1]);
                    let prepared = router.prepare(&request).unwrap();
                    let mut mine = VecDeque::new();
                    // Every other one is given back on the way, oldest first.
                    for turn in 0..50_000 {
                        mine.push_back(router.assign(&request, &prepared, &[]).unwrap());
                        if turn % 2 == 1 {
                            mine.pop_front();
                        }
                    }
                    held.lock().extend(mine);
                });
            }
        });
        let outstanding: Vec<_> = router
            .stats()
            .replicas
            .iter()
            .map(|r| r.outstanding)
            .collect();
        assert_eq!(outstanding.iter().sum::<usize>(), 100_000);
        assert!(
            outstanding[0].abs_diff(outstanding[1]) < 4_000,
            "{outstanding:?}"
        );
        drop(held);
        assert_idle(&router);
    }
}

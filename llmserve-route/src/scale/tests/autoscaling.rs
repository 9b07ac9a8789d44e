//! Targets that follow.

use std::sync::Arc;

use llmserve_core::{Generate, MemoryRecorder, Request};
use parking_lot::Mutex;

use super::*;
use crate::tests::{Scripted, Step, says};
use crate::{Replica, Router};

/// A router whose replicas never end what they begin.
fn hanging(router: &Router) -> RouterTarget {
    let hung = Scripted::always(vec![Step::Hang]);
    RouterTarget::new(router.clone(), "e", move |_| {
        Ok(Replica::new("?", hung.clone()).capacity(2))
    })
}

#[test]
fn replicas_come_drain_and_are_taken_back() {
    let router = Router::builder()
        .replica(Replica::new("mine", Scripted::always(says(""))).weight(0))
        .strategy(crate::Weighted::new())
        .build()
        .unwrap();
    let target = hanging(&router);
    let names = || -> Vec<_> {
        let replicas = router.stats().replicas.into_iter();
        replicas
            .map(|r| (r.name, r.outstanding, r.draining))
            .collect()
    };
    let of = |name: &str, outstanding, draining| (name.to_owned(), outstanding, draining);
    target.scale_to(3).unwrap();
    let busy: Vec<_> = (0..2).map(|_| router.generate(Request::text(""))).collect();
    let mine = of("mine", 0, false);
    assert_eq!(
        names(),
        [
            mine.clone(),
            of("e-1", 1, false),
            of("e-2", 1, false),
            of("e-3", 0, false)
        ]
    );
    // The idle one goes at once, the youngest of equals when it has ended.
    target.scale_to(1).unwrap();
    assert_eq!(target.current(), 1);
    assert_eq!(
        names(),
        [mine.clone(), of("e-1", 1, false), of("e-2", 1, true)]
    );
    // Taken back before another is begun.
    target.scale_to(3).unwrap();
    assert_eq!(
        names(),
        [
            mine.clone(),
            of("e-1", 1, false),
            of("e-2", 1, false),
            of("e-4", 0, false)
        ]
    );
    target.scale_to(0).unwrap();
    drop(busy);
    assert_eq!((target.current(), names()), (0, vec![mine]));
    // What somebody else removed is not counted.
    target.scale_to(2).unwrap();
    router.remove("e-5").unwrap();
    assert_eq!(target.current(), 1);
}

#[test]
fn what_does_not_start_is_told_and_tried_again() {
    let router = Router::builder().allow_empty(true).build().unwrap();
    let starts: Arc<Mutex<u32>> = Arc::default();
    let target = RouterTarget::new(router.clone(), "e", move |name| {
        let mut starts = starts.lock();
        *starts += 1;
        match *starts {
            2 => Err("no memory".into()),
            3 => panic!("on purpose"),
            _ => Ok(Replica::new(name, Scripted::always(says("")))),
        }
    });
    let error = target.scale_to(2).unwrap_err();
    assert_eq!((error.wanted, error.current), (2, 1));
    assert!(error.message.contains("no memory"), "{error}");
    assert!(
        target
            .scale_to(2)
            .unwrap_err()
            .message
            .contains("on purpose")
    );
    target.scale_to(2).unwrap();
    assert_eq!(router.fleet().len(), 2);
}

#[test]
fn an_autoscaler_follows_what_is_measured_and_expected() {
    let recorder = Arc::new(MemoryRecorder::default());
    let router = Router::builder().allow_empty(true).build().unwrap();
    let start = 4 * 604_800;
    let scaler = Autoscaler::builder(hanging(&router))
        .horizontal(
            Horizontal::default()
                .between(1, 80)
                .steps(80, 80)
                .cooldowns(at(30), at(30)),
        )
        .predictive(Predictive::new(10.0).unwrap().lead(at(3_600)))
        .history(weeks(4, 0.0))
        .recorder(recorder.clone(), "chat")
        .build()
        .unwrap();
    // Midnight on a Monday: 140 requests a second times 1.2.
    let first = scaler.tick(at(start + 30)).unwrap();
    assert_eq!(
        (first.current, first.decision.reason),
        (0, Reason::Forecast)
    );
    assert!((16..=18).contains(&first.decision.replicas), "{first:?}");
    assert_eq!(router.fleet().len(), first.decision.replicas);
    assert_eq!(first.forecast.unwrap().basis, Basis::Weeks(4));
    // More is measured than was expected; and not twice in thirty seconds.
    let held: Vec<_> = (0..34)
        .map(|_| router.generate(Request::text("")))
        .collect();
    let full = Signals::of(&router, at(start + 31));
    assert!(full.utilization.unwrap() > 0.9, "{full:?}");
    scaler.observe(full.demand(140.0));
    assert_eq!(
        scaler.tick(at(start + 31)).unwrap().decision.reason,
        Reason::Cooldown
    );
    let second = scaler.tick(at(start + 60)).unwrap();
    assert_eq!(second.decision.reason, Reason::Utilization);
    assert!(second.decision.replicas > first.decision.replicas);
    drop(held);
    for (gauge, value) in [
        (
            "llmserve_route_scale_replicas",
            first.decision.replicas as f64,
        ),
        (
            "llmserve_route_scale_desired_replicas",
            second.decision.replicas as f64,
        ),
        ("llmserve_route_scale_demand", 140.0),
    ] {
        assert_eq!(recorder.value(gauge), Some(value), "{gauge}");
    }
    assert!(
        recorder
            .render()
            .contains("llmserve_route_scale_forecast{service=\"chat\"} 1")
    );
    // Eight weeks are remembered, and can be taken along.
    assert_eq!(scaler.history().len(), 4 * 168 + 1);
    for hour in 0..2_000 {
        scaler.observe(Signals::new(at(start + hour * 3_600), 1).demand(1.0));
    }
    assert_eq!(scaler.history().len(), 8 * 168);
}

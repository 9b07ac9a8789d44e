//! Many threads, every way out at once.

use std::thread;

use super::*;
use crate::{LeastLoaded, Replica, RoundRobin};

fn shaken(strategy: impl Strategy + 'static) {
    const THREADS: usize = 8;
    const REQUESTS: usize = 400;
    let turn = Arc::new(AtomicUsize::new(0));
    let replicas: Vec<_> = (0..4)
        .map(|_| {
            let turn = turn.clone();
            Scripted::new(move |_| match turn.fetch_add(1, Ordering::Relaxed) % 11 {
                0 => Script::Stream(fails(overloaded())),
                1 => Script::Stream(vec![started(), Step::Yield, Step::Fail(Error::ShutDown)]),
                2 => Script::Stream(fails(Error::NothingToSample { position: 0 })),
                3 => Script::PanicOnDrop(says("panics on drop")),
                _ => Script::Stream(says("well")),
            })
        })
        .collect();
    let router = Router::builder()
        .replicas(replicas.iter().enumerate().map(|(i, r)| {
            let replica = Replica::new(format!("r{i}"), r.clone());
            if i % 2 == 0 {
                replica.model("even")
            } else {
                replica
            }
        }))
        .strategy(strategy)
        .build()
        .unwrap();
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seat in 0..THREADS {
            let (router, answered) = (&router, &answered);
            scope.spawn(move || {
                // Kept for a while, so that streams of one thread overlap.
                let mut kept = VecDeque::new();
                for round in 0..REQUESTS {
                    let mut request = Request::text("stress");
                    request.model = (round % 3 == 0).then(|| "even".into());
                    let mut stream = router.generate(request);
                    match (seat + round) % 4 {
                        0 => drop(stream),
                        1 => {
                            stream.blocking_next();
                            kept.push_back(stream);
                        }
                        _ => {
                            if stream.wait().is_ok() {
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    if kept.len() > 5 {
                        kept.pop_front();
                    }
                }
            });
        }
    });
    assert_idle(&router);
    let stats = router.stats();
    for (replica, stats) in replicas.iter().zip(&stats.replicas) {
        assert_eq!(replica.live(), 0);
        assert_eq!(replica.calls() as u64, stats.dispatched);
        assert!(stats.dispatched > 0);
    }
    let dispatched: u64 = stats.replicas.iter().map(|r| r.dispatched).sum();
    assert!(dispatched >= (THREADS * REQUESTS) as u64);
    assert!(answered.load(Ordering::Relaxed) > 0);
}

#[test]
fn every_counter_returns_to_zero_with_least_loaded() {
    shaken(LeastLoaded::new());
}

#[test]
fn every_counter_returns_to_zero_with_round_robin() {
    shaken(RoundRobin::new());
}

#[test]
fn a_stream_read_by_another_thread_fails_over_there() {
    let router = Router::builder()
        .replica(Replica::new("bad", Scripted::always(fails(overloaded()))))
        .replica(Replica::new("good", Scripted::always(says("there"))))
        .strategy(First)
        .build()
        .unwrap();
    let stream = router.generate(Request::text(""));
    let answer = thread::spawn(move || stream.wait()).join().unwrap();
    assert_eq!(answer.unwrap().text(), "there");
    assert_idle(&router);
}
